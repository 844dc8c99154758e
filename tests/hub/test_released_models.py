"""The cards of the published models."""

import configparser
import re

import pytest
from documents import DOCS, ROOT
from hub_server import card_errors
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index

from transformers_vjepa import PRESETS, VJEPAConfig
from transformers_vjepa.hub.model_card import CARDS, is_released, released_card

FILES = sorted(CARDS.glob("vjepa-*.md"))
PROBES = {"k400": 400, "ssv2": 174, "in1k": 1000, "places205": 205, "inat21": 10_000}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_hub_takes_it(file):
    card = ModelCard.load(file)
    assert card_errors(file.read_text()) == []
    assert card.data.license == "cc-by-nc-4.0" and card.data.library_name == "transformers"
    assert "as published" in card.text and "Not measured by us" in card.text
    if card.data.eval_results:
        assert eval_results_to_model_index(card.data.model_name, card.data.eval_results)
        (result,) = card.data.eval_results
        assert f"\n{result.metric_value} % accuracy" in card.text


def test_each_published_model_has_one():
    names = set()
    for preset in ("vitl16", "vith16", "vith16-384"):
        assert released_card(VJEPAConfig.from_preset(preset), is_classifier=False).text
        names.add(f"vjepa-{preset}")
        for probe, number in PROBES.items():
            config = VJEPAConfig.from_preset(preset, num_labels=number)
            text = str(released_card(config, is_classifier=True))
            assert f"models/{preset}-{probe}" in text
            names.add(f"vjepa-{preset}-{probe}")
    assert names == {file.stem for file in FILES}


def test_others_have_none():
    assert released_card(VJEPAConfig.from_preset("vitl16", num_labels=7), is_classifier=True) is None
    for name in ("vitt16", "vits16", "vitb16"):
        assert released_card(VJEPAConfig.from_preset(name), is_classifier=False) is None
        assert not is_released(VJEPAConfig.from_preset(name))
    assert all(is_released(VJEPAConfig.from_preset(name)) for name in PRESETS if name.startswith("ijepa"))
    assert not is_released(VJEPAConfig.from_preset("vitl16", crop_size=112))


@pytest.mark.parametrize(
    "file", [*CARDS.glob("*.md"), DOCS / "publishing.md", DOCS / "deploy.md"], ids=lambda file: file.stem
)
def test_versions_for_readers_without_this_package_are_those_it_asks_for(file):
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    wanted = dict(line.split(" >= ") for line in setup["options"]["install_requires"].splitlines() if " >= " in line)
    stated = dict(re.findall(r"`(transformers|torch|torchvision|av)>=([\d.]+)`", file.read_text()))
    assert stated == {name: wanted[name] for name in ("transformers", "torch", "torchvision", "av")}
