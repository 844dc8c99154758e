from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image
from reference import TINY
from videos import write_video

from transformers_vjepa import (
    VJEPAConfig,
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAVideoProcessor,
)
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.evaluation_clips import ClipGeometry, EvaluationClips
from transformers_vjepa.data.labels import LabelMismatchError, align_labels
from transformers_vjepa.evaluation.protocols import (
    PROTOCOLS,
    EvaluationProtocol,
    PredictionError,
    broken_videos,
    load_classifier,
    predict,
    read_predictions,
    resolve_protocol,
)
from transformers_vjepa.evaluation.shards import PassOptions, ShardError
from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling

NAMES = ["kick", "hug", "push"]
PROTOCOL = EvaluationProtocol(num_segments=2, num_views=3, frame_step=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for number in range(6):
        write_video(root / sorted(NAMES)[number % 3] / f"{number}.mp4", level=35 * number + 20, size=(40, 72))
    (root / "push" / "broken.mp4").write_bytes(b"noise")
    return root


@pytest.fixture(scope="module")
def model() -> VJEPAForVideoClassification:
    torch.manual_seed(0)
    config = VJEPAConfig(**TINY, num_labels=3, id2label=dict(enumerate(NAMES)))
    model = VJEPAForVideoClassification(config).eval()
    model.classifier.weight.data.mul_(100)  # so that views differ
    return model


# Protocols


def test_published_protocols():
    config, processor = VJEPAConfig(), VJEPAVideoProcessor(frame_step=2)
    k400, ssv2, in1k = (resolve_protocol(name, processor=processor) for name in PROTOCOLS)
    assert (k400.num_segments, k400.num_views) == (8, 3)
    assert (ssv2.num_segments, ssv2.num_views) == (2, 3)
    assert (in1k.num_segments, in1k.num_views) == (1, 1)
    expected = ClipSampling(num_frames=16, frame_step=4, spacing="linspace")
    assert k400.geometry(config).sampling == ssv2.geometry(config).sampling == expected


def test_parts_of_a_protocol_are_replaced():
    processor = VJEPAVideoProcessor(frame_step=2)
    protocol = resolve_protocol("k400_16x8x3", processor=processor, num_segments=4, num_views=None, frame_step=3)
    assert (protocol.num_segments, protocol.num_views, protocol.frame_step) == (4, 3, 3)
    plain = resolve_protocol(None, processor=processor)
    assert plain == EvaluationProtocol(num_segments=1, num_views=1, frame_step=2, spacing="stride")


def test_without_a_protocol_frames_are_as_far_apart_as_the_processor_takes_them():
    processor = VJEPAVideoProcessor(fps=5)
    protocol = resolve_protocol(None, processor=processor)
    assert protocol.geometry(VJEPAConfig()).sampling == ClipSampling(num_frames=16, target_fps=5)
    asked = resolve_protocol(None, processor=processor, frame_step=2)
    assert asked.geometry(VJEPAConfig()).sampling == ClipSampling(num_frames=16, frame_step=2)


def test_protocols_that_do_not_fit_are_refused():
    processor = VJEPAVideoProcessor()
    with pytest.raises(ValueError, match="unknown protocol 'k700': choose one of k400_16x8x3, ssv2_16x2x3, in1k"):
        resolve_protocol("k700", processor=processor)
    protocol = resolve_protocol("ssv2_16x2x3", processor=processor)
    with pytest.raises(ValueError, match="the protocol takes 16 frames, the model 4: set num_frames=4"):
        protocol.geometry(VJEPAConfig(**TINY))
    with pytest.raises(ValueError, match="`num_views`=0 must be at least 1"):
        resolve_protocol(None, processor=processor, num_views=0).geometry(VJEPAConfig())


# Models


def test_classifier_comes_with_its_processor(model, tmp_path):
    model.save_pretrained(tmp_path)
    VJEPAVideoProcessor(crop_size=32, frame_step=3, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    loaded, processor = load_classifier(str(tmp_path), dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16 and not loaded.training
    assert processor.frame_step == 3 and list(processor.image_mean) == [0.1, 0.2, 0.3]
    assert loaded.config.id2label == dict(enumerate(NAMES))


def test_checkpoint_without_a_classifier_is_refused(tmp_path):
    VJEPAForPreTraining(VJEPAConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no weights for classifier.bias .* this is not a trained classifier"):
        load_classifier(str(tmp_path))


def test_damaged_weights_are_named(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"the weights of {tmp_path} are damaged .*: copy or download them again"):
        load_classifier(str(tmp_path))


# Predictions


def predictions_of(shards, classes=(0, 1, 2)):
    """Paths, labels and probabilities of all videos."""
    batches = read_predictions(shards, dict(enumerate(classes)) if isinstance(classes, tuple) else classes)
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


def run(model, source, out, *, protocol=PROTOCOL, **options):
    corpus = open_corpus(source) if isinstance(source, Path) else source
    options = PassOptions(**{"progress": False, **options})
    return predict(model, corpus, out, protocol.geometry(model.config), options=options)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_probabilities_are_those_of_the_model(model, folder, tmp_path, batch_size):
    shards = run(model, folder, tmp_path, batch_size=batch_size)
    corpus = open_corpus(folder)
    paths, labels, probabilities = predictions_of(shards, align_labels(corpus, NAMES))
    assert [Path(path).name for path in paths] == ["0.mp4", "3.mp4", "1.mp4", "4.mp4", "2.mp4", "5.mp4"]
    assert [NAMES[label] for label in labels] == ["hug", "hug", "kick", "kick", "push", "push"]
    sampling = ClipSampling(num_frames=4, frame_step=2)
    clips = EvaluationClips(corpus, ClipGeometry(crop_size=32, sampling=sampling, num_segments=2, num_views=3))
    pixels = torch.stack([clips[index]["pixel_values_videos"] for index in (0, 1, 2, 3, 4, 5)])
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (VJEPAVideoProcessor.image_mean, VJEPAVideoProcessor.image_std)
    )
    with torch.no_grad():
        expected = model(pixel_values_videos=(pixels / 255 - mean) / std).logits.softmax(-1)
    assert np.allclose(probabilities, expected, atol=1e-5)
    assert np.ptp(probabilities, axis=0).max() > 0.01  # the videos do differ
    assert [Path(entry["path"]).name for entry in broken_videos(shards)] == ["broken.mp4"]


def test_few_clips_are_encoded_at_once(model, folder, tmp_path, monkeypatch):
    sizes = []
    encode = model.vjepa.get_vision_features

    def counted(clips, num_layers):
        sizes.append(len(clips))
        return encode(clips, num_layers)

    monkeypatch.setattr(model.vjepa, "get_vision_features", counted)
    protocol = EvaluationProtocol(num_segments=8, num_views=3, frame_step=1)
    run(model, folder, tmp_path, protocol=protocol, batch_size=3)
    assert set(sizes) == {3, 2} and sum(sizes) == 6 * 24


def test_a_stopped_evaluation_continues(model, folder, tmp_path):
    whole = predictions_of(run(model, folder, tmp_path / "whole"))
    part = run(model, folder, tmp_path / "part", rank=1, world_size=2)
    with pytest.raises(ShardError, match="4 of 7 shards are missing"):
        predictions_of(part)
    for ours, theirs in zip(predictions_of(run(model, folder, tmp_path / "part")), whole, strict=True):
        assert (ours == theirs).all() if ours.dtype.kind in "UOi" else np.allclose(ours, theirs, atol=1e-6)
    with pytest.raises(ShardError, match="num_views was 3 and is 1"):
        run(model, folder, tmp_path / "part", protocol=EvaluationProtocol(num_segments=2, frame_step=2))


def test_images(model, tmp_path):
    for number in range(3):
        path = tmp_path / "in" / NAMES[number] / "x.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (50, 40), (0, 100 * number, 50)).save(path)
    shards = run(model, tmp_path / "in", tmp_path / "out", protocol=PROTOCOLS["in1k"])
    paths, labels, probabilities = predictions_of(shards)
    assert len(paths) == 3 and labels.tolist() == [0, 1, 2]
    processor = VJEPAVideoProcessor(crop_size=32)
    with Image.open(tmp_path / "in" / "push" / "x.png") as picture:
        pixels = processor([[picture]], return_tensors="pt")["pixel_values_videos"][:, 0]
    with torch.no_grad():
        expected = model(pixel_values=pixels).logits.softmax(-1)[0]
    assert np.allclose(probabilities[labels.tolist().index(NAMES.index("push"))], expected, atol=1e-3)


def test_streamed_data(model, folder, tmp_path):
    files = sorted((folder / "hug").iterdir()) + sorted((folder / "push").glob("?.mp4"))
    features = Features({"video": Value("binary"), "label": ClassLabel(names=["push", "hug"])})
    rows = {"video": [path.read_bytes() for path in files], "label": [1, 1, 0, 0]}
    corpus = open_corpus(Dataset.from_dict(rows, features=features).to_iterable_dataset())
    shards = run(model, corpus, tmp_path / "streamed")
    _, labels, probabilities = predictions_of(shards, align_labels(corpus, NAMES))
    assert [NAMES[label] for label in labels] == ["hug", "hug", "push", "push"]
    _, _, expected = predictions_of(run(model, folder, tmp_path / "files"))
    assert np.allclose(probabilities, expected[[0, 1, 4, 5]], atol=1e-5)
    assert "manifest" not in shards.settings and shards.settings["source"] == "the data set"


def test_unknown_labels_stay_unknown(model, folder, tmp_path):
    shards = run(model, folder / "hug" / "*.mp4", tmp_path)
    _, labels, _ = predictions_of(shards)
    assert labels.tolist() == [-1, -1]


def test_labels_without_a_class(model, folder, tmp_path):
    files = sorted((folder / "hug").glob("?.mp4"))
    rows = {"video": [path.read_bytes() for path in files], "label": [-2, 3]}
    features = Features({"video": Value("binary"), "label": Value("int64")})
    corpus = open_corpus(Dataset.from_dict(rows, features=features).to_iterable_dataset())
    shards = run(model, corpus, tmp_path)
    _, labels, _ = predictions_of(shards, (4, 5, 6, 7))
    assert labels.tolist() == [-1, 7]  # any number below 0 is unknown
    with pytest.raises(LabelMismatchError, match="row 1 has label 3, the model knows labels up to 2"):
        predictions_of(shards, align_labels(corpus, NAMES))


def test_probabilities_that_are_not_finite_are_refused(model, folder, tmp_path):
    broken = VJEPAForVideoClassification(model.config).eval()
    broken.classifier.bias.data[1] = float("nan")
    with pytest.raises(PredictionError, match="not finite in torch.float32: use float32 or bfloat16, or check the"):
        run(broken, folder, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_slip_in_a_local_path_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "outputs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="^there is no folder outputs/nothing here, though there is outputs"):
        load_classifier("outputs/nothing", dtype=torch.float32)
