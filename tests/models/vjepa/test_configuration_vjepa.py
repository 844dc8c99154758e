import json
import logging

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel

from transformers_vjepa import PRESETS, VJEPAConfig, VJEPAModel
from transformers_vjepa.hub.loading import load_whole


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


@pytest.mark.parametrize(
    "name, width, depth, heads, pred_depth, patches",
    [
        ("ijepa-vitb16", 768, 12, 12, 6, 196),
        ("ijepa-vitl16", 1024, 24, 16, 12, 196),
        ("ijepa-vith14", 1280, 32, 16, 12, 256),
        ("ijepa-vith16-448", 1280, 32, 16, 12, 784),
        ("ijepa-vitg16", 1408, 40, 16, 16, 196),
    ],
)
def test_presets_of_images_are_the_published_sizes(name, width, depth, heads, pred_depth, patches):
    config = VJEPAConfig.from_preset(name)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (width, depth, heads)
    assert (config.pred_hidden_size, config.pred_num_hidden_layers) == (384, pred_depth)
    assert config.pred_num_attention_heads == heads
    assert config.num_patches == patches
    assert (config.is_image_model, config.tubelet_size, config.pred_num_mask_tokens) == (True, 1, 1)
    assert config.pred_loss == "smooth_l1"


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
        ({"num_pooled_layers": 0}, r"`num_pooled_layers`=0 must lie in \[1, num_hidden_layers=24\]"),
        ({"num_pooled_layers": 25, "pooling": "mean"}, "`num_pooled_layers`=25 must lie in"),
        ({"num_pooled_layers": 4}, "`num_pooled_layers`=4 needs `pooling`='mean'"),
        ({"pooled_batch_norm": True}, "`pooled_batch_norm`=True needs `pooling`='mean'"),
    ],
)
def test_wrong_values_are_refused_with_a_remedy(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        VJEPAConfig(**fields)


@pytest.mark.parametrize("name, meant", [("hiden_size", "hidden_size"), ("frame_per_clip", "frames_per_clip")])
def test_misspelled_fields_are_refused(name, meant):
    with pytest.raises(ValueError, match=rf"`{name}=64` is not a field of VJEPAConfig: did you mean `{meant}`\?"):
        VJEPAConfig(**{name: 64})


def test_a_misspelt_field_is_refused_in_every_call(tmp_path):
    VJEPAConfig().save_pretrained(tmp_path)
    for call in (
        lambda: VJEPAConfig(layer_norm_epsilon=1e-6),
        lambda: VJEPAConfig.from_preset("vitt16", layer_norm_epsilon=1e-6),
        lambda: AutoConfig.for_model("vjepa", layer_norm_epsilon=1e-6),
        lambda: VJEPAConfig.from_pretrained(tmp_path, layer_norm_epsilon=1e-6),
        lambda: AutoConfig.from_pretrained(tmp_path, layer_norm_epsilon=1e-6),
    ):
        with pytest.raises(ValueError, match="did you mean `layer_norm_eps`"):
            call()
    # transformers gives these back to the caller.
    config, unused = VJEPAConfig.from_pretrained(tmp_path, layer_norm_epsilon=1e-6, return_unused_kwargs=True)
    assert unused == {"layer_norm_epsilon": 1e-6} and not hasattr(config, "layer_norm_epsilon")


@pytest.mark.parametrize("name", ["layer_norm_epsilon", "hidden_sizes", "num_frames_per_clip", "zzz"])
def test_what_is_saved_loads_with_a_warning(name, tmp_path, caplog, monkeypatch):
    """As set by a user, or by a later version of transformers that knows more fields."""
    monkeypatch.setattr(logging.getLogger("transformers_vjepa"), "propagate", True)
    warning = f"`{name}` is not a field of VJEPAConfig: it is stored but has no effect"
    config = VJEPAConfig()
    setattr(config, name, 1)
    assert warning in caplog.text
    config.save_pretrained(tmp_path)
    for load in (
        lambda: VJEPAConfig.from_pretrained(tmp_path),
        lambda: AutoConfig.from_pretrained(tmp_path),
        lambda: VJEPAConfig.from_json_file(tmp_path / "config.json"),
        lambda: VJEPAConfig.from_dict(config.to_dict()),
    ):
        caplog.clear()
        assert getattr(load(), name) == 1
        assert warning in caplog.text


def test_a_file_cannot_replace_methods_or_computed_values(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers_vjepa"), "propagate", True)
    config = VJEPAConfig.from_dict({"num_frames": 8, "grid_size": 3, "save_pretrained": 1, "frames_per_clip": 4})
    assert config.num_frames == 4 and config.grid_size == (2, 14, 14) and callable(config.save_pretrained)
    assert "`num_frames=8` in the file is left out: VJEPAConfig computes it" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"), [("id2label", {"a": "walk"}), ("id2label", ["walk"]), ("dtype", "float31"), ("crop_size", 225)]
)
def test_what_would_not_load_is_not_saved(name, value, tmp_path):
    config = VJEPAConfig()
    with pytest.raises(StrictDataclassError, match=f"`{name}`="):
        setattr(config, name, value)
        config.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attn_implementation", "someone/kernel"),
        ("attn_implementation", "kernels-community/flash-attn2:flash_attn_varlen_func"),
        ("attn_implementation", "flash_attention_2"),  # of the Hub, where its package is missing
        ("attn_implementation", {"": "someone/kernel"}),
        ("_attn_implementation", "someone/kernel"),
        ("experts_implementation", "someone/kernel"),
        ("_experts_implementation", "someone/kernel"),
    ],
)
def test_a_file_cannot_choose_kernels_of_the_hub(field, value, tmp_path):
    small = {"num_hidden_layers": 1, "pred_num_hidden_layers": 1}
    VJEPAModel(VJEPAConfig.from_preset("vitt16", **small)).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    argument = field.removeprefix("_")
    for load in (
        VJEPAConfig.from_pretrained,
        AutoConfig.from_pretrained,
        VJEPAModel.from_pretrained,
        AutoModel.from_pretrained,
    ):
        with pytest.raises(
            ValueError, match=f"`{field}`=.* may run code from the Hub: choose.* argument `{argument}`"
        ):
            load(tmp_path)
    with pytest.raises(ValueError, match="may run code from the Hub"):
        load_whole(VJEPAModel, str(tmp_path), remedy="train it")
    # What the caller chooses replaces the choice of the file.
    for load in (VJEPAModel.from_pretrained, AutoModel.from_pretrained):
        assert load(tmp_path, **{argument: "eager"}) is not None


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"num_labels": 10**9}, "1e\\+09 classes, more than 1e\\+06"),
        ({"num_hidden_layers": 10**9}, "1e\\+09 blocks, more than 1e\\+03"),
        ({"pred_num_hidden_layers": 10**9}, "1e\\+09 blocks"),
        ({"num_pooler_layers": 10**9}, "1e\\+09 blocks"),
        ({"hidden_size": 16 * 10**6}, "parameters, more than 1e\\+10"),
        ({"mlp_ratio": 1e9}, "parameters"),
        ({"pred_hidden_size": 16 * 10**6}, "parameters"),
        ({"pred_num_mask_tokens": 10**9}, "parameters"),
        ({"in_chans": 10**9}, "parameters"),
        ({"crop_size": 16 * 10**6}, "position values, more than 2.68e\\+08"),
        ({"frames_per_clip": 2 * 10**9}, "position values"),
    ],
)
def test_a_file_cannot_ask_for_any_amount_of_memory(fields, asked, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "vjepa", **fields}))
    for load in (VJEPAConfig.from_pretrained, VJEPAModel.from_pretrained):
        with pytest.raises(ValueError, match=f"the configuration file asks for .*{asked}.*correct its sizes, or pass"):
            load(tmp_path)


def test_the_largest_published_sizes_are_within_the_bounds_of_a_file():
    for name in PRESETS:
        config = VJEPAConfig.from_preset(name, num_pooler_layers=3)
        assert VJEPAConfig.from_dict(config.to_dict()).hidden_size == config.hidden_size
    assert VJEPAConfig(num_hidden_layers=2000).num_hidden_layers == 2000  # arguments of Python have no bounds


def test_a_file_may_choose_among_the_kernels_of_torch():
    for name in ("eager", "sdpa"):
        assert VJEPAConfig.from_dict({"attn_implementation": name})._attn_implementation == name
    with pytest.raises(ValueError, match="may run code from the Hub"):
        VJEPAConfig.from_dict({"attn_implementation": {"": "sdpa", "part": "someone/kernel"}})
    # The caller's choice is not checked here; transformers checks it.
    assert VJEPAConfig(attn_implementation="someone/kernel")._attn_implementation == "someone/kernel"
    # transformers does not read this one.
    assert VJEPAConfig.from_dict({"_attn_implementation_internal": "someone/kernel"})._attn_implementation is None


def test_a_file_may_ask_only_for_quantisation_by_installed_packages():
    for method in ("fp8", "mxfp4", "later"):
        with pytest.raises(ValueError, match=f"asks for quantisation by '{method}', which may run code from the Hub"):
            VJEPAConfig.from_dict({"quantization_config": {"quant_method": method}})
    kept = {"quant_method": "torchao", "quant_type": "int8_weight_only"}
    assert VJEPAConfig.from_dict({"quantization_config": kept}).quantization_config == kept


def test_computed_values_are_not_fields():
    with pytest.raises(ValueError, match="`num_frames=8` is computed: set `frames_per_clip`"):
        VJEPAConfig(num_frames=8)


def test_foreign_fields_are_kept_with_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers_vjepa"), "propagate", True)
    VJEPAConfig(use_cache=False)  # Trainer writes it into saved configurations
    assert not caplog.records
    assert VJEPAConfig(zzz=1).zzz == 1
    assert "`zzz` is not a field of VJEPAConfig" in caplog.text
