"""The clip stream under faults: broken files, decoders that hang or crash, dying workers, servers that fail."""

import os
import re
import signal
import sys
import time
from itertools import count
from multiprocessing import active_children, get_context
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
from datasets import load_dataset
from faulty_server import serving
from transformers import TrainerCallback
from videos import write_tar, write_video

from transformers_vjepa import (
    ClipSampling,
    Decoding,
    StreamPosition,
    StreamShare,
    VJEPAConfig,
    VJEPAForPreTraining,
    VJEPATrainer,
    VJEPATrainingArguments,
    clip_stream,
)
from transformers_vjepa.data import remote_reading, streaming
from transformers_vjepa.data.clip_loader import ClipLoader, WorkersLostError
from transformers_vjepa.data.clip_reading import TooManyBrokenVideosError
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.file_corpus import FileCorpus
from transformers_vjepa.data.lanes import record_cursors
from transformers_vjepa.models.vjepa import decoding
from transformers_vjepa.models.vjepa.pyav_reader import PyAVReader

CONFIG = VJEPAConfig(
    crop_size=32,
    patch_size=8,
    frames_per_clip=4,
    hidden_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    pred_hidden_size=12,
    pred_num_hidden_layers=1,
    pred_num_attention_heads=2,
)
SAMPLING = ClipSampling(num_frames=4, frame_step=2)
NUM_VIDEOS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Ten videos of different brightness."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        write_video(root / f"{number}.mp4", level=20 * number + 20)
    return root


@pytest.fixture
def own_folder(folder, tmp_path) -> Path:
    """The same videos, to be spoilt."""
    root = tmp_path / "videos"
    root.mkdir()
    for path in folder.iterdir():
        (root / path.name).symlink_to(path)
    return root


def batches_of(
    source,
    number,
    *,
    start=0,
    cursors=None,
    position=None,
    num_workers=2,
    batch_size=3,
    max_broken_share=0.05,
    decode_timeout=60,
    **kwargs,
):
    """The first batches of a stream through a ClipLoader."""
    position = StreamPosition() if position is None else position
    stream = clip_stream(
        source,
        config=CONFIG,
        sampling=SAMPLING,
        position=position,
        share=StreamShare(num_workers=num_workers, batch_size=batch_size),
        decoding=Decoding(max_broken_share=max_broken_share, timeout=decode_timeout),
        **kwargs,
    )
    position.seek(start, cursors=cursors)
    loader = ClipLoader(stream, position=position, num_workers=num_workers, batch_size=batch_size)
    batches = iter(loader)
    try:
        return [next(batches) for _ in range(number)]
    finally:
        loader.close()


def names(batches):
    return [Path(path).name for batch in batches for path in batch["path"]]


def assert_same(batches, expected):
    assert names(batches) == names(expected)
    for batch, other in zip(batches, expected, strict=True):
        for key in ("pixel_values_videos", "clip_seed", "label", "num_skipped"):
            assert torch.equal(batch[key], other[key]), key


def streamed_tars(root):
    files = sorted(str(path) for path in root.glob("*.tar"))
    return load_dataset("webdataset", data_files={"train": files}, split="train", streaming=True)


@pytest.fixture(scope="module")
def tars(folder, tmp_path_factory) -> Path:
    """The videos in two tars."""
    root = tmp_path_factory.mktemp("tars")
    files = sorted(folder.iterdir())
    for shard in range(2):
        write_tar(root / f"{shard}.tar", {path.name: path.read_bytes() for path in files[shard::2]})
    return root


# Broken files


def spoil(path, how):
    path.unlink()
    if how == "no bytes":
        path.touch()
    elif how == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif how == "FIFO":
        os.mkfifo(path)
    elif how == "cut off":
        path.write_bytes(write_video(path.with_suffix(".mov"), level=50).read_bytes()[:600])
        path.with_suffix(".mov").unlink()
    else:
        assert how == "no frames"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
            container.start_encoding()


BROKEN = ["no bytes", "no frames", "noise", "cut off", "FIFO"]


@pytest.mark.parametrize("how", BROKEN)
def test_one_broken_video_in_ten_is_named_and_replaced(own_folder, caplog, how):
    spoil(own_folder / "7.mp4", how)
    batches = batches_of(str(own_folder), 8, num_workers=0, max_broken_share=0.2)
    assert set(names(batches)) == {f"{n}.mp4" for n in range(NUM_VIDEOS) if n != 7}
    skipped = sum(batch["num_skipped"].sum().item() for batch in batches)
    assert skipped >= 2  # 24 positions
    # PyAV before 18 also hands on what FFmpeg says.
    messages = [record.getMessage() for record in caplog.records if not record.name.startswith("libav")]
    assert len(messages) == skipped
    assert all(f"skipped a broken video: {own_folder / '7.mp4'} (" in message for message in messages)
    assert_same(batches_of(str(own_folder), 4, max_broken_share=0.2), batches[:4])


def test_a_share_of_broken_videos_above_the_bound_ends_the_run(own_folder):
    spoil(own_folder / "7.mp4", "no bytes")
    with pytest.raises(TooManyBrokenVideosError, match=r"more than max_broken_share=5.0%.*7.mp4.*Repair or drop them"):
        batches_of(str(own_folder), 300)


def test_a_truncated_tar_is_refused_at_the_start(tars, tmp_path):
    data = (tars / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(data[: len(data) // 3])
    with pytest.raises(ValueError, match="0.tar is truncated inside '.*': copy the tar again"):
        clip_stream(str(tmp_path), config=CONFIG, sampling=SAMPLING)


# Videos that hang or crash their process


@pytest.fixture
def read_frames(monkeypatch):
    """Has `streaming.read_frames` call a function first, with the clip."""
    original = streaming.read_frames

    def replace(before):
        monkeypatch.setattr(streaming, "read_frames", lambda clip, **kw: (before(clip), original(clip, **kw))[1])

    return replace


def is_marked(clip):
    return "7.mp4" in clip.path


def sleep_at_marked(clip):
    time.sleep(1000 if is_marked(clip) else 0)


def crash_at_marked(clip):
    if is_marked(clip):
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize("kind", ["folder", "streamed tars"])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (sleep_at_marked, "took longer than decode_timeout"),
        (crash_at_marked, r"crashed its process \(SIGSEGV\)|was killed by SIGSEGV"),
    ],
)
def test_a_video_that_ends_its_worker_is_skipped_from_then_on(folder, tars, read_frames, caplog, kind, fault, reason):
    source = str(folder) if kind == "folder" else streamed_tars(tars)
    settings = {"max_broken_share": 0.5, "shuffle_buffer": 3}
    read_frames(fault)
    position = StreamPosition()
    # Much longer than a video takes, even on a busy machine.
    batches = batches_of(source, 8, position=position, decode_timeout=10, **settings)
    (name,) = position.unreadable
    assert "7.mp4" in name and "7.mp4" not in names(batches)
    (restart,) = [record for record in caplog.records if "continuing from batch" in record.getMessage()]
    assert "7.mp4" in restart.getMessage()
    has_traceback = any("in sleep_at_marked" in record.getMessage() for record in caplog.records)
    assert has_traceback == (fault is sleep_at_marked)
    # All is as if it had been a broken file, which is what the counter says, too.
    read_frames(lambda clip: None)
    known = StreamPosition(unreadable={name: "known before"})
    assert_same(batches, batches_of(source, 8, position=known, num_workers=2, **settings))
    assert sum(batch["num_skipped"].sum().item() for batch in batches) >= 2


def test_without_workers_a_slow_video_is_only_warned_of(folder, read_frames, caplog):
    read_frames(lambda clip: time.sleep(1.0 if is_marked(clip) else 0))
    batches = batches_of(str(folder), 4, num_workers=0, decode_timeout=0.5)
    assert "7.mp4" in names(batches)
    messages = [record.getMessage() for record in caplog.records]
    assert any("7.mp4 has taken longer than decode_timeout=0.5 s" in message for message in messages)


def test_without_a_time_out_nothing_is_watched(folder, read_frames, caplog):
    read_frames(lambda clip: time.sleep(0.2 if is_marked(clip) else 0))
    for num_workers in (0, 1):
        batches = batches_of(str(folder), 4, num_workers=num_workers, decode_timeout=0)
        assert "7.mp4" in names(batches)
    assert not caplog.records


def test_a_video_that_makes_the_system_kill_its_worker_is_named(folder, read_frames):
    # Not skipped: the memory may have been taken by anything.
    read_frames(lambda clip: os.kill(os.getpid(), signal.SIGKILL) if is_marked(clip) else None)
    with pytest.raises(WorkersLostError, match=r"died 4 times in a row.* killed by SIGKILL while reading .*7\.mp4"):
        batches_of(str(folder), 10)


# Workers that die while a model trains


class KillWorker(TrainerCallback):
    """Kills one of the loader's workers after some of the steps."""

    def __init__(self, *steps):
        self.steps, self.killed = steps, 0

    def on_step_end(self, args, state, control, train_dataloader=None, **kwargs):
        if state.global_step in self.steps:
            children = sorted(active_children(), key=lambda child: child.pid)
            pid = children[state.global_step % len(children)].pid
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            self.killed += 1


def train(source, output_dir, *callbacks, max_steps=8):
    position = StreamPosition()
    arguments = VJEPATrainingArguments(
        str(output_dir),
        per_device_train_batch_size=3,
        dataloader_num_workers=2,
        max_steps=max_steps,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        report_to="none",
    )
    share = StreamShare.from_training_arguments(arguments)
    stream = clip_stream(source, config=CONFIG, sampling=SAMPLING, position=position, share=share, shuffle_buffer=3)
    torch.manual_seed(0)
    trainer = VJEPATrainer(
        VJEPAForPreTraining(CONFIG), arguments, stream, position=position, callbacks=list(callbacks)
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, trainer.model.state_dict()


@pytest.mark.parametrize("kind", ["folder", "streamed tars"])
def test_training_with_workers_that_are_killed_is_the_undisturbed_training(folder, tars, tmp_path, caplog, kind):
    def source():
        return str(folder) if kind == "folder" else streamed_tars(tars)

    expected, weights = train(source(), tmp_path / "calm")
    killer = KillWorker(2, 3, 6)
    losses, disturbed_weights = train(source(), tmp_path / "disturbed", killer)
    assert killer.killed == 3
    restarts = [record for record in caplog.records if "continuing from batch" in record.getMessage()]
    assert len(restarts) == 3
    assert len(losses) == 8 and losses == expected
    assert all(torch.equal(disturbed_weights[name], value) for name, value in weights.items())
    assert not active_children()


def test_training_ends_although_a_worker_is_stuck(folder, tmp_path, read_frames):
    clips = count(1)  # each worker counts its own
    read_frames(lambda clip: time.sleep(1000 if next(clips) > 9 else 0))
    losses, _ = train(str(folder), tmp_path, max_steps=2)
    assert len(losses) == 2
    assert not active_children()


# Large files, many files


def write_gradient(path, *, num_frames, rate, gop, size=(32, 32)):
    """A video whose brightness rises from 20 to 220."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "g": str(gop)})
        (stream.height, stream.width), stream.pix_fmt = size, "yuv420p"
        for number in range(num_frames):
            picture = np.full((*size, 3), number * 200 // num_frames + 20, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_clip_of_a_long_video_decodes_its_neighbourhood_only(tmp_path, monkeypatch):
    path = write_gradient(tmp_path / "long.mp4", num_frames=3 * 3600, rate=1, gop=250)
    decoded = []
    keep = PyAVReader._keep
    monkeypatch.setattr(
        PyAVReader,
        "_keep",
        lambda self, frames, *args: (decoded.append(frames := list(frames)), keep(self, frames, *args))[1],
    )
    clip = decoding.read_clip(path, sampling=ClipSampling(num_frames=4, frame_step=10))
    assert abs(clip.float().mean() - 120) < 3  # the middle
    assert sum(len(frames) for frames in decoded) <= 2 * 250 + 40


def memory(name):
    """Bytes in memory: now (`VmRSS`), or at most since the record was cleared (`VmHWM`)."""
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much memory a process has had at most")
def test_a_4k_clip_takes_the_memory_of_its_frames_twice(tmp_path):
    # Once as frames, once stacked to a clip; nothing else that grows with the clip.
    path = write_gradient(tmp_path / "4k.mp4", num_frames=5, rate=25, size=(2160, 3840), gop=5)
    decoding.read_clip(path, sampling=ClipSampling(num_frames=1))
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    clip = decoding.read_clip(path, sampling=ClipSampling(num_frames=4, frame_step=1))
    assert clip.shape == (4, 3, 2160, 3840)
    assert 1 < (memory("VmHWM") - before) / clip.nbytes < 3


def private_bytes():
    return psutil.Process().memory_full_info().uss


def name_all(corpus, sender):
    before = private_bytes()
    length = sum(len(corpus.describe(index)) for index in range(len(corpus)))
    sender.send((length, private_bytes() - before))


def test_the_names_of_a_hundred_thousand_files_are_not_copied_to_workers():
    names = [f"{number // 1000:03}/{number:06}.mp4" for number in range(100_000)]
    corpus = FileCorpus(names, labels=range(100_000), root="videos")
    receiver, sender = get_context("fork").Pipe(duplex=False)
    worker = get_context("fork").Process(target=name_all, args=(corpus, sender))
    worker.start()
    length, private = receiver.recv()
    worker.join()
    assert length == 100_000 * len("videos/000/000000.mp4")
    assert private < 2e6  # that many strings, or the pages they lie in, take more than 7 MB


# Servers that fail


@pytest.fixture
def server(monkeypatch):
    """A server, and short time limits for it, but longer than an answer takes on a busy machine."""
    monkeypatch.setattr(remote_reading, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(remote_reading, "READ_TIMEOUT", 2.0)
    with serving() as running:
        yield running


@pytest.fixture
def index(server, folder, tmp_path) -> Path:
    """An index of the videos behind URLs."""
    lines = []
    for number, path in enumerate(sorted(folder.iterdir())):
        server.files[f"/{path.name}"] = path.read_bytes()
        lines.append(f"{server.url(f'/{path.name}')} {number}\n")
    (tmp_path / "index.csv").write_text("".join(lines))
    return tmp_path / "index.csv"


@pytest.fixture
def local_index(folder, tmp_path) -> Path:
    """An index of the same videos on this machine."""
    lines = [f"{path} {number}\n" for number, path in enumerate(sorted(folder.iterdir()))]
    (tmp_path / "local.csv").write_text("".join(lines))
    return tmp_path / "local.csv"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_server_that_fails_for_a_while_changes_nothing(server, index, local_index, caplog, num_workers):
    server.faults["/3.mp4"] = ["500", "reset", "stall", "500"]
    server.faults["/5.mp4"] = ["reset"]
    batches = batches_of(str(index), 4, num_workers=num_workers)
    assert_same(batches, batches_of(str(local_index), 4, num_workers=0))
    assert server.requests["/3.mp4"] >= 5
    assert not caplog.records


@pytest.mark.parametrize(
    ("fault", "tries", "reason"),
    [
        ("404", 1, "FileNotFoundError"),
        ("500", 5, "after 5 tries .*500"),
        ("reset", 5, "after 5 tries"),
        ("stall", 5, "after 5 tries .*[Tt]imeout"),
    ],
)
def test_what_a_server_does_not_deliver_is_skipped_and_counted(
    server, index, monkeypatch, caplog, fault, tries, reason
):
    if fault == "stall":  # waited for many times
        monkeypatch.setattr(remote_reading, "READ_TIMEOUT", 0.5)
    server.faults["/7.mp4"] = fault
    batches = batches_of(str(index), 4, num_workers=0, max_broken_share=0.5)
    skipped = sum(batch["num_skipped"].sum().item() for batch in batches)
    assert set(names(batches)) == {f"{n}.mp4" for n in range(NUM_VIDEOS) if n != 7}
    assert skipped == len(caplog.records) >= 1
    assert server.requests["/7.mp4"] == skipped * tries
    assert all(re.search(rf"7\.mp4 .*{reason}", record.getMessage()) for record in caplog.records)


def test_a_server_that_is_gone_ends_the_run(server, index):
    for path in server.files:
        server.faults[path] = "500"
    with pytest.raises(TooManyBrokenVideosError, match="20 of the last 20 videos are broken"):
        batches_of(str(index), 1)


@pytest.fixture
def tar_urls(server, tars) -> str:
    for path in tars.iterdir():
        server.files[f"/{path.name}"] = path.read_bytes()
    return server.url("/{0..1}.tar")


def stream_of(url, number, *, faults=None, server=None, **kwargs):
    """Batches of tars behind URLs; `faults` begin after the corpus has been opened."""
    corpus = open_corpus(url)
    for path, fault in (faults or {}).items():
        server.faults[path] = fault
    return batches_of(corpus, number, **({"batch_size": 2, "shuffle_buffer": 3, "num_workers": 0} | kwargs))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streamed_tars_from_a_server_that_fails_for_a_while(server, tar_urls, caplog, num_workers):
    expected = stream_of(tar_urls, 8, num_workers=num_workers)
    faults = {"/0.tar": ["reset", "500", "stall"], "/1.tar": ["500", "500"]}
    assert_same(stream_of(tar_urls, 8, faults=faults, server=server, num_workers=num_workers), expected)
    assert not [record for record in caplog.records if "skipped" in record.getMessage()]


def in_shard_1(batches):
    return {number for name in names(batches) if (number := int(name.rpartition("::")[2].partition(".")[0])) % 2}


def test_the_rest_of_a_streamed_tar_that_is_truncated_is_left_out(server, tar_urls, caplog):
    data = server.files["/1.tar"]
    server.files["/1.tar"] = data[: len(data) // 3]
    whole = stream_of(tar_urls, 12, max_broken_share=0.9)
    assert in_shard_1(whole) == {1, 3}
    assert len(set(names(whole))) == 7
    messages = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert messages and all("the rest of a shard from row" in message for message in messages)
    # The cursors know that the shard was left.
    cursors = {}
    for batch in whole[:5]:
        record_cursors(cursors, batch["cursor"])
    assert_same(stream_of(tar_urls, 7, start=5, cursors=cursors, max_broken_share=0.9), whole[5:])


def test_a_streamed_tar_that_always_breaks_off_is_left_out(server, tar_urls, caplog):
    # How much of it arrives before the connection is reset is a matter of luck.
    batches = stream_of(tar_urls, 12, faults={"/1.tar": "reset"}, server=server, max_broken_share=0.9)
    assert len(in_shard_1(batches)) < 5
    assert len(set(names(batches))) - len(in_shard_1(batches)) == 5
    assert "the rest of a shard from row" in caplog.text


def test_streamed_tars_from_a_server_that_is_gone_end_the_run(server, tar_urls):
    with pytest.raises(TooManyBrokenVideosError, match="20 of the last 20 .*the rest of a shard"):
        stream_of(tar_urls, 20, server=server, faults={"/0.tar": "500", "/1.tar": "500"})


def test_a_server_that_cannot_be_reached_at_the_start_is_named(server, tar_urls, monkeypatch):
    monkeypatch.setattr(remote_reading, "READ_TIMEOUT", 0.5)
    server.faults["/0.tar"] = "500"
    with pytest.raises(FileNotFoundError, match=r"Unable to find .*0\.tar"):
        open_corpus(tar_urls)
    server.faults["/0.tar"] = "stall"
    with pytest.raises(OSError, match=r"0\.\.1}.tar cannot be read after 5 tries .*: check its server"):
        open_corpus(tar_urls)
