"""`transformers.pipeline` on a saved folder: videos and images, in every form that they accept."""

import logging
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from reference import TINY
from transformers import pipeline
from videos import write_video

from transformers_vjepa import (
    VJEPAConfig,
    VJEPAForVideoClassification,
    VJEPAImageProcessor,
    VJEPAModel,
    VJEPAVideoProcessor,
)
from transformers_vjepa.models.vjepa.clip_sampling import (
    ClipSampling,
    CorruptVideoError,
    DecodingError,
    TooShortVideoError,
)
from transformers_vjepa.models.vjepa.clip_transforms import (
    normalize_clips,
    resize_and_center_crop,
    resize_and_crop_views,
)
from transformers_vjepa.models.vjepa.decoding import read_segments

CLIP = ClipSampling(num_frames=4, frame_step=4)
NAMES = ("push", "hug", "kick", "point", "punch", "shake", "wave")


@pytest.fixture(scope="module")
def model() -> VJEPAForVideoClassification:
    torch.manual_seed(0)
    config = VJEPAConfig(**TINY, id2label=dict(enumerate(NAMES)), label2id={name: i for i, name in enumerate(NAMES)})
    model = VJEPAForVideoClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.normal_()  # so that the scores depend on the video
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pipelines") / "model"
    model.save_pretrained(path)
    VJEPAVideoProcessor(crop_size=32).save_pretrained(path)
    VJEPAImageProcessor(crop_size=32).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Two videos of 24 grey frames, a dark and a bright one."""
    path = tmp_path_factory.mktemp("videos")
    return [write_video(path / f"{level}.mp4", level=level, num_frames=24) for level in (40, 200)]


@pytest.fixture(scope="module")
def frames(files) -> np.ndarray:
    """The first video, decoded: (frames, height, width, channels)."""
    decoded = read_segments(files[0], num_segments=1, sampling=ClipSampling(num_frames=24, frame_step=1))
    return decoded[0].permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def classify(folder):
    return pipeline("video-classification", str(folder), device="cpu")


@pytest.fixture(scope="module")
def classify_images(folder):
    return pipeline("image-classification", str(folder), device="cpu")


@pytest.fixture(scope="module")
def image() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8))


@torch.no_grad()
def logits_of(model: VJEPAForVideoClassification, path: Path) -> torch.Tensor:
    """Logits of the middle clip, without a processor."""
    clip = read_segments(path, num_segments=1, sampling=CLIP)[0]
    return model(normalize_clips(resize_and_center_crop(clip, size=32))[None]).logits[0]


def as_table(answers: list[dict]) -> dict[str, float]:
    return {answer["label"]: answer["score"] for answer in answers}


def expected_table(scores: torch.Tensor) -> dict[str, float]:
    return pytest.approx(dict(zip(NAMES, scores.tolist(), strict=True)), abs=1e-5)


# --- videos


def test_video_from_path_bytes_and_frames(classify, model, files, frames):
    expected = expected_table(logits_of(model, files[0]).softmax(-1))
    for video in (str(files[0]), files[0].read_bytes(), frames, torch.from_numpy(frames)):
        assert as_table(classify(video, top_k=7)) == expected


def test_the_clip_has_the_frames_of_the_model(classify, model, frames):
    # 24 frames, 13 of them spanned: 12 starts, the middle one is 6. A clip of other frames scores differently.
    shifted = np.concatenate([255 - frames[:6], frames[6:19], 255 - frames[19:]])
    assert as_table(classify(shifted, top_k=7)) == as_table(classify(frames, top_k=7))
    changed = frames.copy()
    changed[[6, 10, 14, 18]] = 255 - changed[[6, 10, 14, 18]]
    assert as_table(classify(changed, top_k=7)) != pytest.approx(as_table(classify(frames, top_k=7)), abs=1e-3)
    # A clip that was sampled before is used unchanged.
    changed[10] = 0
    assert as_table(classify(changed[[6, 10, 14, 18]], top_k=7)) == as_table(classify(changed, top_k=7))


def test_several_videos(classify, model, files, frames):
    inputs = [str(files[0]), files[1].read_bytes(), frames]
    expected = [expected_table(logits_of(model, files[index]).softmax(-1)) for index in (0, 1, 0)]
    for batch_size in (1, 2):
        answers = classify(inputs, top_k=7, batch_size=batch_size)
        assert [as_table(answer) for answer in answers] == expected
    assert expected[0] != dict(zip(NAMES, logits_of(model, files[1]).softmax(-1).tolist(), strict=True))


def test_best_classes_and_functions(classify, model, files):
    logits = logits_of(model, files[0])
    best = [NAMES[index] for index in logits.argsort(descending=True)]
    answers = classify(str(files[0]), top_k=2)
    assert [answer["label"] for answer in answers] == best[:2]
    assert [answer["label"] for answer in classify(str(files[0]))] == best[:5]
    assert len(classify(str(files[0]), top_k=100)) == 7
    for name, function in (("none", torch.clone), ("sigmoid", torch.sigmoid)):
        answers = classify(str(files[0]), top_k=7, function_to_apply=name)
        assert as_table(answers) == expected_table(function(logits))


def test_protocol_of_the_saved_processor(model, folder, files, tmp_path):
    """Segments and views in the settings: the pipeline averages probabilities over views, as published."""
    model.save_pretrained(tmp_path)
    VJEPAVideoProcessor(crop_size=32, num_segments=2, num_views=3).save_pretrained(tmp_path)
    classify = pipeline("video-classification", str(tmp_path), device="cpu")
    segments = read_segments(files[0], num_segments=2, sampling=CLIP)
    views = torch.stack([normalize_clips(resize_and_crop_views(clip, size=32)) for clip in segments], dim=1)
    with torch.no_grad():
        tokens = [torch.cat([model.vjepa(clip[None]).last_hidden_state for clip in view], dim=1) for view in views]
        scores = torch.stack([model.classifier(model.pooler(view)).softmax(-1) for view in tokens]).mean(0)
    assert as_table(classify(str(files[0]), top_k=7)) == expected_table(scores[0])


def test_errors_of_bad_videos_name_the_problem(classify, files, frames, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(files[0].read_bytes()[:200])
    short = write_video(tmp_path / "short.mp4", level=9, num_frames=3)
    for video in (str(broken), broken.read_bytes()):
        with pytest.raises(CorruptVideoError, match="broken.mp4|<200 bytes>"):
            classify(video)
    with pytest.raises(CorruptVideoError, match="broken.mp4"):
        classify([str(files[0]), str(broken)])
    for video, name in ((str(short), "short.mp4"), (frames[:3], "<array>")):
        with pytest.raises(TooShortVideoError, match=f"{name}: 3 frames are fewer than the 4 of a clip"):
            classify(video)
    with pytest.raises(DecodingError, match="gone.mp4: there is no such file"):
        classify(str(tmp_path / "gone.mp4"))


# --- images


@torch.no_grad()
def still_clip(image: PIL.Image.Image) -> torch.Tensor:
    frames = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    return normalize_clips(resize_and_center_crop(frames, size=32)).expand(4, -1, -1, -1)[None]


def test_image_classification(classify_images, model, image, tmp_path):
    with torch.no_grad():
        expected = expected_table(model(still_clip(image)).logits[0].softmax(-1))
    image.save(tmp_path / "image.png")
    array = np.array(image)
    for given in (image, str(tmp_path / "image.png"), array, torch.from_numpy(array)):
        assert as_table(classify_images(given, top_k=7)) == expected
    answers = classify_images([image, str(tmp_path / "image.png")], top_k=7, batch_size=2)
    assert [as_table(answer) for answer in answers] == [expected, expected]


def test_functions_on_images(classify_images, model, image):
    with torch.no_grad():
        logits = model(still_clip(image)).logits[0]
    assert as_table(classify_images(image, top_k=7, function_to_apply="none")) == expected_table(logits)
    assert [answer["label"] for answer in classify_images(image, top_k=1)] == [NAMES[logits.argmax()]]


def test_image_features(folder, model, image):
    extract = pipeline("image-feature-extraction", str(folder), device="cpu")
    assert isinstance(extract.model, VJEPAModel)
    with torch.no_grad():
        expected = model.vjepa(still_clip(image)).last_hidden_state
    torch.testing.assert_close(extract(image, return_tensors=True), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(extract(image)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", ["video-classification", "image-classification"])
def test_no_pipeline_complains(folder, task, caplog, monkeypatch):
    # By default the logger of transformers does not propagate its messages.
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        assert pipeline(task, str(folder), device="cpu").task == task
    assert [record.getMessage() for record in caplog.records] == []
