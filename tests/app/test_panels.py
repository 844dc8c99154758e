"""The HTML of the panels."""

import re
import shutil

import pytest

from transformers_vjepa import VJEPAConfig, VJEPAForVideoClassification, VJEPAVideoProcessor
from transformers_vjepa.app.analysis import Classifier, ClipError
from transformers_vjepa.app.panels import clip_panels, example_choice, mask_panel, upload_choice
from transformers_vjepa.commands import app as command

from .conftest import TINY


def test_panels_of_an_example(models):
    panels = clip_panels(models, example_choice(models, 3))
    assert "000003.mp4" in panels.status and 'role="status"' in panels.status and "motion" in panels.status
    assert panels.clip.count("<video") == 1 and "8 frames of 32 × 32 pixels, one frame in 2" in panels.clip
    assert panels.classes == ""
    assert panels.surprise.count("<svg") == 2 and panels.features.count("<svg") == 1
    assert panels.nearest.count("<video") == 6 and panels.nearest.count("this clip") == 1
    assert "not a classifier's probabilities" in panels.nearest
    figures = re.findall("<figure[^>]*>", "".join(panels))
    assert figures and all('aria-label="' in figure for figure in figures)
    assert not re.search(r'(src|href)="(https?:)?//', "".join(panels))


def test_masks_follow_strategy_and_seed(models):
    choice = example_choice(models, 3)
    first, again, other = (mask_panel(models, choice, strategy="multiblock", seed=seed) for seed in (0, 0, 1))
    assert first == again != other and first.count("<svg") == 2
    masks = models.analyzer.masks("multiblock", seed=0)
    clip = choice.read(models.analyzer)
    means = models.analyzer.mask_errors(clip, masks).means.tolist()
    assert f"<b>{means[0]:.3f} and {means[1]:.3f}</b>" in first
    assert mask_panel(models, choice, strategy="random_tube", seed=0).count("mask 1") == 2
    for seed in (None, -1, 0.5, 2**31):
        panel = mask_panel(models, choice, strategy="multiblock", seed=seed)
        assert "The seed must be a whole number from 0 to 2,147,483,647" in panel
    assert "image_multiblock" not in mask_panel(models, choice, strategy="image_multiblock", seed=0)


def test_broken_files_give_a_message_without_a_path(models, folder):
    for name, reason in (("broken.mp4", "begins as a text"), ("short.mp4", "3 frames"), ("gone.mp4", "no such file")):
        panels = clip_panels(models, upload_choice(str(folder / name)))
        assert (
            'role="alert"' in panels.status
            and reason in panels.status
            and f"{name} cannot be shown: " in panels.status
        )
        assert panels[1:] == ("",) * 5 and str(folder) not in panels.status
        assert mask_panel(models, upload_choice(str(folder / name)), strategy="multiblock", seed=0) == ""
    with pytest.raises(ClipError):
        upload_choice(str(folder / "gone.mp4")).read(models.analyzer)


def test_names_cannot_inject_html(models, folder):
    path = folder / "<img src=x onerror=alert(1)>{{x}}${y}.mp4"
    shutil.copy(folder / "mine.mp4", path)
    panels = clip_panels(models, upload_choice(str(path)))
    text = "".join(panels)
    assert "&lt;img" in panels.status and "<img" not in text and "{{" not in panels.status and "${" not in text


def test_classes_with_a_classifier(models, folder):
    config = VJEPAConfig(**TINY, id2label={0: "up & down", 1: "left"}, label2id={"up & down": 0, "left": 1})
    VJEPAForVideoClassification(config).save_pretrained(folder / "probe")
    VJEPAVideoProcessor(crop_size=32, num_frames=8, frame_step=2).save_pretrained(folder / "probe")
    argv = ["--model", str(folder / "demo"), "--use_cpu", "true", "--classifier", str(folder / "probe")]
    shown = command.load(argv)[1]
    assert isinstance(shown.classifier, Classifier)
    panel = clip_panels(shown, upload_choice(str(folder / "mine.mp4"))).classes
    assert panel.count("<meter") == 2 and "up &amp; down" in panel and "classifier probe" in panel


def text_of(html: str) -> str:
    """What a user reads or hears of a panel, in lower case."""
    labels = " ".join(re.findall(r'(?:alt|title|aria-label)="([^"]*)"', html))
    shown = re.sub(r"<svg.*?</svg>", lambda svg: " ".join(re.findall(r"<text[^>]*>([^<]*)", svg[0])), html, flags=re.S)
    return f"{re.sub('<[^>]+>', ' ', shown)} {labels}".lower()


def test_panels_of_an_image_speak_of_images(image_models):
    choice = example_choice(image_models, 5)
    panels = clip_panels(image_models, choice)
    masks = mask_panel(image_models, choice, strategy="image_multiblock", seed=0)
    text = text_of("".join(panels) + masks)
    assert not re.search("clip|video|frame|time|surprise", text), text
    assert panels.surprise == "" and panels.clip.count('<img class="medium" alt="5.png as the model sees it"') == 1
    assert "64 × 64 pixels: the centre of the image, as a square" in panels.clip
    assert "features as colours, beside the image" in panels.features and panels.features.count("<svg") == 1
    assert panels.nearest.count("<img") == 6 and panels.nearest.count("this image") == 1
    assert "<h2>Nearest images</h2>" in panels.nearest and "cats (4), dogs (3)" in panels.nearest
    assert masks.count("<svg") == 2
    assert [f"mask {number}" in text for number in (1, 2, 3, 4, 5)] == [True] * 4 + [False]
    assert re.search(r"error is <b>\d\.\d{3}, \d\.\d{3}, \d\.\d{3} and \d\.\d{3}</b>", masks)


def test_a_model_of_images_shows_one_frame_of_a_video(image_models, folder):
    panels = clip_panels(image_models, upload_choice(str(folder / "mine.mp4")))
    assert "one frame, from the middle of the video" in panels.clip and "<img" in panels.clip


def test_a_text_that_is_called_an_image_is_named_without_its_folder(image_models, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    status = clip_panels(image_models, upload_choice(str(tmp_path / "text.png"))).status
    assert "text.png is not a complete image (unknown format). Choose another image." in status
    assert str(tmp_path) not in status
