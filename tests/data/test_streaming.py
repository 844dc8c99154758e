import itertools
import json
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, IterableDataset, Value, Video, load_dataset
from PIL import Image
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from videos import write_tar, write_video

from transformers_vjepa.data import clip_reading, streaming
from transformers_vjepa.data.clip_reading import Decoding, TooManyBrokenVideosError
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.corpus import SubsetCorpus
from transformers_vjepa.data.lanes import record_cursors
from transformers_vjepa.data.streaming import (
    Augmentation,
    CorpusSource,
    StreamPosition,
    StreamShare,
    clip_stream,
    parse_sources,
)
from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling
from transformers_vjepa.models.vjepa.configuration_vjepa import VJEPAConfig
from transformers_vjepa.pretraining.masking import VJEPAMaskCollator

CONFIG = VJEPAConfig(crop_size=16, patch_size=8, frames_per_clip=4)
SAMPLING = ClipSampling(num_frames=4, frame_step=2)
NUM_VIDEOS = 10

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Ten videos of two classes, told apart by their brightness."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        write_video(root / "ab"[number % 2] / f"{number}.mp4", level=20 * number + 20)
    return root


@pytest.fixture(scope="module")
def files(folder) -> list[Path]:
    return sorted(folder.rglob("*.mp4"), key=lambda path: int(path.stem))


@pytest.fixture(scope="module")
def tars(files, tmp_path_factory) -> Path:
    """The same videos in three tars."""
    root = tmp_path_factory.mktemp("tars")
    for shard in range(3):
        members = {path.name: path.read_bytes() for path in files[shard::3]}
        write_tar(root / f"{shard}.tar", members)
    return root


def test_a_data_set_in_memory_is_a_source(tmp_path):
    paths = [str(write_video(tmp_path / f"{number}.mp4", level=60 * number, num_frames=8)) for number in range(3)]
    source = Dataset.from_dict({"video": paths}).cast_column("video", Video())
    stream = clip_stream(source, config=CONFIG, sampling=ClipSampling(num_frames=4, frame_step=1))
    seen = {example["path"] for example in itertools.islice(stream, 12)}
    assert len(seen) == 3


def streamed_tars(tars: Path) -> IterableDataset:
    files = sorted(str(path) for path in tars.iterdir())
    return load_dataset("webdataset", data_files={"train": files}, split="train", streaming=True)


def write_parquet(files, path: Path) -> Path:
    features = Features({"video": Video(), "label": Value("int64")})
    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    dataset = Dataset.from_dict({"video": cells, "label": list(range(len(files)))}, features=features)
    dataset.to_parquet(path, batch_size=2)
    return path


def loader(
    sources,
    *,
    batch_size=3,
    num_workers=0,
    rank=0,
    world_size=1,
    start=0,
    cursors=None,
    max_broken_share=0.05,
    **kwargs,
) -> DataLoader:
    position = StreamPosition()
    stream = clip_stream(
        sources,
        config=CONFIG,
        sampling=SAMPLING,
        position=position,
        share=StreamShare(rank, world_size, num_workers, batch_size),
        decoding=Decoding(max_broken_share=max_broken_share),
        **kwargs,
    )
    position.seek(start, cursors=cursors)  # late: after the data set was made
    return DataLoader(stream, batch_size=batch_size, num_workers=num_workers)


def take(number: int, sources, **kwargs) -> list[dict]:
    return next_batches(number, loader(sources, **kwargs))


def next_batches(number: int, batches: DataLoader) -> list[dict]:
    batches = iter(batches)
    try:
        return [next(batches) for _ in range(number)]
    finally:
        # An iterator that `pytest.raises` keeps alive would wait 5 s for each worker when it is collected.
        getattr(batches, "_shutdown_workers", lambda: None)()


def names(batches) -> list[str]:
    return [Path(path).name for batch in batches for path in batch["path"]]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        assert batch["path"] == other["path"]
        for key in ("pixel_values_videos", "clip_seed", "label", "num_skipped"):
            assert torch.equal(batch[key], other[key]), key


def test_examples_are_uint8_clips_with_their_video(folder):
    (batch,) = take(1, str(folder), batch_size=5)
    assert batch.keys() == {"pixel_values_videos", "clip_seed", "path", "label", "num_skipped"}
    assert batch["pixel_values_videos"].shape == (5, 4, 3, 16, 16)
    assert batch["pixel_values_videos"].dtype == torch.uint8
    for clip, path, label in zip(batch["pixel_values_videos"], batch["path"], batch["label"], strict=True):
        number = int(Path(path).stem)
        assert abs(clip.float().mean() - (20 * number + 20)) < 3
        assert label == number % 2
    assert len(set(batch["clip_seed"].tolist())) == 5
    assert batch["num_skipped"].tolist() == [0] * 5


def test_segments_are_cropped_each_by_itself(folder):
    [batch] = take(1, str(folder), num_segments=3)
    assert batch["pixel_values_videos"].shape == (3, 3, 4, 3, 16, 16)
    # The order of videos is that of single clips, and so is everything that the number of segments does not change.
    [single] = take(1, str(folder))
    assert names([batch]) == names([single])
    assert batch["clip_seed"].tolist() == single["clip_seed"].tolist()


def test_stream_is_endless_and_each_epoch_holds_each_video_once(folder):
    seen = names(take(6, str(folder), batch_size=5))
    epochs = [seen[start : start + NUM_VIDEOS] for start in (0, 10, 20)]
    assert all(sorted(epoch) == [f"{n}.mp4" for n in range(NUM_VIDEOS)] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert names(take(2, str(folder), batch_size=5, seed=1)) != epochs[0]


def test_without_shuffle_videos_come_in_order(folder, files):
    expected = [path.name for path in sorted(files)]
    assert names(take(2, str(folder), batch_size=5, shuffle=False)) == expected


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_batches_do_not_depend_on_the_number_of_workers(folder, num_workers):
    assert_same(take(7, str(folder), num_workers=num_workers), take(7, str(folder)))


def test_ranks_share_out_the_global_order(folder):
    whole = take(5, str(folder), batch_size=4)
    ranks = [take(5, str(folder), batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    for batch, first, second in zip(whole, *ranks, strict=True):
        assert batch["path"] == first["path"] + second["path"]
        pixels = torch.cat([first["pixel_values_videos"], second["pixel_values_videos"]])
        assert torch.equal(batch["pixel_values_videos"], pixels)
        assert batch["clip_seed"].tolist() == first["clip_seed"].tolist() + second["clip_seed"].tolist()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_gives_the_batches_of_the_uninterrupted_run(folder, tars, num_workers):
    mix = [CorpusSource(str(folder), 0.7), CorpusSource(str(tars), 0.3)]
    for sources in (str(folder), mix):
        whole = take(7, sources)
        assert_same(take(4, sources, start=3, num_workers=num_workers), whole[3:])


def test_resume_reads_nothing_again(folder, monkeypatch):
    read = []
    read_frames = streaming.read_frames
    monkeypatch.setattr(
        streaming, "read_frames", lambda clip, **kwargs: (read.append(clip.path), read_frames(clip, **kwargs))[1]
    )
    (batch,) = take(1, str(folder), start=1000)
    assert read == batch["path"]


def test_epochs_of_the_data_set_do_not_disturb_it(folder):
    # accelerate calls `set_epoch`, upon which `datasets` shuffles the shards.
    whole = take(3, str(folder))
    for num_workers in (0, 2):
        batches = loader(str(folder), num_workers=num_workers)
        batches.dataset.set_epoch(5)
        assert_same(next_batches(3, batches), whole)


def test_sources_of_all_kinds_give_the_same_clips(folder, files, tars, tmp_path):
    index = tmp_path / "index.csv"
    index.write_text("".join(f"{path} {number}\n" for number, path in enumerate(files)))
    parquet = write_parquet(files, tmp_path / "videos.parquet")
    in_tars = [path for shard in range(3) for path in files[shard::3]]
    for source, order in ((index, files), (parquet, files), (tars, in_tars)):
        (batch,) = take(1, str(source), batch_size=NUM_VIDEOS, shuffle=False)
        expected = [20 * int(path.stem) + 20 for path in order]
        levels = batch["pixel_values_videos"].float().mean((1, 2, 3, 4)).tolist()
        assert levels == pytest.approx(expected, abs=3)
    assert take(1, str(index), batch_size=3, shuffle=False)[0]["label"].tolist() == [0, 1, 2]


def test_images_are_clips_of_one_frame_or_still(tmp_path):
    for number in range(3):
        image = Image.fromarray(np.full((20, 30, 3), 50 * number + 50, dtype=np.uint8))
        image.save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    config = VJEPAConfig(crop_size=16, patch_size=8, frames_per_clip=1, tubelet_size=1)
    stream = clip_stream(str(tmp_path), config=config, sampling=ClipSampling(num_frames=1), shuffle=False)
    clips = iter(stream)
    clips = [next(clips) for _ in range(4)]
    assert clips[0]["pixel_values_videos"].shape == (1, 3, 16, 16)
    assert [int(clip["pixel_values_videos"].float().mean()) for clip in clips[:3]] == [50, 100, 150]
    assert [clip["num_skipped"] > 0 for clip in clips] == [False, False, False, True]
    still = next(iter(clip_stream(str(tmp_path), config=CONFIG, sampling=SAMPLING, shuffle=False)))
    assert still["pixel_values_videos"].shape == (4, 3, 16, 16)
    assert (still["pixel_values_videos"] == 50).all()


def test_mix_has_its_proportions(folder, tars, monkeypatch):
    frames = torch.zeros(1, 4, 3, 20, 20, dtype=torch.uint8)
    monkeypatch.setattr(streaming, "read_frames", lambda clip, **kwargs: frames)
    mix = [CorpusSource(str(folder), 3), CorpusSource(str(tars), 1)]
    paths = [path for batch in take(20, mix, batch_size=100) for path in batch["path"]]
    for block in (paths[:1000], paths[1000:]):
        assert sum("::" in path for path in block) == 250


# Streamed corpora


@pytest.mark.parametrize("num_workers, least", [(0, 10), (1, 10), (2, 3), (3, 3), (5, 1)])
def test_streamed_corpus_reads_all_videos_equally_and_nothing_twice(tars, num_workers, least):
    # Three shards of 4, 3 and 3 videos; up to five lanes, of which some then share a shard. `least` is the
    # smallest number of videos that one of the lanes holds.
    lanes = max(1, num_workers)
    batches = take(NUM_VIDEOS * lanes, streamed_tars(tars), batch_size=1, num_workers=num_workers)
    everything = sorted(f"the data set::{n}.mp4" for n in range(NUM_VIDEOS))
    lane_names = [names(batches[lane::lanes]) for lane in range(lanes)]
    # Lanes rotate their parts between epochs, so after `lanes` rounds each lane has given every video once.
    assert all(sorted(seen) == everything for seen in lane_names)
    first = [name for seen in lane_names for name in seen[:least]]
    assert len(set(first)) == len(first)


def test_streamed_ranks_do_not_overlap(tars):
    ranks = [take(3, streamed_tars(tars), batch_size=1, rank=rank, world_size=3) for rank in range(3)]
    seen = names(batch for rank in ranks for batch in rank)
    assert len(set(seen)) == 9


@pytest.mark.parametrize("kind", ["tars", "parquet"])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 2, 5, 9])
def test_streamed_corpus_resumes_from_cursors(files, tars, tmp_path, num_workers, kind, stop):
    def source():
        if kind == "tars":
            return streamed_tars(tars)
        path = write_parquet(files, tmp_path / "x.parquet")
        return load_dataset("parquet", data_files={"train": str(path)}, split="train", streaming=True)

    settings = {"batch_size": 2, "num_workers": num_workers, "shuffle_buffer": 3}
    whole = take(13, source(), **settings)
    cursors = {}
    for batch in whole[:stop]:
        record_cursors(cursors, batch["cursor"])
    cursors = json.loads(json.dumps(cursors))
    assert_same(take(13 - stop, source(), start=stop, cursors=cursors, **settings), whole[stop:])
    # Again from where a resumed run got to.
    for batch in take(2, source(), start=stop, cursors=cursors, **settings):
        record_cursors(cursors, batch["cursor"])
    assert_same(take(2, source(), start=stop + 2, cursors=cursors, **settings), whole[stop + 2 : stop + 4])


def test_streamed_corpus_saved_with_two_workers_resumes_without(tars):
    whole = take(8, streamed_tars(tars), num_workers=2)
    cursors = {}
    for batch in whole[:3]:
        record_cursors(cursors, batch["cursor"])
    assert_same(take(5, streamed_tars(tars), start=3, cursors=cursors), whole[3:])
    with pytest.raises(ValueError, match=r"num_workers=3 cannot continue .* 2 lanes: choose one of \[0, 1, 2\]"):
        take(1, streamed_tars(tars), start=3, cursors=cursors, num_workers=3)


def test_streamed_corpus_in_a_mix_resumes(folder, tars):
    mix = [CorpusSource(str(folder), 0.5), CorpusSource(streamed_tars(tars), 0.5)]
    whole = take(8, mix, num_workers=2)
    cursors = {}
    for batch in whole[:3]:
        record_cursors(cursors, batch["cursor"])
    assert_same(take(5, mix, num_workers=2, start=3, cursors=cursors), whole[3:])


def test_cursors_must_fit(tars):
    cursors = {}
    record_cursors(cursors, take(1, streamed_tars(tars))[0]["cursor"])
    assert cursors.keys() == {"0/0"}
    with pytest.raises(ValueError, match="saved by 1 processes, this run has 2: .*launch with --num_processes 1"):
        take(1, streamed_tars(tars), start=1, cursors=cursors, world_size=2)
    with pytest.raises(ValueError, match="cannot seek to batch 4 without cursors: pass the cursors"):
        take(1, streamed_tars(tars), start=4)


def test_streamed_corpus_without_rows_for_a_lane(files, tmp_path):
    write_tar(tmp_path / "0.tar", {"a.mp4": files[0].read_bytes()})
    with pytest.raises(ValueError, match="has no rows for reader 1 of 2"):
        take(2, streamed_tars(tmp_path), batch_size=1, num_workers=2)


# Open corpora and images


def test_opened_corpora_are_streamed_as_they_are(folder):
    corpus = open_corpus(str(folder))
    assert_same(take(3, corpus), take(3, str(folder)))
    half = SubsetCorpus(corpus, range(0, NUM_VIDEOS, 2))
    paths = {path for batch in take(4, [half, CorpusSource(half)]) for path in batch["path"]}
    assert paths == {half.describe(index) for index in range(len(half))}


def test_image_is_cropped_once_and_repeated(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    [batch] = take(1, str(tmp_path), batch_size=1)
    clip = batch["pixel_values_videos"][0]
    assert clip.shape == (4, 3, 16, 16) and all(torch.equal(frame, clip[0]) for frame in clip)
    [batch] = take(1, str(tmp_path), batch_size=1, num_segments=2)
    segments = batch["pixel_values_videos"][0]
    assert segments.shape == (2, 4, 3, 16, 16)
    assert torch.equal(segments[0], clip) and not torch.equal(segments[1], clip)
    # The frames of the example are views of one frame.
    example = next(iter(clip_stream(str(tmp_path), config=CONFIG, sampling=SAMPLING)))
    assert example["pixel_values_videos"].stride(0) == 0


# Broken videos


@pytest.fixture
def partly_broken(folder, tmp_path) -> Path:
    root = tmp_path / "videos"
    shutil.copytree(folder, root)
    (root / "a" / "broken.mp4").write_bytes(b"noise" * 100)
    (root / "b" / "dangling.mp4").symlink_to(root / "nowhere.mp4")
    return root


def test_broken_videos_are_replaced_counted_and_named(partly_broken, caplog):
    with caplog.at_level(logging.WARNING):
        batches = take(4, str(partly_broken), max_broken_share=0.9)
    seen = names(batches)
    assert "broken.mp4" not in seen and "dangling.mp4" not in seen
    assert len(set(seen)) == NUM_VIDEOS  # twelve positions: all good videos, and two replacements
    skipped = torch.cat([batch["num_skipped"] for batch in batches])
    assert (skipped > 0).sum() == 2
    messages = [record.getMessage() for record in caplog.records if record.name == clip_reading.__name__]
    assert len(messages) == skipped.sum()
    assert any("a/broken.mp4 (CorruptVideoError: " in message for message in messages)
    assert any("b/dangling.mp4 (" in message for message in messages)
    assert_same(take(4, str(partly_broken), max_broken_share=0.9, num_workers=2), batches)


def test_broken_videos_in_a_streamed_corpus_are_passed_over(files, tmp_path):
    videos = [files[0].read_bytes(), b"noise" * 50, None, files[3].read_bytes()]
    features = Features({"video": Value("binary")})
    dataset = Dataset.from_dict({"video": videos}, features=features).to_iterable_dataset()
    (batch,) = take(1, dataset, batch_size=3, shuffle=False)
    assert batch["path"] == [f"the data set::row {row} of reader 0/1" for row in (0, 3, 0)]
    assert batch["num_skipped"].tolist() == [0, 2, 0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_broken_videos_stop_the_run(tmp_path, num_workers):
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(b"noise")
    with pytest.raises(TooManyBrokenVideosError, match=r"20 of the last 20 videos are broken \(100.0%\)"):
        take(1, str(tmp_path), num_workers=num_workers)


def test_our_own_mistakes_are_not_taken_for_broken_videos(folder):
    stream = clip_stream(str(folder), config=CONFIG, sampling=SAMPLING, decoding=Decoding(backend="abacus"))
    with pytest.raises(ValueError, match="backend"):
        next(iter(stream))


# The data set


def test_is_a_data_set_of_the_hugging_face_stack_and_pickles(folder, tars):
    for source in (str(folder), streamed_tars(tars)):
        position = StreamPosition()
        stream = clip_stream(
            source, config=CONFIG, sampling=SAMPLING, position=position, share=StreamShare(num_workers=2)
        )
        assert isinstance(stream, IterableDataset) and stream.num_shards == 2
        position.seek(0)
        copy = pickle.loads(pickle.dumps(stream))
        assert torch.equal(next(iter(copy))["pixel_values_videos"], next(iter(stream))["pixel_values_videos"])


def test_position_travels_with_a_pickled_stream(folder):
    # What a DataLoader does that starts its workers by spawn.
    position = StreamPosition()
    stream = clip_stream(str(folder), config=CONFIG, sampling=SAMPLING, position=position)
    position.seek(7)
    copy = pickle.loads(pickle.dumps(stream))
    assert next(iter(copy))["path"] == take(8, str(folder), batch_size=1)[7]["path"][0]


def test_goes_through_the_mask_collator(folder):
    config = VJEPAConfig(crop_size=64, patch_size=8, frames_per_clip=4)
    stream = clip_stream(str(folder), config=config, sampling=SAMPLING, share=StreamShare(batch_size=2))
    batch = next(iter(DataLoader(stream, batch_size=2, collate_fn=VJEPAMaskCollator(config))))
    assert batch["pixel_values_videos"].shape == (2, 4, 3, 64, 64)
    assert len(batch["context_mask"]) == len(batch["target_mask"]) == 2
    assert batch["num_skipped"].tolist() == [0, 0]


def test_refuses_a_loader_with_another_number_of_workers(folder):
    stream = clip_stream(str(folder), config=CONFIG, sampling=SAMPLING, share=StreamShare(num_workers=2))
    with pytest.raises(ValueError, match="num_workers=1, but the stream was made for num_workers=2"):
        next_batches(1, DataLoader(stream, num_workers=1))


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        (StreamShare, {"rank": 2, "world_size": 2}, r"rank=2 must lie in \[0, world_size=2\)"),
        (StreamShare, {"rank": -1}, r"rank=-1 must lie in \[0, world_size=1\)"),
        (StreamShare, {"batch_size": 0}, "batch_size=0 must be at least 1"),
        (StreamShare, {"num_workers": -1}, "num_workers=-1 must be at least 0"),
        (
            Augmentation,
            {"crop_scale": (0.0, 1.0)},
            r"`crop_scale`=\(0.0, 1.0\) must be a pair with 0 < low <= high <= 1",
        ),
        (Augmentation, {"crop_ratio": (2.0, 1.0)}, r"ratio`=\(2.0, 1.0\) must be a pair with 0 < low <= high"),
        (Augmentation, {"flip_probability": 1.5}, r"flip_probability`=1.5 must lie in \[0, 1\]"),
        (Decoding, {"max_broken_share": 1.0}, r"max_broken_share=1.0 must lie in \[0, 1\)"),
        (Decoding, {"timeout": -1}, "decode_timeout=-1 must be at least 0"),
        (Decoding, {"cache_bytes": -1}, "cache_bytes=-1 must be at least 0"),
    ],
)
def test_groups_of_settings_refuse_values(group, values, message):
    with pytest.raises(ValueError, match=message):
        group(**values)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shuffle_buffer": 0}, "shuffle_buffer=0 must be at least 1"),
        ({"num_segments": 0}, "num_segments=0 must be at least 1"),
        ({"sampling": ClipSampling(num_frames=16)}, "num_frames=16 differs from config.frames_per_clip=4: give both"),
    ],
)
def test_refuses_settings(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        clip_stream(str(folder), **{"config": CONFIG, "sampling": SAMPLING, **settings})


def test_share_of_a_training(tmp_path):
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=3, dataloader_num_workers=2, use_cpu=True, report_to="none"
    )
    assert StreamShare.from_training_arguments(args) == StreamShare(rank=0, world_size=1, num_workers=2, batch_size=3)


def test_augmentation_determines_crop_and_flip(tmp_path):
    # The left half is black, the right half white. A whole frame is cropped and resized to 16 x 16.
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:, 16:] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    for flip_probability, left in ((0.0, 0), (1.0, 255)):
        augmentation = Augmentation((1.0, 1.0), (1.0, 1.0), flip_probability)
        [batch] = take(1, str(tmp_path), batch_size=1, augmentation=augmentation)
        clip = batch["pixel_values_videos"][0]
        assert (clip[..., :8] == left).all() and (clip[..., 8:] == 255 - left).all()


def test_automatic_augmentation_is_a_function_of_the_position(tmp_path):
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    augmentation = Augmentation(auto_augment="rand", crop="center", flip_probability=0.0)
    whole = [batch["pixel_values_videos"] for batch in take(6, str(tmp_path), batch_size=1, augmentation=augmentation)]
    [again] = take(1, str(tmp_path), batch_size=1, augmentation=augmentation, start=4)
    assert torch.equal(again["pixel_values_videos"], whole[4])
    assert len({clip.sum().item() for clip in whole}) > 3


def test_cached_videos_give_the_same_clips(folder):
    stream = clip_stream(str(folder), config=CONFIG, sampling=SAMPLING, decoding=Decoding(cache_bytes=10**7))
    whole = names(take(12, str(folder), batch_size=1))
    assert [Path(example["path"]).name for example in itertools.islice(stream, 12)] == whole


def test_example_of_the_docstring(tmp_path, monkeypatch, capsys):
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4", level=80 * number, num_frames=8)
    monkeypatch.chdir(tmp_path)
    exec(clip_stream.__doc__.partition("```python\n")[2].partition("```")[0].replace("\n    ", "\n").lstrip(), {})
    assert capsys.readouterr().out == "torch.Size([2, 8, 3, 32, 32])\n"


def test_refuses_no_source_and_empty_corpora(tmp_path):
    with pytest.raises(ValueError, match="no source given"):
        clip_stream([], config=CONFIG, sampling=SAMPLING)
    write_tar(tmp_path / "x.tar", {"readme.txt": b"nothing"})
    with pytest.raises(FileNotFoundError, match="x.tar holds no videos or images"):
        clip_stream(str(tmp_path / "x.tar"), config=CONFIG, sampling=SAMPLING)
    with pytest.raises(ValueError, match="start_batch=-1 must be at least 0"):
        StreamPosition().seek(-1)


def test_parse_sources():
    assert parse_sources(["k710.csv=0.6", "clips/=0.4"]) == [
        CorpusSource("k710.csv", 0.6),
        CorpusSource("clips/", 0.4),
    ]
    assert parse_sources(["user/name", "a=b/c.csv"]) == [CorpusSource("user/name"), CorpusSource("a=b/c.csv")]
    assert parse_sources(["a=b.csv=2"]) == [CorpusSource("a=b.csv", 2.0)]


@pytest.mark.parametrize("query", ["?token=123", "?X-Amz-Signature=ab&X-Amz-Expires=3600", "?sig=ab==", "?sig=a%3D"])
def test_values_in_the_query_of_an_address_are_not_weights(query):
    address = f"https://host/x.tar{query}"
    assert parse_sources([address, f"{address}=0.3"]) == [CorpusSource(address), CorpusSource(address, 0.3)]


def test_paths_that_look_like_weights(tmp_path):
    (tmp_path / "year=2024").mkdir()
    path = str(tmp_path / "year=2024")
    assert parse_sources([path, f"{path}=0.5"]) == [CorpusSource(path), CorpusSource(path, 0.5)]
