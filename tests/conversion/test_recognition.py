"""The architecture of a published file, recognised from its weights alone."""

import json

import pytest
import torch
from published import published_checkpoint_of
from reference import TINY

from transformers_vjepa import PRESETS, VJEPAConfig
from transformers_vjepa.conversion.recognition import check_positions, recognise_config
from transformers_vjepa.models.vjepa.modeling_vjepa import sincos_positions
from transformers_vjepa.safety.safe_loading import CheckpointError, read_checkpoint

TABLE = "module.backbone.pos_embed"


def tiny_checkpoint(**fields):
    return published_checkpoint_of(VJEPAConfig(**TINY | fields), seed=None)


def without_tables(checkpoint):
    for part in ("encoder", "target_encoder", "predictor"):
        checkpoint[part] = {name: value for name, value in checkpoint[part].items() if not name.endswith("pos_embed")}
    return checkpoint


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_recognised_from_shapes_and_positions(preset):
    config = VJEPAConfig.from_preset(preset)
    found = recognise_config(published_checkpoint_of(config, seed=None))
    assert found.config.to_dict() == config.to_dict()
    assert found.presets == (preset,)
    assert found.heads_source == f"preset {preset}"
    assert found.table_difference == 0.0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"uniform_power": False},
        # 64 tokens of one width: sixteen 2x2 grids, four 4x4 grids, one 8x8 grid.
        {"frames_per_clip": 32, "crop_size": 16},
        {"frames_per_clip": 8, "crop_size": 32},
        {"frames_per_clip": 2, "crop_size": 64},
        {"frames_per_clip": 32, "crop_size": 16, "uniform_power": False},
        {"frames_per_clip": 2, "crop_size": 64, "uniform_power": False},
        {"frames_per_clip": 1, "tubelet_size": 1, "crop_size": 64, "pred_num_mask_tokens": 1}
        | {"pred_loss": "smooth_l1"},
        {"mlp_ratio": 2.5, "pred_mlp_ratio": 3.0, "qkv_bias": False, "pred_num_mask_tokens": 3, "in_chans": 1},
        # int(21 * (51 / 21)) is 50.
        {"hidden_size": 21, "num_attention_heads": 7, "mlp_ratio": 51.5 / 21, "pred_num_attention_heads": 4},
    ],
)
def test_every_field_is_read_back(fields):
    config = VJEPAConfig(**TINY | fields)
    found = recognise_config(
        published_checkpoint_of(config, seed=None),
        num_attention_heads=config.num_attention_heads,
        pred_num_attention_heads=config.pred_num_attention_heads,
    ).config
    expected = config.to_dict()
    # A ratio that is not a quotient of the sizes is read back as a ratio with the same sizes.
    ratio = found.mlp_ratio
    assert int(ratio * found.hidden_size) == int(config.mlp_ratio * config.hidden_size)
    assert found.to_dict() | {"mlp_ratio": expected["mlp_ratio"]} == expected


@pytest.mark.parametrize("variant, heads", [("vjepa_tiny_uniform", 4), ("vjepa_tiny_plain", 3), ("ijepa_tiny", 4)])
def test_reference_files(shared, variant, heads):
    folder = shared / "reference" / variant
    found = recognise_config(read_checkpoint(folder / "checkpoint.pth.tar"), num_attention_heads=heads)
    geometry = json.loads((folder / "geometry.json").read_text())
    assert {name: getattr(found.config, name) for name in geometry} == geometry
    assert found.table_difference < 1e-6


def test_the_result_is_described():
    found = recognise_config(tiny_checkpoint(), num_attention_heads=3)
    assert str(found) == (
        "V-JEPA, uniform_power=True: 2 blocks of width 48, 3 heads (as given), patches of 2x8x8; 2x4x4 tokens "
        "(4 frames of 32 px), from the stored positions, off by 0e+00"
    )
    image = tiny_checkpoint(frames_per_clip=1, tubelet_size=1, pred_num_mask_tokens=1)
    assert str(recognise_config(image, num_attention_heads=3)).startswith(
        "I-JEPA: 2 blocks of width 48, 3 heads (as given), patches of 1x8x8; 4x4 tokens (32 px)"
    )


def test_heads_must_be_given_where_no_preset_agrees():
    with pytest.raises(CheckpointError, match=r"pass --num_attention_heads N \(found patch_size=8, tubelet_size=2"):
        recognise_config(tiny_checkpoint())
    found = recognise_config(tiny_checkpoint(pred_num_attention_heads=2), num_attention_heads=6)
    assert (found.config.num_attention_heads, found.config.pred_num_attention_heads) == (6, 6)
    for heads in (0, 5):
        with pytest.raises(CheckpointError, match=f"--num_attention_heads {heads} does not divide the width 48"):
            recognise_config(tiny_checkpoint(), num_attention_heads=heads)


def test_other_numbers_of_mask_tokens_are_the_same_architecture():
    checkpoint = published_checkpoint_of(VJEPAConfig.from_preset("vitt16", pred_num_mask_tokens=4), seed=None)
    found = recognise_config(checkpoint)
    assert (found.config.num_attention_heads, found.config.pred_num_mask_tokens) == (3, 4)


def test_contradictions_name_both_values():
    checkpoint = published_checkpoint_of(VJEPAConfig.from_preset("vitt16"), seed=None)
    message = "--preset vits16 contradicts the weights: hidden_size is 384 there and 192 in the weights"
    with pytest.raises(CheckpointError, match=message):
        recognise_config(checkpoint, preset="vits16")
    with pytest.raises(CheckpointError, match="--num_attention_heads 6 contradicts --preset vitt16, which has 3"):
        recognise_config(checkpoint, preset="vitt16", num_attention_heads=6)
    with pytest.raises(CheckpointError, match="--uniform_power false contradicts .* which shows uniform_power=True"):
        recognise_config(checkpoint, uniform_power=False)
    assert recognise_config(
        checkpoint, preset="vitt16", uniform_power=True, num_attention_heads=3
    ).config.uniform_power


def test_without_positions_a_preset_is_needed():
    checkpoint = without_tables(published_checkpoint_of(VJEPAConfig.from_preset("vith16-384"), seed=None))
    with pytest.raises(CheckpointError, match="no position table, .*: name the architecture with --preset"):
        recognise_config(checkpoint, num_attention_heads=16)
    found = recognise_config(checkpoint, preset="vith16-384")
    assert found.config.to_dict() == VJEPAConfig.from_preset("vith16-384").to_dict()
    assert found.table_difference is None
    assert str(found).endswith("8x24x24 tokens (16 frames of 384 px), from the preset")
    assert not recognise_config(checkpoint, preset="vith16-384", uniform_power=False).config.uniform_power


def test_positions_of_other_than_square_grids_are_refused():
    checkpoint = tiny_checkpoint()
    # A grid of 2 x 2 x 8 tokens.
    checkpoint["target_encoder"][TABLE] = sincos_positions((2, 2, 8), 48, uniform_power=True).unsqueeze(0)
    with pytest.raises(
        CheckpointError, match=r"32 tokens of width 48 is not a sine-cosine table of a square grid: .*differs"
    ):
        recognise_config(checkpoint, num_attention_heads=3)
    checkpoint["target_encoder"][TABLE] = torch.zeros(32, 48)
    with pytest.raises(CheckpointError, match=r"pos_embed has shape \(32, 48\), torch.float32: expected \(1, tokens"):
        recognise_config(checkpoint, num_attention_heads=3)


def test_stored_positions_are_compared():
    config = VJEPAConfig(**TINY)
    table = sincos_positions(config.grid_size, 48, uniform_power=True).unsqueeze(0)
    assert check_positions({"pos_embed": table}, config) == 0.0
    assert check_positions({"norm.weight": table}, config) is None
    assert check_positions({"pos_embed": table + 5e-6}, config) == pytest.approx(5e-6, rel=0.1)
    assert check_positions({"pos_embed": table.bfloat16()}, config) < 4e-3
    with pytest.raises(CheckpointError, match=r"differs by 2.0e-05 \(allowed 1e-05\) from grid \(2, 4, 4\)"):
        check_positions({"pos_embed": table + 2e-5}, config)
    with pytest.raises(CheckpointError, match="the checkpoint has another grid or another uniform_power"):
        check_positions({"pos_embed": table}, VJEPAConfig(**TINY | {"uniform_power": False}))
    with pytest.raises(CheckpointError, match=r"has shape \(1, 32, 48\), grid \(1, 4, 4\)"):
        check_positions({"pos_embed": table}, VJEPAConfig(**TINY | {"frames_per_clip": 2}))


def test_strange_networks_are_refused():
    with pytest.raises(CheckpointError, match="no `target_encoder` in the checkpoint, which holds classifier, epoch"):
        recognise_config({"classifier": {}, "epoch": 1})
    checkpoint = tiny_checkpoint()
    checkpoint["target_encoder"]["module.backbone.patch_embed.proj.weight"] = torch.zeros(48, 3, 2, 8, 4)
    with pytest.raises(CheckpointError, match=r"has shape \(48, 3, 2, 8, 4\): expected \(width, channels"):
        recognise_config(checkpoint, num_attention_heads=3)
    checkpoint = tiny_checkpoint()
    checkpoint["target_encoder"]["module.backbone.blocks.0.mlp.fc1.weight"] = torch.zeros(9)
    with pytest.raises(CheckpointError, match=r"the first layer of an MLP has shape \(9,\): expected \(rows, width\)"):
        recognise_config(checkpoint, num_attention_heads=3)
    for part, blocks in (("target_encoder", "blocks"), ("predictor", "predictor_blocks")):
        checkpoint = tiny_checkpoint()
        checkpoint[part] = {name: value for name, value in checkpoint[part].items() if blocks not in name}
        with pytest.raises(CheckpointError, match=f"`{part}` has no {blocks}"):
            recognise_config(checkpoint, num_attention_heads=3)
