"""`vjepa publish` without the upload itself; tests/hub/test_round_trips.py has the uploads."""

import pytest
import torch
from reference import TINY
from safetensors.torch import load_file, save_file

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAVideoProcessor
from transformers_vjepa.commands import publish
from transformers_vjepa.hub.model_card import heritage_of
from transformers_vjepa.hub.names import is_hub_id


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "mine"
    torch.manual_seed(0)
    VJEPAForPreTraining(VJEPAConfig(**TINY)).save_pretrained(folder)
    VJEPAVideoProcessor(crop_size=32).save_pretrained(folder)
    return folder


def refused(*argv):
    with pytest.raises(SystemExit) as ended:
        publish.run([*map(str, argv)])
    return str(ended.value)


def test_only_the_listed_files_are_uploaded(model, capsys):
    for name in ("train.csv", "optimizer.pt", "training_args.bin", "arguments.json", "checkpoint-2/model.safetensors"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"not for others")
    (model / "README.md").write_text("# By hand\n\n![a](curves.png) ![b](../secret.png) ![c](https://host/x.png)\n")
    (model / "curves.png").write_bytes(b"png")
    (model.parent / "secret.png").write_bytes(b"png")
    publish.run([str(model), "me/name", "--dry_run"])
    shown = capsys.readouterr().out
    names = {line.split()[-1] for line in shown.splitlines() if " MB  " in line and " files" not in line}
    assert {name for name in names if not name.endswith(".py")} == {
        *("README.md", "config.json", "curves.png", "model.safetensors", "video_preprocessor_config.json")
    }
    assert "loads as VJEPAForPreTraining" in shown and "names no licence" in shown
    assert not list(model.glob("*.py"))


def test_folders_that_do_not_load_are_refused(model, tmp_path):
    assert "has no config.json: give the folder" in refused(tmp_path, "me/name")
    weights = load_file(model / "model.safetensors")
    lost = next(name for name in weights if name.startswith("vjepa.encoder."))
    save_file({name: value for name, value in weights.items() if name != lost}, model / "model.safetensors")
    assert refused(model, "me/name").endswith("the folder does not hold a complete VJEPAForPreTraining")
    (model / "model.safetensors").write_bytes(b"noise")
    assert "are damaged" in refused(model, "me/name")
    (model / "model.safetensors").unlink()
    assert "has no model.safetensors" in refused(model, "me/name")


def test_heritage_of_folders(model):
    assert heritage_of(model).license is None and heritage_of(None).base_models == ()
    (model / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nbase_model: user/base\n---\n")
    assert heritage_of(model).base_models == ("user/base",) and heritage_of(model).license == "cc-by-nc-4.0"
    (model / "README.md").write_text("---\nlicense: [broken\n---\n")
    assert heritage_of(model).license is None
    assert is_hub_id("user/name") and not is_hub_id(str(model)) and not is_hub_id("name")
