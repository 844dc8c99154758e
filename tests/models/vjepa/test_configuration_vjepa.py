import logging

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from transformers_vjepa import PRESETS, VJEPAConfig


@pytest.mark.parametrize(
    "name, width, depth, heads, pred_heads, patches",
    [
        ("vitt16", 192, 12, 3, 3, 1568),
        ("vits16", 384, 12, 6, 6, 1568),
        ("vitb16", 768, 12, 12, 12, 1568),
        ("vitl16", 1024, 24, 16, 16, 1568),
        ("vith16", 1280, 32, 16, 16, 1568),
        ("vith16-384", 1280, 32, 16, 16, 4608),
    ],
)
def test_presets_are_the_published_sizes(name, width, depth, heads, pred_heads, patches):
    config = VJEPAConfig.from_preset(name)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (width, depth, heads)
    assert (config.pred_hidden_size, config.pred_num_hidden_layers) == (384, 12)
    assert config.pred_num_attention_heads == pred_heads
    assert config.num_patches == patches
    assert config.uniform_power
    assert name in PRESETS


def test_preset_takes_overrides_and_refuses_unknown_names():
    assert VJEPAConfig.from_preset("vitb16", crop_size=112).grid_size == (8, 7, 7)
    with pytest.raises(ValueError, match="unknown preset 'vitg16': choose one of vitt16"):
        VJEPAConfig.from_preset("vitg16")


def test_save_and_load_round_trip(tmp_path):
    config = VJEPAConfig.from_preset("vits16", uniform_power=False, hidden_size=384, num_labels=5)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, VJEPAConfig)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.num_labels == 5


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"crop_size": 225}, "`crop_size`=225 is not a multiple of `patch_size`=16: use crop_size=224"),
        (
            {"frames_per_clip": 15},
            "`frames_per_clip`=15 is not a multiple of `tubelet_size`=2: use frames_per_clip=16",
        ),
        ({"hidden_size": 1000}, "`hidden_size`=1000 is not a multiple of `num_attention_heads`=16"),
        (
            {"pred_hidden_size": 100},
            "`pred_hidden_size`=100 is not a multiple of `pred_num_attention_heads`=16",
        ),
        (
            {"hidden_size": 36, "num_attention_heads": 3, "uniform_power": False},
            "`hidden_size`=36 cannot hold the sine-cosine positions: use a multiple of 8",
        ),
        ({"num_hidden_layers": 0}, "`num_hidden_layers`=0 must be greater than 0"),
        ({"drop_path_rate": 1.0}, r"`drop_path_rate`=1.0 must lie in \[0, 1\)"),
        ({"hidden_size": 2.5}, "expected int, got float"),
    ],
)
def test_wrong_values_are_refused_with_a_remedy(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        VJEPAConfig(**fields)


@pytest.mark.parametrize("name, meant", [("hiden_size", "hidden_size"), ("frame_per_clip", "frames_per_clip")])
def test_misspelled_fields_are_refused(name, meant):
    with pytest.raises(ValueError, match=rf"`{name}=64` is not a field of VJEPAConfig: did you mean `{meant}`\?"):
        VJEPAConfig(**{name: 64})


def test_computed_values_are_not_fields():
    with pytest.raises(ValueError, match="`num_frames=8` is computed: set `frames_per_clip`"):
        VJEPAConfig(num_frames=8)


def test_foreign_fields_are_kept_with_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers_vjepa"), "propagate", True)
    VJEPAConfig(use_cache=False)  # Trainer writes it into saved configurations
    assert not caplog.records
    assert VJEPAConfig(zzz=1).zzz == 1
    assert "`zzz` is not a field of VJEPAConfig" in caplog.text
