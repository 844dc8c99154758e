"""`vjepa convert_checkpoint`, there and back, and what it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hub_server import card_errors
from huggingface_hub import ModelCard
from huggingface_hub.errors import HTTPError
from published import published_checkpoint_of, published_probe_of
from reference import TINY, largest_difference, reference_tensors
from safetensors.torch import save_file
from stock_models import stock_folder_of
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    IJepaModel,
)

from transformers_vjepa import (
    PRESETS,
    VJEPAConfig,
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAModel,
    VJEPAVideoProcessor,
)
from transformers_vjepa.commands import convert_checkpoint, publish
from transformers_vjepa.conversion import folders
from transformers_vjepa.conversion.checks import differing_tensors
from transformers_vjepa.hub import transfer as hub
from transformers_vjepa.safety.safe_loading import read_checkpoint

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_checkpoint.py"
CONFIG = VJEPAConfig(**TINY)
HEADS = {"vjepa_tiny_uniform": 4, "vjepa_tiny_plain": 3, "ijepa_tiny": 4}


def run(*argv) -> None:
    convert_checkpoint.run([str(argument) for argument in argv])


def refused(*argv) -> str:
    """The error line with which the command ends."""
    with pytest.raises(SystemExit) as ended:
        run(*argv)
    line = str(ended.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(published_checkpoint_of(CONFIG, optimizer=True), path)
    return path


@pytest.fixture
def probe(tmp_path) -> Path:
    path = tmp_path / "probe.pth.tar"
    torch.save(published_probe_of(48), path)
    return path


@pytest.mark.parametrize("variant", HEADS)
def test_reference_models(shared, tmp_path, capsys, variant):
    folder, output = shared / "reference" / variant, tmp_path / "ours"
    forward = folder / "forward.safetensors"
    run(
        folder / "checkpoint.pth.tar",
        "--output_dir",
        output,
        "--num_attention_heads",
        HEADS[variant],
        "--reference",
        forward,
    )
    printed = capsys.readouterr().out
    assert f"{HEADS[variant]} heads (as given)" in printed
    assert "dropped: opt, scaler, epoch, loss, batch_size, world_size, lr, position tables (computed)" in printed
    assert "tensors, loaded again, are those of the source" in printed
    assert "outputs: target.tokens differ by" in printed

    expected = reference_tensors(forward)
    clip = expected["image"] if variant == "ijepa_tiny" else expected["clip"].transpose(1, 2)
    for auto_class, model_class in ((AutoModelForPreTraining, VJEPAForPreTraining), (AutoModel, VJEPAModel)):
        model = auto_class.from_pretrained(output)
        assert type(model) is model_class
        vjepa = model if model_class is VJEPAModel else model.vjepa
        with torch.no_grad():
            tokens = vjepa.get_vision_features(clip)
        assert largest_difference(tokens, expected["target.tokens"]) < 1e-5

    back = tmp_path / "back"
    run(output, "--to_original", "--output_dir", back)
    assert "tensors, read again, are those of" in capsys.readouterr().out
    assert [file.name for file in back.iterdir()] == ["checkpoint.pth.tar"]
    published, ours = (read_checkpoint(path / "checkpoint.pth.tar") for path in (folder, back))
    for part in ("encoder", "target_encoder", "predictor"):
        assert differing_tensors(published[part], ours[part]) == []


@pytest.mark.parametrize("variant", ["vjepa_tiny_uniform", "vjepa_tiny_plain"])
@pytest.mark.parametrize("depth", [1, 3])
def test_reference_probes(shared, tmp_path, capsys, variant, depth):
    folder, output = shared / "reference" / variant, tmp_path / "ours"
    forward, expected = (folder / f"{name}.safetensors" for name in ("forward", f"probe_depth{depth}"))
    run(
        *(folder / "checkpoint.pth.tar", "--probe", folder / f"probe_depth{depth}.pth.tar", "--output_dir", output),
        *("--num_attention_heads", HEADS[variant], "--reference", forward, expected),
    )
    printed = capsys.readouterr().out
    assert f"probe:   depth {depth}, 7 classes, names: LABEL_0 to LABEL_6" in printed
    assert "encoder, predictor, of the probe opt, scaler, epoch" in printed
    assert "xattn.proj (never applied)" in printed
    for name in ("target.tokens", "logits_single_clip", "views.probabilities"):
        assert float(re.search(rf"{name} differ by ([\d.e+-]+\d)", printed)[1]) < 1e-5

    model = AutoModelForVideoClassification.from_pretrained(output)
    assert type(model) is VJEPAForVideoClassification
    expected = reference_tensors(expected)
    clip = reference_tensors(forward)["clip"].transpose(1, 2)
    views = torch.stack(
        [
            torch.stack([expected[f"views.clip.segment{s}.view{v}"].transpose(1, 2) for s in range(4)], dim=1)
            for v in range(3)
        ],
        dim=1,
    )
    with torch.no_grad():
        assert largest_difference(model(clip).logits, expected["logits_single_clip"]) < 1e-5
        assert largest_difference(model(views).logits.softmax(-1), expected["views.probabilities"]) < 1e-5

    run(output, "--to_original", "--output_dir", tmp_path / "back")
    published, ours = (
        read_checkpoint(path) for path in (folder / f"probe_depth{depth}.pth.tar", tmp_path / "back/probe.pth.tar")
    )
    assert all("xattn.proj" in name for name in differing_tensors(published["classifier"], ours["classifier"]))
    # The written files convert to the same model.
    again = tmp_path / "again"
    run(
        *(tmp_path / "back/checkpoint.pth.tar", "--probe", tmp_path / "back/probe.pth.tar", "--output_dir", again),
        *("--num_attention_heads", HEADS[variant]),
    )
    again = AutoModelForVideoClassification.from_pretrained(again)
    assert differing_tensors(again.state_dict(), model.state_dict()) == []


def test_a_probe_for_a_folder_of_ours(checkpoint, probe, tmp_path, capsys):
    run(checkpoint, "--output_dir", tmp_path / "base", "--num_attention_heads", 3)
    run(checkpoint, "--probe", probe, "--output_dir", tmp_path / "once", "--num_attention_heads", 3)
    run(tmp_path / "base", "--probe", probe, "--output_dir", tmp_path / "twice")
    once, twice = (VJEPAForVideoClassification.from_pretrained(tmp_path / name) for name in ("once", "twice"))
    assert differing_tensors(once.state_dict(), twice.state_dict()) == []
    assert once.config.to_diff_dict() == twice.config.to_diff_dict()


def test_folders_work_with_the_auto_classes(tmp_path, checkpoint, probe):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({f"class {index}": str(index) for index in range(7)}))
    output = tmp_path / "ours"
    run(checkpoint, "--probe", probe, "--labels", labels, "--output_dir", output, "--num_attention_heads", 3)
    model = AutoModelForVideoClassification.from_pretrained(output)
    assert model.config.id2label == {index: f"class {index}" for index in range(7)}
    videos, images = AutoVideoProcessor.from_pretrained(output), AutoImageProcessor.from_pretrained(output)
    assert videos.num_frames == 4
    frames = np.zeros((4, 48, 64, 3), dtype=np.uint8)
    clip = videos(frames, return_tensors="pt")
    assert clip["pixel_values_videos"].shape == (1, 4, 3, 32, 32)
    image = images(frames[0], return_tensors="pt")
    assert image["pixel_values"].shape == (1, 3, 32, 32)
    with torch.no_grad():
        assert largest_difference(model(**clip).logits, model(**image).logits) < 1e-5


def test_a_base_model_becomes_a_published_file(tmp_path):
    model = VJEPAModel(CONFIG)
    model.save_pretrained(tmp_path / "base")
    run(tmp_path / "base", "--to_original", "--output_dir", tmp_path / "back")
    published = read_checkpoint(tmp_path / "back/checkpoint.pth.tar")
    assert differing_tensors(published["encoder"], published["target_encoder"]) == []
    run(tmp_path / "back/checkpoint.pth.tar", "--output_dir", tmp_path / "again", "--num_attention_heads", 3)
    again = VJEPAModel.from_pretrained(tmp_path / "again")
    assert differing_tensors(again.state_dict(), model.state_dict()) == []


def test_half_precision_stays(tmp_path):
    content = published_checkpoint_of(CONFIG)
    for part in ("encoder", "target_encoder", "predictor"):
        content[part] = {name: value.bfloat16() for name, value in content[part].items()}
    torch.save(content, tmp_path / "half.pt")
    run(tmp_path / "half.pt", "--output_dir", tmp_path / "ours", "--num_attention_heads", 3)
    assert VJEPAForPreTraining.from_pretrained(tmp_path / "ours").dtype == torch.bfloat16


def test_types_that_differ_are_refused(checkpoint, tmp_path):
    content = published_probe_of(48)
    content["classifier"] = {name: value.half() for name, value in content["classifier"].items()}
    torch.save(content, tmp_path / "probe.pt")
    output = ("--output_dir", tmp_path / "ours", "--num_attention_heads", 3)
    assert "of several types, torch.float32 (vjepa.encoder." in refused(
        checkpoint, "--probe", tmp_path / "probe.pt", *output
    )
    assert not (tmp_path / "ours").exists()


def test_an_architecture_that_the_weights_leave_open_is_refused(checkpoint, tmp_path):
    output = ("--output_dir", tmp_path / "ours")
    assert "pass --num_attention_heads N" in refused(checkpoint, *output)
    assert "--preset vitl16 contradicts the weights: patch_size is 16 there and 8" in refused(
        checkpoint, *output, "--preset", "vitl16"
    )
    assert "--uniform_power false contradicts the stored position table" in refused(
        checkpoint, *output, "--num_attention_heads", 3, "--uniform_power", "false"
    )
    assert not (tmp_path / "ours").exists()


def cut(folder: Path) -> None:
    damaged = (folder / "checkpoint.pth.tar").read_bytes()[:10000]
    (folder / "bad").write_bytes(damaged)


def save(content):
    """Writes the file `bad` of a case."""
    return lambda folder: torch.save(content() if callable(content) else content, folder / "bad")


def published_with(part: str | None = None, **entries) -> dict:
    """A published checkpoint whose encoder has more weights, or which has no such part."""
    content = published_checkpoint_of(CONFIG)
    content["encoder"] |= entries
    return {name: value for name, value in content.items() if name != part}


@pytest.mark.parametrize(
    "write, files, message",
    [
        (None, ["missing.pth.tar"], "No such file"),
        (cut, ["bad"], "is truncated"),
        (cut, ["checkpoint.pth.tar", "--probe", "bad"], "is truncated"),
        (lambda folder: (folder / "bad").write_text("<html>not found</html>"), ["bad"], "is not a checkpoint"),
        (save({"encoder": torch.nn.Identity()}), ["bad"], "(torch.nn.modules.linear.Identity): it is not loaded"),
        (None, ["probe.pth.tar"], "no `target_encoder` in the checkpoint, which holds batch_size, classifier"),
        (None, ["checkpoint.pth.tar", "--probe", "checkpoint.pth.tar"], "not a published probe: no classifier"),
        (
            save(lambda: published_with(**{"module.backbone.head.weight": torch.zeros(1)})),
            ["bad"],
            "unknown: encoder.head.weight",
        ),
        (save(lambda: published_with(part="encoder")), ["bad"], "not a published pretraining checkpoint: no encoder"),
        (
            save(lambda: published_probe_of(32)),
            ["checkpoint.pth.tar", "--probe", "bad"],
            "the probe has width 32, the encoder 48",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_files(checkpoint, probe, tmp_path, write, files, message):
    if write:
        write(tmp_path)
    arguments = [name if name.startswith("--") else tmp_path / name for name in files]
    assert message in refused(*arguments, "--output_dir", tmp_path / "ours", "--num_attention_heads", 3)
    assert not (tmp_path / "ours").exists()


def test_labels_that_do_not_fit(checkpoint, probe, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("walk\nrun\n")
    line = refused(
        checkpoint, "--probe", probe, "--labels", labels, "--output_dir", tmp_path, "--num_attention_heads", 3
    )
    assert "names 2 classes, 'walk' first, and there are 7" in line


def test_references_that_do_not_fit(checkpoint, tmp_path):
    arguments = (checkpoint, "--output_dir", tmp_path / "ours", "--num_attention_heads", 3, "--reference")
    run(*arguments[:-1])
    model = VJEPAForPreTraining.from_pretrained(tmp_path / "ours")
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        tokens = model.vjepa.get_vision_features(clip.transpose(1, 2)).contiguous()
    file = tmp_path / "reference.safetensors"
    save_file({"clip": clip, "target.tokens": tokens + 1e-3}, file)
    assert "computes other outputs than the published code (allowed 1e-04, found 1.0e-03)" in refused(*arguments, file)
    save_file({"clip": clip, "target.tokens": tokens}, file)
    run(*arguments, file)
    save_file({"tokens": tokens}, file)
    assert "the reference has no input and output of this model, only tokens" in refused(*arguments, file)
    file.write_text("hello")
    assert "is not a safetensors file" in refused(*arguments, file)


def test_outputs_show_a_wrong_number_of_heads(shared, tmp_path):
    folder = shared / "reference" / "vjepa_tiny_uniform"
    line = refused(
        *(folder / "checkpoint.pth.tar", "--output_dir", tmp_path, "--reference", folder / "forward.safetensors"),
        *("--num_attention_heads", 8, "--pred_num_attention_heads", 4),
    )
    assert "check the number of heads" in line


def test_a_folder_that_differs_from_the_file_is_refused(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "differing_tensors", lambda *_: ["a.weight"])
    line = refused(checkpoint, "--output_dir", tmp_path / "ours", "--num_attention_heads", 3)
    assert "differs from the file in a.weight: do not use it" in line


def test_folders_that_cannot_be_converted(checkpoint, probe, tmp_path):
    run(checkpoint, "--output_dir", tmp_path / "ours", "--num_attention_heads", 3)
    assert "is converted already: pass --probe, --save_as ijepa or --to_original" in refused(
        tmp_path / "ours", "--output_dir", tmp_path / "again"
    )
    assert "is not a saved model" in refused(tmp_path, "--to_original", "--output_dir", tmp_path / "back")
    mean = VJEPAForVideoClassification(VJEPAConfig(**TINY, pooling="mean"))
    mean.save_pretrained(tmp_path / "mean")
    assert "pooling='mean' has no published layout" in refused(
        tmp_path / "mean", "--to_original", "--output_dir", tmp_path / "back"
    )
    VJEPAModel(VJEPAConfig(**TINY), add_predictor=False).save_pretrained(tmp_path / "encoder")
    assert "is an encoder without predictor or classifier" in refused(
        tmp_path / "encoder", "--to_original", "--output_dir", tmp_path / "back"
    )
    assert not (tmp_path / "back").exists()
    useless = ("--num_attention_heads", 3, "--uniform_power", "false")
    assert "has a config.json: leave out --num_attention_heads, --uniform_power" in refused(
        tmp_path / "ours", "--probe", probe, "--output_dir", tmp_path / "again", *useless
    )


@pytest.mark.parametrize(
    "argv, message",
    [
        (["SRC"], "the following arguments are required: --output_dir"),
        (["SRC", "--output_dir", "OUT", "--to_original", "--preset", "vitl16"], "--to_original takes no --preset"),
        (["SRC", "--output_dir", "OUT", "--labels", "FILE"], "--labels names the classes of a probe: pass --probe"),
        (["SRC", "--output_dir", "SRC"], "--output_dir is SRC: choose another folder"),
        (["SRC", "--output_dir", "OUT", "--uniform_power", "perhaps"], "--uniform_power: Truthy value expected"),
    ],
)
def test_wrong_command_lines_are_refused(argv, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(*argv)
    assert message in capsys.readouterr().err


def test_help_names_defaults(capsys):
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    shown = capsys.readouterr().out
    assert "--pred_num_attention_heads" in shown and "(default:" in shown


def test_a_process_ends_with_one_line(tmp_path):
    ended = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "nothing", "--output_dir", tmp_path], capture_output=True, text=True
    )
    assert ended.returncode == 1
    # Without the log lines of torchao about its import.
    foreign = re.compile(r"W\d{4} .* torch/|Skipping import of cpp extensions")
    lines = [line for line in ended.stderr.strip().splitlines() if not foreign.match(line)]
    assert lines == [f"error: [Errno 2] No such file or directory: '{tmp_path / 'nothing'}'"]


# Stock I-JEPA models

IMAGE = TINY | {"frames_per_clip": 1, "tubelet_size": 1, "pred_num_mask_tokens": 1}


def test_a_published_file_becomes_a_stock_model_and_comes_back(shared, tmp_path, capsys):
    folder = shared / "reference" / "ijepa_tiny"
    source = (folder / "checkpoint.pth.tar", "--num_attention_heads", 4)
    run(*source, "--save_as", "ijepa", "--output_dir", tmp_path / "stock")
    printed = capsys.readouterr().out
    assert "without: context encoder, predictor" in printed and "computed by transformers" in printed
    expected = reference_tensors(folder / "forward.safetensors")
    stock = IJepaModel.from_pretrained(tmp_path / "stock")
    with torch.no_grad():
        assert largest_difference(stock(expected["image"]).last_hidden_state, expected["target.tokens"]) < 1e-5
    card = ModelCard.load(tmp_path / "stock" / "README.md")
    assert card.data.pipeline_tag == "image-feature-extraction" and "AutoModel" not in card.text
    assert "trust_remote_code" not in card.text and card_errors(str(card)) == []

    run(*source, "--output_dir", tmp_path / "ours")
    run(tmp_path / "ours", "--save_as", "ijepa", "--output_dir", tmp_path / "again")
    files = [tmp_path / name / "model.safetensors" for name in ("stock", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    capsys.readouterr()
    run(tmp_path / "again", "--output_dir", tmp_path / "back")
    assert "found:   stock IJepaModel: 3 blocks of width 48" in (printed := capsys.readouterr().out)
    assert "a stock model has no predictor: vjepa pretrain --init_from starts with a new one" in printed
    back = VJEPAModel.from_pretrained(tmp_path / "back", add_predictor=False)
    ours = VJEPAModel.from_pretrained(tmp_path / "ours", add_predictor=False)
    assert differing_tensors(back.state_dict(), ours.state_dict()) == []
    assert back.config.pred_loss == ours.config.pred_loss == "smooth_l1"
    assert AutoVideoProcessor.from_pretrained(tmp_path / "back").crop_size["height"] == 96


def test_a_classifier_of_images_becomes_a_stock_model_and_comes_back(tmp_path, capsys):
    config = VJEPAConfig(**IMAGE, pooling="mean", id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    model = VJEPAForVideoClassification(config)
    model.save_pretrained(tmp_path / "ours")
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    VJEPAVideoProcessor(crop_size=32, image_mean=mean, image_std=std).save_pretrained(tmp_path / "ours")
    (tmp_path / "ours" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nbase_model: user/base\n---\n")
    run(tmp_path / "ours", "--save_as", "ijepa", "--output_dir", tmp_path / "stock")
    assert "logits differ by" in capsys.readouterr().out
    card = ModelCard.load(tmp_path / "stock" / "README.md")
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", ["user/base"])
    assert card.data.pipeline_tag == "image-classification"
    publish.run([str(tmp_path / "stock"), "user/name", "--dry_run"])
    printed = capsys.readouterr().out
    assert "loads as IJepaForImageClassification" in printed and ".py" not in printed

    run(tmp_path / "stock", "--output_dir", tmp_path / "back")
    back = VJEPAForVideoClassification.from_pretrained(tmp_path / "back")
    assert differing_tensors(back.state_dict(), model.state_dict()) == []
    assert back.config.id2label == {0: "cat", 1: "dog"} and back.config.pooling == "mean"
    for processor in (AutoImageProcessor, AutoVideoProcessor):
        found = processor.from_pretrained(tmp_path / "back")
        assert (list(found.image_mean), list(found.image_std)) == (mean, std)


@pytest.mark.parametrize(
    "config, message",
    [
        (VJEPAConfig(**TINY, pooling="mean"), "frames_per_clip=4: a stock I-JEPA model takes single images"),
        (VJEPAConfig(**IMAGE), "pooling='attentive': IJepaForImageClassification averages the tokens"),
    ],
)
def test_models_that_cannot_be_stock_models_are_refused(tmp_path, config, message):
    VJEPAForVideoClassification(config).save_pretrained(tmp_path / "ours")
    assert message in refused(tmp_path / "ours", "--save_as", "ijepa", "--output_dir", tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_stock_models_and_options_that_do_not_fit(tmp_path, capsys):
    stock, output = tmp_path / "stock", ("--output_dir", tmp_path / "ours")
    stock_folder_of(stock)
    assert "is a stock I-JEPA model already: leave --save_as out" in refused(stock, *output, "--save_as", "ijepa")
    assert "has a config.json: leave out --num_attention_heads" in refused(stock, *output, "--num_attention_heads", 3)
    assert "convert it first, and then add --probe" in refused(stock, *output, "--probe", tmp_path / "probe")
    assert "convert it to a folder of ours first" in refused(stock, *output, "--to_original")
    assert not (tmp_path / "ours").exists()
    with pytest.raises(SystemExit):
        run(stock, *output, "--save_as", "ijepa", "--reference", tmp_path / "file")
    assert "--reference compares models of this package" in capsys.readouterr().err


class Api:
    """Records the uploads; tests/hub/test_round_trips.py has uploads over HTTP."""

    commits: list = []

    def __init__(self, **options):
        pass

    def create_repo(self, repo_id, **options):
        return SimpleNamespace(repo_id=repo_id)

    def create_commit(self, repo_id, operations, **options):
        self.commits.append((repo_id, {operation.path_in_repo for operation in operations}, options))
        return SimpleNamespace(commit_url="https://hub/commit")


def test_the_checked_folder_is_uploaded_and_nothing_else(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub.ModelCard, "validate", lambda card: None)  # it would ask the Hub
    monkeypatch.setattr(hub, "HfApi", Api)
    output = tmp_path / "ours"
    output.mkdir()
    (output / "notes.csv").write_text("of somebody else\n")
    run(checkpoint, "--output_dir", output, "--num_attention_heads", 3, "--push_to_hub", "org/name")
    repo_id, names, options = Api.commits.pop()
    assert (repo_id, options["commit_message"]) == ("org/name", "Convert checkpoint.pth.tar")
    assert {file.name for file in output.iterdir()} - names == {"notes.csv"}
    assert {name for name in names if not name.endswith(".py")} == {
        *(
            "README.md",
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "video_preprocessor_config.json",
        )
    }
    assert "pushed:  https://hub/commit" in capsys.readouterr().out


def test_an_upload_that_fails_ends_with_one_line(checkpoint, tmp_path, monkeypatch):
    class Offline(Api):
        def create_repo(self, repo_id, **options):
            raise HTTPError("no network")

    monkeypatch.setattr(hub.ModelCard, "validate", lambda card: None)  # it would ask the Hub
    monkeypatch.setattr(hub, "HfApi", Offline)
    output = tmp_path / "ours"
    line = refused(checkpoint, "--output_dir", output, "--num_attention_heads", 3, "--push_to_hub", "org/name")
    assert line == "error: the connection to the Hub failed (HTTPError: no network): try again"
    assert (output / "model.safetensors").is_file()


def test_a_released_model_gets_its_own_card(checkpoint, probe, tmp_path, monkeypatch, capsys):
    output = tmp_path / "ours"
    run(checkpoint, "--output_dir", output, "--num_attention_heads", 3)
    card = ModelCard.load(output / "README.md")
    assert card.data.get("license") is None and "licence: none named" in capsys.readouterr().out
    # Make the published ViT-L/16 as small as this model.
    monkeypatch.setitem(PRESETS, "vitl16", TINY)
    run(checkpoint, "--output_dir", output, "--num_attention_heads", 3)
    card = ModelCard.load(output / "README.md")
    assert card.data.license == "cc-by-nc-4.0" and "# V-JEPA ViT-L/16" in card.text
    # A probe that is not a published one inherits the licence.
    run(output, "--probe", probe, "--output_dir", tmp_path / "classifier")
    card = ModelCard.load(tmp_path / "classifier" / "README.md")
    assert card.data.license == "cc-by-nc-4.0" and card.data.pipeline_tag == "video-classification"
