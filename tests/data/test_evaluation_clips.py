import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from torch.utils.data import DataLoader
from videos import write_tar, write_video

from transformers_vjepa.data import clip_reading, evaluation_clips
from transformers_vjepa.data.clip_reading import TooManyBrokenVideosError
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.corpus import SubsetCorpus
from transformers_vjepa.data.evaluation_clips import (
    ClipGeometry,
    EvaluationClips,
    StreamedEvaluationClips,
    collate_evaluation_clips,
    read_evaluation_clips,
)
from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling
from transformers_vjepa.models.vjepa.clip_transforms import resize_and_center_crop, resize_and_crop_views
from transformers_vjepa.models.vjepa.decoding import read_segments

SAMPLING = ClipSampling(num_frames=4, frame_step=2)
GEOMETRY = ClipGeometry(crop_size=16, sampling=SAMPLING)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Seven videos of two classes, told apart by their brightness, and a broken one."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(7):
        write_video(root / "ab"[number % 2] / f"{number}.mp4", level=30 * number + 20)
    (root / "a" / "broken.mp4").write_bytes(b"noise")
    return root


def clips_of(folder, **settings):
    return EvaluationClips(open_corpus(folder), replace(GEOMETRY, **settings))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_video_comes_once_in_order(folder, num_workers):
    loader = DataLoader(clips_of(folder), batch_size=3, num_workers=num_workers, collate_fn=collate_evaluation_clips)
    batches = list(loader)
    assert [Path(path).name for batch in batches for path in batch["path"]] == [
        f"{n}.mp4" for n in (0, 2, 4, 6, 1, 3, 5)
    ]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert [tuple(batch["pixel_values_videos"].shape) for batch in batches] == [
        (3, 1, 1, 4, 3, 16, 16),
        (2, 1, 1, 4, 3, 16, 16),
        (2, 1, 1, 4, 3, 16, 16),
    ]
    [(index, path, error)] = [entry for batch in batches for entry in batch["broken"]]
    assert (index, path) == (4, str(folder / "a" / "broken.mp4"))
    assert error.startswith("CorruptVideoError: it begins as a text or playlist (b'noise')")


def test_batch_of_broken_videos_has_no_pixels(folder):
    batch = collate_evaluation_clips([clips_of(folder)[4]])
    assert batch["pixel_values_videos"] is None and batch["path"] == []
    assert batch["labels"].dtype == batch["index"].dtype == torch.int64
    assert len(batch["broken"]) == 1


def test_video_without_enough_frames_is_broken(folder):
    item = clips_of(folder, sampling=ClipSampling(num_frames=16))[0]
    assert (
        item["error"]
        == "TooShortVideoError: 12 frames are fewer than the 16 of a clip: take longer videos, or shorter clips"
    )


@pytest.mark.parametrize(("num_segments", "num_views"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_segments_and_views_are_those_of_the_functions_they_are_made_of(shared, num_segments, num_views):
    video = shared / "data" / "decoder" / "R6llTwEh07w.mp4"
    clips = clips_of(video, crop_size=32, num_segments=num_segments, num_views=num_views)
    pixels = clips[0]["pixel_values_videos"]
    assert pixels.dtype == torch.uint8 and pixels.shape == (num_views, num_segments, 4, 3, 32, 32)
    for segment, frames in enumerate(read_segments(video, num_segments=num_segments, sampling=SAMPLING)):
        if num_views == 1:
            expected = resize_and_center_crop(frames, size=32)[None]
        else:
            expected = resize_and_crop_views(frames, size=32, num_views=num_views)
        assert torch.equal(pixels[:, segment], expected)


def test_image_is_a_still_clip_that_is_resized_once(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    resized = []
    resize = evaluation_clips.resize_and_crop_views
    monkeypatch.setattr(
        evaluation_clips,
        "resize_and_crop_views",
        lambda frames, **kwargs: (resized.append(len(frames)), resize(frames, **kwargs))[1],
    )
    item = clips_of(tmp_path, num_segments=2, num_views=3)[0]
    assert resized == [1]
    still = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    expected = resize_and_crop_views(still, size=16)
    assert item["pixel_values_videos"].shape == (3, 2, 4, 3, 16, 16)
    assert torch.equal(item["pixel_values_videos"], expected[:, None].expand(3, 2, 4, 3, 16, 16))
    assert collate_evaluation_clips([item, item])["pixel_values_videos"].is_contiguous()


def test_broken_image_is_an_item(tmp_path):
    (tmp_path / "x.png").write_bytes(b"noise")
    (tmp_path / "y.png").touch()
    clips = clips_of(tmp_path)
    assert clips[0]["error"].startswith("CorruptVideoError")
    assert clips[1]["error"].startswith("CorruptVideoError")


def test_subset_and_pickling(folder):
    clips = EvaluationClips(SubsetCorpus(open_corpus(folder), [7, 0]), GEOMETRY)
    copy = pickle.loads(pickle.dumps(clips))
    assert len(copy) == 2
    assert [Path(copy[index]["path"]).name for index in range(2)] == ["5.mp4", "0.mp4"]
    assert [copy[index]["label"] for index in range(2)] == [1, 0]


def test_settings_that_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="`num_segments`=0 must be at least 1"):
        clips_of(folder, num_segments=0)
    with pytest.raises(ValueError, match="`num_views`=0 must be at least 1"):
        clips_of(folder, num_views=0)
    with pytest.raises(ValueError, match="holds no videos or images"):
        EvaluationClips(SubsetCorpus(open_corpus(folder), []), GEOMETRY)
    with pytest.raises(ValueError, match="backend"):  # a mistake of the caller, not a broken video
        clips_of(folder, backend="abacus")[0]


def streamed(folder):
    videos = sorted(folder.rglob("*.mp4"))
    tar = write_tar(folder.parent / "all.tar", {f"{n}.mp4": path.read_bytes() for n, path in enumerate(videos)})
    return open_corpus(load_dataset("webdataset", data_files={"train": str(tar)}, split="train", streaming=True))


def test_streamed_rows_come_in_batches_that_end_with_a_shard(folder):
    corpus = streamed(folder)
    batches = list(StreamedEvaluationClips(corpus, GEOMETRY, start=0, batch_size=2, shard_size=3))
    assert [[item["index"] for item in batch] for batch in batches] == [[0, 1], [2], [3, 4], [5], [6, 7]]
    later = list(StreamedEvaluationClips(corpus, GEOMETRY, start=3, batch_size=2, shard_size=3))
    assert [[item["index"] for item in batch] for batch in later] == [[3, 4], [5], [6, 7]]
    assert torch.equal(later[1][0]["pixel_values_videos"], batches[3][0]["pixel_values_videos"])
    assert "error" in batches[2][1]
    with pytest.raises(ValueError, match="can only be streamed: download it"):
        EvaluationClips(corpus, GEOMETRY)


def test_awkward_files_are_read_or_named(shared):
    clips = clips_of(shared / "data" / "decoder", crop_size=32, sampling=ClipSampling())
    items = [clips[index] for index in range(len(clips))]
    read = {Path(item["path"]).name for item in items if "error" not in item}
    broken = {Path(item["path"]).name for item in items if "error" in item}
    assert {"sample.mkv", "sample_av1.mp4", "no_duration.webm", "pigs_in_a_polka.gif"} <= read
    assert {"empty.mp4", "noise.mp4", "truncated.mp4", "invalid-bitstream.webm", "sample.audio.mp4"} <= broken
    assert len(read) + len(broken) == 22


def test_clips_in_memory_are_those_of_the_data_set(folder, caplog):
    clips, labels, paths = read_evaluation_clips(str(folder), crop_size=16, sampling=SAMPLING)
    assert clips.shape == (7, 4, 16, 16, 3) and clips.dtype == torch.uint8 and clips.is_contiguous()
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert [Path(path).name for path in paths] == [f"{n}.mp4" for n in (0, 2, 4, 6, 1, 3, 5)]
    item = clips_of(folder)[7]
    assert torch.equal(clips[6].permute(0, 3, 1, 2), item["pixel_values_videos"][0, 0])
    assert "skipped a broken video" in caplog.text and "broken.mp4" in caplog.text


@pytest.mark.parametrize("num_frames, noun", [(1, "image"), (4, "clip")])
def test_the_bar_counts_images_where_a_clip_has_one_frame(folder, capsys, num_frames, noun):
    read_evaluation_clips(str(folder), crop_size=16, sampling=ClipSampling(num_frames=num_frames, frame_step=2))
    bar = capsys.readouterr().err
    assert f"{noun}s: 100%" in bar and f"{noun}/s" in bar


def write_some_broken(folder, *, readable, broken):
    for number in range(readable):
        write_video(folder / f"a{number:03d}.mp4", level=9, num_frames=7)
    for number in range(broken):
        (folder / f"b{number:03d}.mp4").write_bytes(b"noise")


def test_share_of_broken_videos_counts_the_readable_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(clip_reading, "MIN_BROKEN", 2)
    write_some_broken(tmp_path, readable=40, broken=2)
    clips, _, _ = read_evaluation_clips(str(tmp_path), crop_size=8, sampling=SAMPLING)
    assert len(clips) == 40  # 2 of 42 are below 5 %
    write_some_broken(tmp_path, readable=0, broken=3)
    with pytest.raises(TooManyBrokenVideosError, match="3 of the last 43 videos are broken"):
        read_evaluation_clips(str(tmp_path), crop_size=8, sampling=SAMPLING)
