import errno
import hashlib
import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from safetensors.torch import save_file
from videos import write_tar, write_video

from transformers_vjepa.data.clip_reading import TooManyBrokenVideosError
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.evaluation_clips import ClipGeometry
from transformers_vjepa.data.file_corpus import FileCorpus
from transformers_vjepa.evaluation import shards as shards_module
from transformers_vjepa.evaluation.shards import (
    PassOptions,
    ShardContents,
    ShardError,
    ShardFolder,
    default_shard_size,
    fill_shards,
    read_safetensors,
    write_safetensors,
)
from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling

GEOMETRY = ClipGeometry(crop_size=8, sampling=ClipSampling(num_frames=2, frame_step=1))
SETTINGS = {"kind": "mean", "sampling": {"num_frames": 2, "spacing": "stride"}, "mean": (0.5, 0.5)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Seven videos and, third of eight, a broken one."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(8):
        write_video(root / "a" / f"{number}.mp4", level=30 * number + 10, num_frames=3)
    (root / "a" / "2.mp4").write_bytes(b"noise")
    return root


def open_shards(path, **changes):
    arguments = {"stem": "x", "suffix": ".safetensors", "num_items": 8, "shard_size": 3, "settings": SETTINGS}
    return ShardFolder(path, **{**arguments, **changes})


class Brightness:
    """Mean grey level of each video; counts the videos it has seen."""

    def __init__(self):
        self.num_seen = 0

    def __call__(self, clips):
        self.num_seen += len(clips)
        return {"brightness": clips.float().mean(dim=tuple(range(1, clips.ndim)))}


def fill(shards, corpus, *, geometry=GEOMETRY, compute=None, write=write_safetensors, **options):
    counting = Brightness()
    options = PassOptions(**{"batch_size": 2, "progress": False, **options})
    fill_shards(shards, corpus, geometry, options, compute=compute or counting, write=write)
    return counting.num_seen


def levels(shards):
    """Brightness of all videos, in tens."""
    contents = [read_safetensors(path) for path in shards.paths()]
    return [round(value / 10) for content in contents for value in content.tensors["brightness"].tolist()]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_hold_all_videos_in_order(folder, tmp_path, num_workers):
    shards = open_shards(tmp_path / "out")
    assert fill(shards, open_corpus(folder), num_workers=num_workers) == 7
    assert [path.name for path in shards.paths()] == [f"x-0000{n}.safetensors" for n in range(3)]
    first = read_safetensors(shards.path(0))
    assert first.tensors["index"].tolist() == [0, 1] and first.tensors["labels"].tolist() == [0, 0]
    assert [Path(path).name for path in first.paths] == ["0.mp4", "1.mp4"]
    [(index, path, error)] = first.broken
    assert (index, Path(path).name) == (2, "2.mp4") and error.startswith("CorruptVideoError")
    assert levels(shards) == [1, 4, 10, 13, 16, 19, 22]
    assert sorted(path.name for path in shards.folder.iterdir() if path.name.startswith(".")) == []


def test_finished_shards_are_kept_with_any_number_of_processes(folder, tmp_path):
    corpus = open_corpus(folder)
    whole = open_shards(tmp_path / "whole")
    fill(whole, corpus)
    shards = open_shards(tmp_path / "out")
    assert fill(shards, corpus, rank=1, world_size=3) == 3
    assert shards.pending() == [0, 2]
    with pytest.raises(ShardError, match=r"2 of 3 shards are missing .* \(the first is x-00000.safetensors\)"):
        shards.paths()
    assert fill(open_shards(tmp_path / "out"), corpus, rank=0, world_size=2) == 2 + 2
    assert fill(open_shards(tmp_path / "out"), corpus) == 0
    for ours, theirs in zip(shards.paths(), whole.paths(), strict=True):
        ours, theirs = read_safetensors(ours), read_safetensors(theirs)
        assert ours[1:] == theirs[1:]
        assert all(torch.equal(ours.tensors[name], value) for name, value in theirs.tensors.items())


def test_interrupted_shard_is_not_there(folder, tmp_path):
    corpus, compute = open_corpus(folder), Brightness()

    def interrupted(clips):
        if compute.num_seen == 4:
            raise KeyboardInterrupt
        return compute(clips)

    shards = open_shards(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        fill(shards, corpus, compute=interrupted)
    assert [path.name for path in shards.folder.glob("x-*.safetensors")] == ["x-00000.safetensors"]

    def half_written(path, contents):
        path.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(ShardError, match="cannot write .*disk full"):
        fill(shards, corpus, write=half_written)
    assert sorted(path.name for path in shards.folder.glob("*.safetensors")) == ["x-00000.safetensors"]
    fill(shards, corpus)
    assert levels(shards) == [1, 4, 10, 13, 16, 19, 22]


def test_other_settings_are_refused_and_listed(tmp_path):
    open_shards(tmp_path)
    open_shards(tmp_path, settings={**SETTINGS, "mean": [0.5, 0.5]}, notes={"model": "elsewhere"})
    changed = {
        "kind": "tokens",
        "sampling": {"num_frames": 4, "spacing": "stride"},
        "mean": (0.5, 0.5),
        "backend": "av",
    }
    with pytest.raises(ShardError) as info:
        open_shards(tmp_path, settings=changed, shard_size=5)
    assert str(info.value) == (
        f"{tmp_path} was made with other settings: backend was not recorded and is 'av'; kind was 'mean' and is "
        "'tokens'; sampling.num_frames was 2 and is 4; shard_size was 3 and is 5. Choose another folder, or delete "
        "this one"
    )


def test_hashes_that_differ_are_not_printed(tmp_path):
    hashes = {"manifest": "0" * 64, "weights": "a" * 64}
    open_shards(tmp_path, settings=hashes)
    with pytest.raises(ShardError, match=r"settings: manifest changed \(clips, their order .*\); weights changed\."):
        open_shards(tmp_path, settings={name: "b" * 64 for name in hashes})


def test_folders_without_shards(tmp_path):
    with pytest.raises(ShardError, match="has no settings.json: the folder holds no shards"):
        ShardFolder.open(tmp_path)
    open_shards(tmp_path / "x")
    assert ShardFolder.open(tmp_path / "x").settings == json.loads(json.dumps(SETTINGS))
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ShardError, match="settings.json cannot be read"):
        ShardFolder.open(tmp_path)


def test_shard_without_a_readable_video(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.mp4").write_bytes(b"noise")
    shards = open_shards(tmp_path / "out", num_items=2)
    assert fill(shards, open_corpus(tmp_path), max_broken_share=0.9) == 0
    contents = read_safetensors(shards.path(0))
    assert contents.tensors == {} and len(contents.broken) == 2


# Changed data


@pytest.fixture
def data(folder, tmp_path) -> Path:
    """A copy of the videos, to change."""
    shutil.copytree(folder, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def again(data, tmp_path):
    """A function that makes a pass over `data` and returns the names of the shards that it computed."""

    def run(**changes):
        shards = open_shards(tmp_path / "out", **changes)
        before = {path.name: path.stat().st_mtime_ns for path in shards.folder.glob("x-*.safetensors")}
        fill(shards, open_corpus(data))
        return [path.name for path in shards.paths() if path.stat().st_mtime_ns != before.get(path.name)]

    assert len(run()) == 3
    return run


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("x-*"))}


def test_only_the_shard_of_a_replaced_file_is_computed_again(data, again, tmp_path, caplog):
    assert again() == []  # the broken video is still broken
    write_video(data / "a" / "4.mp4", level=200, num_frames=3)
    assert again() == ["x-00001.safetensors"]
    assert levels(open_shards(tmp_path / "out")) == [1, 4, 10, 20, 16, 19, 22]
    assert "clips of another file: 1, such as " in caplog.text
    assert again() == []


def test_a_copy_with_other_times_keeps_its_results(data, again, tmp_path, monkeypatch):
    before, contents = hashes(tmp_path / "out"), shards_module.content_digest
    for file in data.rglob("*.mp4"):
        os.utime(file, ns=(5, 5_000_001_000))
    assert again() == []
    assert [name for name, value in hashes(tmp_path / "out").items() if value != before[name]] == [
        f"x-0000{number}.files.json" for number in range(3)
    ]
    monkeypatch.setattr(shards_module, "content_digest", lambda *_: pytest.fail("compared again"))
    assert again() == []  # the new times are recorded
    monkeypatch.setattr(shards_module, "content_digest", contents)
    # Other bytes at the end; then other frames in a file of the same size.
    other = write_video(tmp_path / "other.mp4", level=200, num_frames=3).read_bytes()
    size = max(len(other), (data / "a" / "4.mp4").stat().st_size)
    for level in (b"", other):
        file = data / "a" / "4.mp4"
        file.write_bytes((level or file.read_bytes()) + free_box(size + 8 - len(level or file.read_bytes())))
        assert again() == ["x-00001.safetensors"]
    assert levels(open_shards(tmp_path / "out")) == [1, 4, 10, 20, 16, 19, 22]


def free_box(size):
    """Bytes without a meaning at the end of an MP4 file."""
    return size.to_bytes(4, "big") + b"free" + bytes(size - 8)


def test_results_of_a_shard_that_is_computed_again_have_the_same_bytes(data, again, tmp_path):
    before = hashes(tmp_path / "out")
    (tmp_path / "out" / "x-00001.safetensors").unlink()
    assert again() == ["x-00001.safetensors"] and hashes(tmp_path / "out") == before


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_clip_in_a_container_is_compared_by_its_own_bytes(folder, tmp_path, kind):
    videos = {f"{path.stem}.mp4": path.read_bytes() for path in sorted((folder / "a").iterdir())}
    file = tmp_path / f"all.{kind}"

    def write():
        if kind == "tar":
            write_tar(file, videos)
        else:
            pq.write_table(pa.table({"video": list(videos.values())}), file)
        os.utime(file, ns=(0, len(times) * 7_000_001_000))
        times.append(0)
        fill(open_shards(tmp_path / "out"), open_corpus(file))
        return hashes(tmp_path / "out")

    times = [0]
    first, second = write(), write()
    assert [name for name in first if first[name] != second[name]] == [f"x-0000{n}.files.json" for n in range(3)]
    videos["4.mp4"] = videos["5.mp4"]
    third = write()
    changed = [name for name in first if first[name] != third[name] and name.endswith(".safetensors")]
    assert changed == ["x-00001.safetensors"]


def test_a_video_that_is_repaired_is_no_longer_broken(data, again, tmp_path):
    write_video(data / "a" / "2.mp4", level=70, num_frames=3)
    assert again() == ["x-00000.safetensors"]
    assert levels(open_shards(tmp_path / "out")) == [1, 4, 7, 10, 13, 16, 19, 22]


def test_a_broken_video_is_tried_again_also_if_its_file_is_the_same(data, again, tmp_path, monkeypatch, caplog):
    repaired = write_video(tmp_path / "2.mp4", level=70, num_frames=3)
    read = FileCorpus.read

    def read_with_the_missing_decoder(corpus, index):
        clip = read(corpus, index)
        return clip._replace(data=str(repaired)) if clip.path.endswith("2.mp4") else clip

    monkeypatch.setattr(FileCorpus, "read", read_with_the_missing_decoder)
    assert again() == ["x-00000.safetensors"]
    assert "clips that were broken and can be read now: 1, such as " in caplog.text
    assert levels(open_shards(tmp_path / "out")) == [1, 4, 7, 10, 13, 16, 19, 22]
    assert again() == []


def test_a_disk_that_is_not_mounted_costs_no_results(folder, data, tmp_path, caplog):
    index = tmp_path / "index.csv"
    index.write_text("".join(f"data/a/{number}.mp4\n" for number in range(8)))
    shards = open_shards(tmp_path / "out")
    fill(shards, open_corpus(index))
    before = hashes(shards.folder)
    data.rename(tmp_path / "away")
    fill(open_shards(tmp_path / "out"), open_corpus(index))
    assert hashes(shards.folder) == before
    assert "clips that cannot be reached now: 8, such as " in caplog.text
    # The reverse: the first pass did without the disk.
    early = open_shards(tmp_path / "early")
    fill(early, open_corpus(index), max_broken_share=0.99)
    assert [len(read_safetensors(path).broken) for path in early.paths()] == [3, 3, 2]
    (tmp_path / "away").rename(data)
    fill(open_shards(tmp_path / "early"), open_corpus(index))
    assert hashes(early.folder) == before


def test_many_videos_that_stay_broken_do_not_stop_the_next_pass(tmp_path):
    write_video(tmp_path / "in" / "00.mp4", level=70, num_frames=3)
    for number in range(1, 26):
        (tmp_path / "in" / f"{number:02}.mp4").write_bytes(b"noise")
    settings = {"num_items": 26, "shard_size": 13}
    fill(open_shards(tmp_path / "out", **settings), open_corpus(tmp_path / "in"), max_broken_share=0.99)
    assert fill(open_shards(tmp_path / "out", **settings), open_corpus(tmp_path / "in"), max_broken_share=0) == 0


@pytest.mark.parametrize(
    "record", [None, "{", '{"files": [[1, 2]], "digests": [""], "broken": []}', '{"files": 3, "broken": [9]}', "[]"]
)
def test_a_shard_without_the_sizes_of_its_files_is_computed_again(again, tmp_path, record):
    file = tmp_path / "out" / "x-00001.files.json"
    file.unlink() if record is None else file.write_text(record)
    assert again() == ["x-00001.safetensors"]
    assert again() == []


def flip_bit(file):
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [flip_bit, lambda file: file.write_bytes(b"")], ids=["bit", "empty"])
def test_a_damaged_shard_is_refused_or_computed_again(again, tmp_path, caplog, damage):
    before, shards = hashes(tmp_path / "out"), open_shards(tmp_path / "out")
    assert again() == []
    damage(shards.path(1))
    with pytest.raises(ShardError, match=r"x-00001.safetensors is damaged \(its SHA-256 is not the recorded one\)"):
        shards.paths()
    assert again() == ["x-00001.safetensors"] and hashes(tmp_path / "out") == before
    assert "clips of a damaged shard: 3, such as " in caplog.text
    assert len(shards.paths()) == 3


def test_a_shard_of_an_earlier_version_has_no_hash_and_stays_readable(again, tmp_path):
    shards = open_shards(tmp_path / "out")
    for file in (tmp_path / "out").glob("*.files.json"):
        record = json.loads(file.read_text())
        del record["sha256"]
        file.write_text(json.dumps(record))
    assert again() == []
    (tmp_path / "out" / "x-00002.files.json").unlink()
    assert levels(shards) == [1, 4, 10, 13, 16, 19, 22]


def test_an_outdated_shard_does_not_outlive_a_pass_that_is_stopped(data, again, tmp_path):
    write_video(data / "a" / "4.mp4", level=200, num_frames=3)

    def interrupted(clips):
        raise KeyboardInterrupt

    shards = open_shards(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        fill(shards, open_corpus(data), compute=interrupted)
    with pytest.raises(ShardError, match=r"1 of 3 shards are missing .* \(the first is x-00001.safetensors\)"):
        shards.paths()


def test_each_process_looks_after_its_own_shards(data, again, tmp_path):
    for name in ("1.mp4", "4.mp4"):  # of the shards 0 and 1
        write_video(data / "a" / name, level=200, num_frames=3)
    corpus = open_corpus(data)
    assert fill(open_shards(tmp_path / "out"), corpus, rank=1, world_size=2) == 3
    assert levels(open_shards(tmp_path / "out")) == [1, 4, 10, 20, 16, 19, 22]
    assert fill(open_shards(tmp_path / "out"), corpus, rank=0, world_size=2) == 2
    assert levels(open_shards(tmp_path / "out")) == [1, 20, 10, 20, 16, 19, 22]


def test_a_pass_that_continues_with_other_versions_says_so(again, tmp_path, caplog):
    before, now = ({"versions": {"av": version}} for version in ("14", "15"))
    open_shards(tmp_path / "other", notes=before)
    fill(open_shards(tmp_path / "other", notes=now), open_corpus(tmp_path / "data"))
    assert "versions" not in caplog.text  # no shard is older
    (tmp_path / "other" / "x-00001.safetensors").unlink()
    fill(open_shards(tmp_path / "other", notes=now), open_corpus(tmp_path / "data"))
    assert "was begun with versions {'av': '14'} and continues with {'av': '15'}" in caplog.text


# Bytes


def test_equal_contents_have_equal_bytes(tmp_path):
    """safetensors writes the keys of the metadata in an order that is random for each file."""
    names = ["features", "labels", "index", "more", "others"]
    paths, broken = ["caf\udce9\n.mp4", "b"], [(3, "c", "noise")]
    for number in range(8):
        tensors = {name: torch.ones(2) for name in (names if number % 2 else names[::-1])}
        write_safetensors(tmp_path / f"{number}.safetensors", ShardContents(tensors, paths, broken))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert read_safetensors(tmp_path / "0.safetensors")[1:] == (paths, broken)


def test_shards_of_version_0_1_can_be_read(tmp_path):
    metadata = {"format": "pt", "paths": '["a.mp4"]', "broken": '[[1, "b.mp4", "noise"]]'}
    save_file({"labels": torch.tensor([7])}, tmp_path / "old.safetensors", metadata=metadata)
    contents = read_safetensors(tmp_path / "old.safetensors")
    assert contents.tensors["labels"].tolist() == [7]
    assert contents.paths == ["a.mp4"] and contents.broken == [(1, "b.mp4", "noise")]


def refused(*args, **kwargs):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_folder_that_cannot_be_written(folder, tmp_path, monkeypatch):
    """Root may write everywhere, so the errors of other users are raised by hand."""
    for name, place in (("mkdir", ""), ("write_text", "/settings.json")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, refused)
            expected = rf"^cannot write {tmp_path}/out{place} \(.*Permission denied\), with [\d.]+ MB free there: make"
            with pytest.raises(ShardError, match=expected):
                open_shards(tmp_path / "out")


@pytest.mark.parametrize("kind", ["safetensors", "parquet"])
def test_a_full_disk(folder, tmp_path, kind):
    """A limit on the size of files stands for a full disk: EFBIG in place of ENOSPC."""

    def write_parquet(path, contents):
        pq.write_table(pa.table({"pixels": contents.tensors["pixels"].flatten().numpy()}), path, compression="none")

    def compute(clips):
        return {"pixels": torch.rand(len(clips), 10_000)}

    shards = open_shards(tmp_path / "out")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(
            ShardError, match=rf"^cannot write {shards.path(0)} \(.*File too large.*: make room or allow"
        ):
            write = write_safetensors if kind == "safetensors" else write_parquet
            fill(shards, open_corpus(folder), compute=compute, write=write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in shards.folder.iterdir()] == ["settings.json"]


def test_too_many_broken_videos_stop(tmp_path):
    for number in range(25):
        (tmp_path / f"{number}.mp4").write_bytes(b"noise")
    shards = open_shards(tmp_path / "out", num_items=25, shard_size=10)
    with pytest.raises(TooManyBrokenVideosError, match="20 of the last 20 videos are broken"):
        fill(shards, open_corpus(tmp_path))
    assert shards.pending() == [1, 2]


def streamed(folder, tmp_path):
    videos = sorted((folder / "a").iterdir())
    tar = write_tar(tmp_path / "all.tar", {path.name: path.read_bytes() for path in videos})
    return open_corpus(load_dataset("webdataset", data_files={"train": str(tar)}, split="train", streaming=True))


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.parametrize("shard_size", [3, 4])
def test_streamed_data(folder, tmp_path, num_workers, shard_size, caplog):
    corpus = streamed(folder, tmp_path)
    settings = {"num_items": None, "shard_size": shard_size}
    shards = open_shards(tmp_path / "out", **settings)
    assert fill(shards, corpus, num_workers=num_workers) == 7
    assert levels(ShardFolder.open(tmp_path / "out")) == [1, 4, 10, 13, 16, 19, 22]
    assert "stay as they are" not in caplog.text
    assert fill(open_shards(tmp_path / "out", **settings), corpus) == 0
    assert "finished shards of the data set stay as they are, since nobody can tell" in caplog.text


def test_a_damaged_shard_of_streamed_data_is_refused(folder, tmp_path):
    shards = open_shards(tmp_path / "out", num_items=None)
    fill(shards, streamed(folder, tmp_path))
    assert levels(shards) == [1, 4, 10, 13, 16, 19, 22]
    flip_bit(shards.path(2))  # the last one, which is not full
    with pytest.raises(ShardError, match=r"x-00002.safetensors is damaged \(its SHA-256"):
        shards.paths()


def test_a_stopped_pass_over_streamed_data_continues(folder, tmp_path):
    corpus, compute = streamed(folder, tmp_path), Brightness()

    def interrupted(clips):
        if compute.num_seen == 4:
            raise KeyboardInterrupt
        return compute(clips)

    with pytest.raises(KeyboardInterrupt):
        fill(open_shards(tmp_path / "out", num_items=None), corpus, compute=interrupted)
    with pytest.raises(ShardError, match=r"some shards are missing .* \(the first is x-00001"):
        ShardFolder.open(tmp_path / "out").paths()
    shards = open_shards(tmp_path / "out", num_items=None)
    assert fill(shards, corpus) == 5
    assert levels(shards) == [1, 4, 10, 13, 16, 19, 22]
    with pytest.raises(ShardError, match="is streamed, and 2 processes cannot share a stream: use one process"):
        fill(open_shards(tmp_path / "other", num_items=None), corpus, world_size=2)


def test_default_size():
    assert default_shard_size(10**6, item_bytes=1568 * 1024 * 2) == 41  # 128 MiB of ViT-L tokens
    assert default_shard_size(10**6, item_bytes=4096) == 1024
    assert default_shard_size(60, item_bytes=4096) == 4
    assert default_shard_size(None, item_bytes=4096) == 1024
    assert default_shard_size(3, item_bytes=2**40) == 1


def test_a_forward_pass_gets_as_many_clips_as_asked_for_or_one_video(folder, tmp_path):
    sizes = []

    def compute(clips):
        sizes.append(tuple(clips.shape[:3]))
        return {"brightness": clips.float().flatten(1).mean(1)}

    geometry = replace(GEOMETRY, num_segments=2, num_views=3)
    fill(open_shards(tmp_path / "a"), open_corpus(folder), geometry=geometry, compute=compute, batch_size=12)
    assert set(sizes) == {(2, 3, 2), (1, 3, 2)}
    sizes.clear()
    fill(open_shards(tmp_path / "b"), open_corpus(folder), geometry=geometry, compute=compute, batch_size=5)
    assert set(sizes) == {(1, 3, 2)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size`=0 must be at least 1"),
        ({"max_broken_share": 1}, r"max_broken_share=1 must lie in \[0, 1\)"),
        ({"rank": 2, "world_size": 2}, r"rank=2 must lie in \[0, world_size=2\)"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        PassOptions(**options)


def test_shard_size_out_of_range(tmp_path):
    with pytest.raises(ShardError, match="`shard_size`=0 must be at least 1"):
        open_shards(tmp_path, shard_size=0)
