"""Stopped at any step and continued, a run is the one that was never stopped."""

import json
import signal

import pytest
import torch
from datasets import Dataset as TableDataset
from datasets import Features, Value, Video, load_dataset
from runs import At, assert_same_checkpoint, config, resume, trainer_of
from torch.utils.data import Dataset
from videos import write_tar, write_video

from transformers_vjepa.data.lanes import StreamError
from transformers_vjepa.data.streaming import CorpusSource
from transformers_vjepa.training import stream_trainer
from transformers_vjepa.training.checkpoints import UnusableCheckpointError

NUM_VIDEOS = 10

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        write_video(root / f"{number}.mp4", level=20 * number + 20)
    return root


@pytest.fixture(scope="module")
def tars(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("tars")
    for shard in range(2):
        write_tar(root / f"{shard}.tar", {path.name: path.read_bytes() for path in sorted(folder.iterdir())[shard::2]})
    return root


@pytest.fixture(scope="module")
def parquet(folder, tmp_path_factory):
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(folder.iterdir())]
    features = Features({"video": Video(), "label": Value("int64")})
    table = TableDataset.from_dict({"video": cells, "label": list(range(len(cells)))}, features=features)
    path = tmp_path_factory.mktemp("parquet") / "videos.parquet"
    table.to_parquet(path, batch_size=2)
    return path


def streamed(kind, *files):
    return load_dataset(kind, data_files={"train": [str(file) for file in files]}, split="train", streaming=True)


@pytest.fixture
def sources(request, folder, tars, parquet):
    """Corpora by name; each stream is new, because it has its own position."""
    return {
        "folder": lambda: [str(folder)],
        "mix": lambda: [CorpusSource(str(folder), 0.6), CorpusSource(str(parquet), 0.4)],
        "streamed tars": lambda: [streamed("webdataset", *sorted(tars.iterdir()))],
        "mix with streamed Parquet": lambda: [
            CorpusSource(str(folder), 0.4),
            CorpusSource(streamed("parquet", parquet), 0.6),
        ],
    }


@pytest.mark.parametrize("kind", ["folder", "mix", "streamed tars", "mix with streamed Parquet"])
@pytest.mark.parametrize("workers, accumulation", [(0, 1), (2, 1), (0, 2), (2, 2)])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, sources, kind, workers, accumulation):
    settings = {"dataloader_num_workers": workers, "gradient_accumulation_steps": accumulation}
    settings |= {"max_steps": 4, "save_steps": 2}
    whole = trainer_of(tmp_path / "whole", sources[kind](), **settings)
    whole.train()
    resumed = trainer_of(tmp_path / "resumed", sources[kind](), **settings)
    resume(resumed, tmp_path / "whole" / "checkpoint-2")
    assert len(whole.seen) == 4 * 2 * accumulation
    assert resumed.seen == whole.seen[len(whole.seen) // 2 :]
    assert_same_checkpoint(tmp_path / "resumed" / "checkpoint-4", tmp_path / "whole" / "checkpoint-4")


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The checkpoints of a run that was never stopped, one for each step."""
    output = tmp_path_factory.mktemp("whole")
    trainer_of(output, [str(folder)]).train()
    return output


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_after_any_step(tmp_path, folder, whole, step):
    resume(trainer_of(tmp_path, [str(folder)]), whole / f"checkpoint-{step}")
    assert_same_checkpoint(tmp_path / "checkpoint-5", whole / "checkpoint-5")


def test_chance_in_the_network_matters_here(tmp_path, folder, whole):
    """Without the state of the generators the run above would be another one."""
    trainer = trainer_of(tmp_path, [str(folder)])
    trainer._load_rng_state = lambda checkpoint: None
    resume(trainer, whole / "checkpoint-4")
    with pytest.raises(AssertionError):
        assert_same_checkpoint(tmp_path / "checkpoint-5", whole / "checkpoint-5")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_after_a_signal(tmp_path, folder, whole, signum):
    def raise_twice():
        signal.raise_signal(signum)
        signal.raise_signal(signum)  # a launcher passes on what all its group has received

    stopped = trainer_of(tmp_path, [str(folder)], callbacks=[At(2, raise_twice)], save_steps=100)
    stopped.train()
    assert (stopped.stop_signal, stopped.state.global_step) == (signum, 3)
    resumed = trainer_of(tmp_path, [str(folder)], save_steps=100)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.stop_signal == 0
    assert_same_checkpoint(tmp_path / "checkpoint-5", whole / "checkpoint-5")


def test_a_second_signal_interrupts(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(stream_trainer, "_SECONDS_OF_ECHO", 0.0)

    def raise_twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    # Where the tests run in the background, shells have it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer_of(tmp_path, [str(folder)], callbacks=[At(1, raise_twice)]).train()
    finally:
        signal.signal(signal.SIGINT, before)


class Listed(Dataset):
    """A data set with a length: seven clips, so that an epoch ends inside of a step's batches."""

    def __init__(self):
        shape = (7, config().frames_per_clip, 3, config().crop_size, config().crop_size)
        self.clips = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        return {"pixel_values_videos": self.clips[index], "clip_seed": index, "path": f"{index}.mp4"}


@pytest.mark.parametrize("step", [3, 4, 6])  # in the first epoch, at its end, in the second
def test_a_data_set_with_a_length(tmp_path, step):
    settings = {"dataset": Listed(), "max_steps": 7}
    trainer_of(tmp_path / "whole", None, **settings).train()
    resumed = resume(trainer_of(tmp_path / "resumed", None, **settings), tmp_path / "whole" / f"checkpoint-{step}")
    assert len(resumed.seen) == 2 * (7 - step) - (step < 4)  # the last batch of an epoch has one clip
    assert_same_checkpoint(tmp_path / "resumed" / "checkpoint-7", tmp_path / "whole" / "checkpoint-7")


# Another world


@pytest.fixture(scope="module")
def clips(folder, tmp_path_factory):
    """The first clips of the stream: those of the run above, and further ones."""
    trainer = trainer_of(tmp_path_factory.mktemp("long"), [str(folder)], max_steps=12, save_strategy="no")
    trainer.train()
    return trainer.seen


@pytest.mark.parametrize("accumulation, batch, workers", [(2, 2, 0), (1, 4, 2), (3, 1, 0)])
def test_another_batch_accumulation_or_number_of_workers(tmp_path, folder, whole, clips, accumulation, batch, workers):
    """Clips continue at the position: none is skipped and none is seen twice."""
    settings = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": batch}
    resumed = trainer_of(tmp_path, [str(folder)], dataloader_num_workers=workers, **settings)
    resume(resumed, whole / "checkpoint-3")
    done = 6 + 2 * accumulation * batch
    assert resumed.seen == clips[6:done]
    written = json.loads((tmp_path / "checkpoint-5" / "position.json").read_text())
    assert written == {"batches": 3 + 2 * accumulation, "clips": done}
    # And on from there, with the first settings again.
    back = trainer_of(tmp_path / "back", [str(folder)], max_steps=6)
    resume(back, tmp_path / "checkpoint-5")
    assert back.seen == clips[done : done + 2]


def test_a_checkpoint_that_does_not_tell_its_clips(tmp_path, folder, whole):
    resumed = trainer_of(tmp_path, [str(folder)])
    (tmp_path / "checkpoint-3").mkdir()
    for file in (whole / "checkpoint-3").iterdir():
        if file.name not in ("position.json", "manifest.json"):  # as an earlier version wrote it
            (tmp_path / "checkpoint-3" / file.name).write_bytes(file.read_bytes())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same_checkpoint(tmp_path / "checkpoint-5", whole / "checkpoint-5")


def test_a_streamed_corpus_with_another_batch(tmp_path, sources):
    """An epoch of ten clips, of which 6 are seen two at a time and 4 one at a time: each once."""
    first = trainer_of(tmp_path / "first", sources["streamed tars"](), max_steps=3)
    first.train()
    settings = {"max_steps": 7, "per_device_train_batch_size": 1}
    second = trainer_of(tmp_path / "second", sources["streamed tars"](), **settings)
    resume(second, tmp_path / "first" / "checkpoint-3")
    names = sorted(path.name.rpartition(":")[2] for path, _ in first.seen + second.seen)
    assert names == [f"{number}.mp4" for number in range(NUM_VIDEOS)]
    assert len({seed for _, seed in first.seen + second.seen}) == NUM_VIDEOS


def test_a_streamed_corpus_with_another_number_of_workers(tmp_path, sources):
    """What each of two workers had left is read by fewer of them: nothing is skipped, nothing seen twice."""
    settings = {"max_steps": 8, "per_device_train_batch_size": 1}
    whole = trainer_of(tmp_path / "whole", sources["streamed tars"](), dataloader_num_workers=2, **settings)
    whole.train()
    for workers in (0, 1):
        resumed = trainer_of(
            tmp_path / str(workers), sources["streamed tars"](), dataloader_num_workers=workers, **settings
        )
        resume(resumed, tmp_path / "whole" / "checkpoint-3")
        assert resumed.seen == whole.seen[3:]
    refused = trainer_of(tmp_path / "3", sources["streamed tars"](), dataloader_num_workers=3, **settings)
    with pytest.raises(StreamError, match=r"num_workers=3 cannot continue .* 2 lanes: choose one of \[0, 1, 2\]"):
        resume(refused, tmp_path / "whole" / "checkpoint-3")


def test_weights_alone_are_no_checkpoint_to_resume(tmp_path, folder):
    trainer_of(tmp_path, [str(folder)], max_steps=1, save_only_model=True).train()
    with pytest.raises(UnusableCheckpointError, match="checkpoint-1 has no scheduler.pt, only weights"):
        trainer_of(tmp_path, [str(folder)]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
