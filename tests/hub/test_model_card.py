"""Model cards: their contents, whether the Hub would accept them, and what they do not reveal."""

import configparser
import json
import re
from dataclasses import dataclass, field

import pytest
from documents import DOCS, ROOT
from hub_server import card_errors
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index
from reference import TINY
from transformers import TrainerState

from transformers_vjepa import VJEPAConfig, VJEPAVideoProcessor
from transformers_vjepa.hub.model_card import (
    CARDS,
    Heritage,
    RunDetails,
    card_of_folder,
    is_released,
    make_card,
    public_name,
    recipe_of,
    released_card,
    replace_placeholder_card,
    write_card,
)

TOKEN = "hf_" + "secretsecret"


@dataclass
class Arguments:
    dataset: list[str] = field(default_factory=lambda: ["synthetic"])
    crop_scale: list[float] = field(default_factory=lambda: [0.3, 1.0])
    max_steps: int = 10
    output_dir: str = "outputs"
    hub_token: str | None = None


@pytest.mark.parametrize(
    "name, shown",
    [
        ("/home/joe/videos/", "videos"),
        ("/home/joe/k710.csv=0.4", "k710.csv=0.4"),
        ("shards/a-{000..127}.tar", "a-{000..127}.tar"),
        ("user/name", "user/name"),
        ("user/name:config=0.5", "user/name:config=0.5"),
        ("https://user:word@host/0.tar?X-Signature=abc", "https://***@host/0.tar?***"),
        (f"/home/joe/{TOKEN}", "hf_***"),
        ("a\nb", "a\\nb"),
        ("/", "data"),
    ],
)
def test_names_without_folders_and_secrets(name, shown):
    assert public_name(name) == shown


def test_a_recipe_holds_arguments_that_differ():
    arguments = Arguments(dataset=["/home/joe/videos"], max_steps=3, output_dir="/home/joe/out", hub_token=TOKEN)
    assert recipe_of([arguments]) == "dataset:\n- videos\nmax_steps: 3"
    assert recipe_of([Arguments()]) == ""


def test_the_card_of_a_training(tmp_path):
    for path in ("pictures/curves.png", "test/confusion.png"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_bytes(b"png")
    scores = {"accuracy": 0.625, "accuracy_interval": [0.5, 0.75], "num_videos": 60, "num_broken": 1}
    results = {"test": scores, "chance": 0.25, "chosen": {"step": 4, "steps": 4}, "settings": {"num_segments": 2}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    state = TrainerState(global_step=4, max_steps=4, log_history=[{"loss": 0.5}, {"loss": 0.25}])
    details = RunDetails(
        command="vjepa train_classifier",
        sources=["user/clips=0.5", "/home/joe/clips|`x`"],
        arguments=[Arguments(max_steps=4)],
        heritage=Heritage(("user/base",), "cc-by-nc-4.0"),
        start="/home/joe/base",
    )
    card = make_card(
        tmp_path,
        VJEPAConfig(**TINY, num_labels=3),
        architecture="VJEPAForVideoClassification",
        model_id="me/probe",
        details=details,
        state=state,
        clips_per_step=32,
    )
    write_card(card, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert card_errors(text) == [] and "/home" not in text and str(tmp_path) not in text
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.base_model, data.datasets) == ("cc-by-nc-4.0", ["user/base"], ["user/clips"])
    (result,) = data.eval_results
    assert (result.metric_value, result.dataset_split, result.dataset_type) == (0.625, "test", "user/clips")
    for line in (
        "| test | 62.5 % | 50.0 to 75.0 | 60 | 25.0 % |",
        "| clips seen | 128 |",
        "| loss, first and last logged | 0.5000, 0.2500 |",
        "| started from | `base` |",
        "- `clips\\|'x'`",
        "![Confusions on the test clips](test/confusion.png)",
        "Protocol: 2 clips of each video x 1 crops, weights of step 4 of 4.",
        "Clips of the test split that could not be read and are not counted: 1.",
    ):
        assert line in text
    assert "masks.png" not in text


def test_a_licence_is_named_only_where_one_is_known(tmp_path):
    VJEPAConfig(**TINY).save_pretrained(tmp_path)
    card = card_of_folder(tmp_path, model_id="me/name")
    assert "license" not in card.data.to_dict() and "has not named a licence" in card.text
    write_card(card, tmp_path)
    card = card_of_folder(tmp_path, model_id="me/other", license="mit")
    assert (
        card.data.license == "mit"
        and "\nThe weights are under mit. The code" in card.text
        and "has not named" not in card.text
    )
    write_card(card_of_folder(tmp_path, license="cc-by-nc-4.0"), tmp_path)
    with pytest.raises(ValueError, match="'mit' is not allowed: these weights come from weights under cc-by-nc-4.0"):
        card_of_folder(tmp_path, license="mit")
    with pytest.raises(ValueError, match="leave the licence out"):
        RunDetails(heritage=Heritage(license="cc-by-nc-4.0"), license="apache-2.0")


def test_only_the_empty_card_of_transformers_is_replaced(tmp_path):
    VJEPAVideoProcessor().save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\ntags:\n- mine\n---\n[More Information Needed]\n")
    replace_placeholder_card(tmp_path, repo_id="me/name")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.tags == ["vjepa", "video", "mine"] and "Processors of V-JEPA clips" in card.text
    (tmp_path / "README.md").write_text("# By hand\n")
    replace_placeholder_card(tmp_path, repo_id="me/name")
    assert (tmp_path / "README.md").read_text() == "# By hand\n"


def test_image_models_have_a_card_of_their_kind(tmp_path):
    config = VJEPAConfig(**TINY | {"frames_per_clip": 1, "tubelet_size": 1})
    card = make_card(tmp_path, config, architecture="VJEPAForPreTraining")
    assert card.data.pipeline_tag == "image-feature-extraction" and "AutoImageProcessor" in card.text
    assert "learnt from images" in card.text
    scores = {"accuracy": 1.0, "accuracy_interval": [0.9, 1.0], "num_videos": 9, "num_broken": 0}
    (tmp_path / "results.json").write_text(json.dumps({"test": scores, "chance": 0.5}))
    card = make_card(tmp_path, config, architecture="VJEPAForVideoClassification", model_id="me/probe")
    assert (card.data.pipeline_tag, card.data.eval_results[0].task_type) == ("image-classification",) * 2
    usage = """
from transformers import pipeline

classify = pipeline("image-classification", model="me/probe", trust_remote_code=True)
best = classify("image.jpg", top_k=5)
```
"""
    assert usage in card.text and "A classifier of images on" in card.text and "video-class" not in card.text


def test_a_card_for_another_repository_keeps_the_text_of_its_author(tmp_path):
    card = make_card(tmp_path, VJEPAConfig(), architecture="VJEPAModel", model_id="me/name")
    card.text += '\nIt began as AutoModel.from_pretrained("other/base").\n'
    write_card(card, tmp_path)
    text = card_of_folder(tmp_path, model_id="me/copy").text
    assert 'from_pretrained("me/copy", trust' in text and '"me/name"' not in text
    assert text.lstrip().startswith("# copy\n") and 'from_pretrained("other/base")' in text
    (tmp_path / "README.md").write_text(text.replace("# copy", "# My own title", 1))
    assert card_of_folder(tmp_path, model_id="me/third").text.lstrip().startswith("# My own title\n")


# Released models

RELEASED = sorted(file for file in CARDS.glob("*.md") if not file.stem.endswith("template"))
PROBES = {"k400": 400, "ssv2": 174, "in1k": 1000, "places205": 205, "inat21": 10_000}


@pytest.mark.parametrize("file", RELEASED, ids=lambda file: file.stem)
def test_the_hub_accepts_the_card_of_a_released_model(file):
    card = ModelCard.load(file)
    assert card_errors(file.read_text()) == []
    assert card.data.license == "cc-by-nc-4.0" and card.data.library_name == "transformers"
    assert "as published" in card.text and "Not measured by us" in card.text
    if card.data.eval_results:
        assert eval_results_to_model_index(card.data.model_name, card.data.eval_results)
        (result,) = card.data.eval_results
        assert f"\n{result.metric_value} % accuracy" in card.text


def test_each_released_model_has_a_card():
    names = set()
    for preset in ("vitl16", "vith16", "vith16-384"):
        assert released_card(VJEPAConfig.from_preset(preset), is_classifier=False).text
        names.add(f"vjepa-{preset}")
        for probe, number in PROBES.items():
            config = VJEPAConfig.from_preset(preset, num_labels=number)
            text = str(released_card(config, is_classifier=True))
            assert f"models/{preset}-{probe}" in text
            names.add(f"vjepa-{preset}-{probe}")
    assert names == {file.stem for file in RELEASED if file.stem.startswith("vjepa-")}


@pytest.mark.parametrize(
    "preset, source, name",
    [
        ("ijepa-vith14", "IN1K-vit.h.14-300e.pth.tar", "ijepa-vith14-1k"),
        ("ijepa-vith14", "IN22K-vit.h.14-900e.pth.tar", "ijepa-vith14-22k"),
        ("ijepa-vith16-448", "IN1K-vit.h.16-448px-300e.pth.tar", "ijepa-vith16-448-1k"),
        ("ijepa-vitg16", "IN22K-vit.g.16-600e.pth.tar", "ijepa-vitg16-22k"),
    ],
)
def test_released_image_models_are_told_apart_by_the_name_of_the_file(preset, source, name):
    config = VJEPAConfig.from_preset(preset)
    card = released_card(config, is_classifier=False, source=source)
    assert str(card) == str(ModelCard.load(CARDS / f"{name}.md")) and f"`{source}`" in card.text
    assert f"{config.num_hidden_layers} blocks of width {config.hidden_size}" in card.text
    assert f"predictor of {config.pred_num_hidden_layers} blocks" in card.text
    # Without the name, the data are not known.
    assert released_card(config, is_classifier=False, source="checkpoint.pth.tar") is None
    assert released_card(config, is_classifier=True, source=source) is None


def test_other_models_have_no_released_card():
    assert released_card(VJEPAConfig.from_preset("vitl16", num_labels=7), is_classifier=True) is None
    for name in ("vitt16", "vits16", "vitb16", "ijepa-vitb16", "ijepa-vitl16"):
        assert released_card(VJEPAConfig.from_preset(name), is_classifier=False) is None
        assert not is_released(VJEPAConfig.from_preset(name))
    assert all(is_released(VJEPAConfig.from_preset(f"ijepa-{name}")) for name in ("vith14", "vith16-448", "vitg16"))
    assert not is_released(VJEPAConfig.from_preset("vitl16", crop_size=112))


# A stock model needs neither this package nor its code.
WITH_CODE = [file for file in CARDS.glob("*.md") if file.stem != "stock_template"]


@pytest.mark.parametrize("file", [*WITH_CODE, DOCS / "publishing.md", DOCS / "deploy.md"], ids=lambda file: file.stem)
def test_versions_for_readers_without_this_package_are_those_it_asks_for(file):
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    lower = re.compile(r"^(\w+) >= ([\d.]+)", re.MULTILINE)
    wanted = dict(lower.findall(setup["options"]["install_requires"]))
    stated = dict(re.findall(r"`(transformers|torch|torchvision|av)>=([\d.]+)`", file.read_text()))
    assert stated == {name: wanted[name] for name in ("transformers", "torch", "torchvision", "av")}
