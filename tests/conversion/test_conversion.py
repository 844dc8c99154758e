"""Published weights to ours and back, bit by bit; files that do not fit are refused with every difference."""

import pytest
import torch
from published import published_checkpoint_of, published_probe_of
from reference import TINY, reference_model

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from transformers_vjepa.conversion.checks import differing_tensors
from transformers_vjepa.conversion.conversion import (
    build_model,
    classifier_config,
    convert_checkpoint,
    convert_encoder_and_probe,
    convert_network,
    convert_weights,
    dropped_entries,
    load_published_checkpoint,
    load_published_classifier,
    published_checkpoint,
    published_probe,
    read_folder,
)
from transformers_vjepa.conversion.recognition import recognise_config
from transformers_vjepa.data.labels import LabelError
from transformers_vjepa.safety.safe_loading import CheckpointError, read_checkpoint, save_checkpoint

CONFIG = VJEPAConfig(**TINY)
IMAGE = VJEPAConfig(**TINY | {"frames_per_clip": 1, "tubelet_size": 1, "pred_num_mask_tokens": 1})
REFERENCES = [("vjepa_tiny_uniform", 4), ("vjepa_tiny_plain", 3), ("ijepa_tiny", 4)]
ENCODER = "module.backbone."
NETWORKS = ("encoder", "target_encoder", "predictor")


def test_parts_go_to_their_places(shared):
    folder = shared / "reference" / "vjepa_tiny_uniform"
    model = reference_model(folder)
    published = torch.load(folder / "checkpoint.pth.tar", weights_only=True)
    for part, ours in (("encoder", model.context_encoder), ("target_encoder", model.vjepa.encoder)):
        assert torch.equal(ours.layernorm.weight, published[part]["module.backbone.norm.weight"])
    tokens = model.vjepa.predictor.mask_tokens
    for index in range(2):
        assert torch.equal(tokens[index], published["predictor"][f"module.backbone.mask_tokens.{index}"])


def test_fused_weights_are_split_in_order():
    encoder = published_checkpoint_of(CONFIG)["encoder"]
    encoder[f"{ENCODER}blocks.1.attn.qkv.bias"] = torch.arange(3.0).repeat_interleave(48)
    converted = convert_network(encoder)
    for value, name in enumerate(("query", "key", "value")):
        assert converted[f"layer.1.attention.{name}.bias"].tolist() == [value] * 48

    probe = published_probe_of(48)["classifier"]
    probe["module.pooler.cross_attention_block.xattn.kv.bias"] = torch.arange(2.0).repeat_interleave(48)
    converted = convert_network(probe)
    for value, name in enumerate(("k_proj", "v_proj")):
        assert converted[f"pooler.cross_attention_layer.cross_attn.{name}.bias"].tolist() == [value] * 48


def test_patches_are_flattened_in_the_order_of_a_convolution():
    encoder = published_checkpoint_of(CONFIG)["encoder"]
    kernel = encoder[f"{ENCODER}patch_embed.proj.weight"]
    flat = convert_network(encoder)["embeddings.patch_embeddings.weight"]
    assert flat[5, ((2 * 2 + 1) * 8 + 3) * 8 + 4] == kernel[5, 2, 1, 3, 4]


def test_unknown_and_missing_names_are_all_listed():
    checkpoint = published_checkpoint_of(CONFIG)
    checkpoint["encoder"]["module.head.weight"] = torch.zeros(1)
    checkpoint["predictor"][f"{ENCODER}predictor_blocks.0.gamma"] = torch.zeros(1)
    del checkpoint["encoder"][f"{ENCODER}blocks.0.norm1.bias"]
    del checkpoint["target_encoder"][f"{ENCODER}blocks.0.attn.qkv.bias"]
    del checkpoint["predictor"][f"{ENCODER}mask_tokens.0"], checkpoint["predictor"][f"{ENCODER}mask_tokens.1"]
    message = (
        "unknown: encoder.head.weight, predictor.predictor_blocks.0.gamma; "
        "missing: encoder.blocks.0.norm1.bias, target_encoder.blocks.0.attn.qkv.bias, predictor.mask_tokens.0"
    )
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(checkpoint, CONFIG)


def test_missing_parts_and_unknown_entries_are_refused():
    with pytest.raises(CheckpointError, match="pretraining checkpoint: no target_encoder, predictor in encoder"):
        convert_checkpoint({"encoder": {}}, CONFIG)
    with pytest.raises(CheckpointError, match="pretraining checkpoint: unknown entries: ema_schedule"):
        convert_checkpoint(published_checkpoint_of(CONFIG) | {"ema_schedule": 1}, CONFIG)
    with pytest.raises(CheckpointError, match="`encoder` of the checkpoint is not a state dict"):
        convert_checkpoint(published_checkpoint_of(CONFIG) | {"encoder": [1]}, CONFIG)
    twice = published_checkpoint_of(CONFIG)
    twice["encoder"]["norm.weight"] = torch.ones(48)
    with pytest.raises(CheckpointError, match="`encoder` of the checkpoint names weights twice"):
        convert_checkpoint(twice, CONFIG)


def test_wrong_sizes_are_refused():
    checkpoint = published_checkpoint_of(CONFIG)
    checkpoint["predictor"][f"{ENCODER}predictor_proj.weight"] = torch.zeros(48, 25)
    message = r"does not fit the configuration: vjepa.predictor.proj.weight has shape \(48, 25\), expected \(48, 24\)$"
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(checkpoint, CONFIG)
    checkpoint["predictor"][f"{ENCODER}predictor_blocks.0.attn.qkv.bias"] = torch.zeros(70)
    with pytest.raises(CheckpointError, match=r"qkv.bias of shape \(70,\) does not split into 3 equal parts"):
        convert_checkpoint(checkpoint, CONFIG)
    deeper = VJEPAConfig(**TINY | {"num_hidden_layers": 3})
    with pytest.raises(CheckpointError, match=r"layer.2.norm2.weight has shape none, expected \(48,\)"):
        convert_checkpoint(published_checkpoint_of(CONFIG), deeper)


def test_positions_of_another_configuration_are_refused():
    with pytest.raises(CheckpointError, match="the checkpoint has another grid or another uniform_power"):
        convert_checkpoint(published_checkpoint_of(CONFIG), VJEPAConfig(**TINY | {"uniform_power": False}))
    checkpoint = published_checkpoint_of(CONFIG)
    checkpoint["predictor"][f"{ENCODER}predictor_pos_embed"] += 1e-4
    with pytest.raises(CheckpointError, match="differs by 1.0e-04"):
        convert_checkpoint(checkpoint, CONFIG)


def test_no_weight_is_copied_and_the_model_is_ready():
    checkpoint = published_checkpoint_of(CONFIG)
    model = convert_checkpoint(checkpoint, CONFIG)
    fused = checkpoint["encoder"][f"{ENCODER}blocks.0.attn.qkv.weight"]
    assert model.context_encoder.layer[0].attention.query.weight.data_ptr() == fused.data_ptr()
    # The model was built on the meta device: position tables and requires_grad are set afterwards.
    fresh = VJEPAForPreTraining(CONFIG)
    for (name, ours), (_, expected) in zip(model.named_buffers(), fresh.named_buffers(), strict=True):
        assert torch.equal(ours, expected), name
    assert [value.requires_grad for value in model.parameters()] == [
        value.requires_grad for value in fresh.parameters()
    ]
    assert not model.training


@pytest.mark.parametrize("variant, heads", REFERENCES)
def test_published_to_ours_and_back_is_bit_equal(shared, variant, heads):
    folder = shared / "reference" / variant
    published = read_checkpoint(folder / "checkpoint.pth.tar")
    model = convert_checkpoint(published, recognise_config(published, num_attention_heads=heads).config)
    back = published_checkpoint(model.state_dict(), model.config)
    for part in NETWORKS:  # position tables, too
        assert differing_tensors(back[part], published[part]) == []
    assert back.keys() == {*NETWORKS, "epoch"}


@pytest.mark.parametrize("config", [CONFIG, IMAGE, VJEPAConfig(**TINY | {"qkv_bias": False, "uniform_power": False})])
def test_ours_to_published_and_back_is_bit_equal(tmp_path, config):
    model = VJEPAForPreTraining(config)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_()
    published = published_checkpoint(model.state_dict(), config)
    assert published.keys() == {*NETWORKS, "epoch"}
    expected = published_checkpoint_of(config, seed=None)
    for part in NETWORKS:
        shapes = {name: value.shape for name, value in published[part].items()}
        assert shapes == {name: value.shape for name, value in expected[part].items()}
    save_checkpoint(published, tmp_path / "file")
    again = load_published_checkpoint(tmp_path / "file", config)
    assert differing_tensors(again.state_dict(), model.state_dict()) == []


@pytest.mark.parametrize("variant, heads", REFERENCES[:2])
@pytest.mark.parametrize("depth", [1, 3])
def test_probes_there_and_back(shared, variant, heads, depth):
    folder = shared / "reference" / variant
    files = folder / "checkpoint.pth.tar", folder / f"probe_depth{depth}.pth.tar"
    model = load_published_classifier(*files, num_attention_heads=heads)
    assert isinstance(model, VJEPAForVideoClassification)
    assert (model.config.num_pooler_layers, model.config.num_labels) == (depth - 1, 7)
    assert (model.config.pooling, model.config.pooler_layer_norm_eps) == ("attentive", 1e-5)

    checkpoint, probe = (read_checkpoint(file) for file in files)
    back = published_probe(model.state_dict(), model.config)["classifier"]
    unused = [f"module.pooler.cross_attention_block.xattn.proj.{name}" for name in ("bias", "weight")]
    assert differing_tensors(back, probe["classifier"]) == unused
    assert all(back[name].count_nonzero() == 0 for name in unused)
    encoder = published_checkpoint(model.state_dict(), model.config)
    assert encoder.keys() == {"target_encoder", "epoch"}
    assert differing_tensors(encoder["target_encoder"], checkpoint["target_encoder"]) == []

    again = convert_weights(encoder, model.config, {"classifier": back})
    assert differing_tensors(again, model.state_dict()) == []


def test_a_probe_for_an_encoder_of_ours():
    encoder, probe = VJEPAForPreTraining(CONFIG), published_probe_of(48, depth=2, num_labels=5)
    config, source = classifier_config(CONFIG, probe)
    assert CONFIG.num_labels == 2  # a copy was made
    assert config.id2label == {index: f"LABEL_{index}" for index in range(5)}
    assert "no public list of 5 classes" in source
    weights = convert_encoder_and_probe(encoder.state_dict(), probe, config)
    model = build_model(weights, config)
    assert torch.equal(model.classifier.weight, probe["classifier"]["module.linear.weight"])
    assert torch.equal(model.vjepa.encoder.layernorm.weight, encoder.vjepa.encoder.layernorm.weight)
    assert model.vjepa.predictor is None


def test_labels_of_a_probe(tmp_path):
    config, source = classifier_config(CONFIG, published_probe_of(48, num_labels=174))
    assert source == "Something-Something v2"
    assert config.id2label[173] == "Wiping something off of something"
    assert config.label2id["Closing something"] == 5
    file = tmp_path / "labels.txt"
    file.write_text("a\nb\n")
    assert classifier_config(CONFIG, published_probe_of(48, num_labels=2), labels=file)[0].label2id == {"a": 0, "b": 1}
    with pytest.raises(LabelError, match="names 2 classes, .* and there are 3"):
        classifier_config(CONFIG, published_probe_of(48, num_labels=3), labels=file)


def test_probes_that_do_not_fit_are_refused():
    with pytest.raises(CheckpointError, match="has width 32, the encoder 48: the probe belongs to another model"):
        classifier_config(CONFIG, published_probe_of(32))
    with pytest.raises(CheckpointError, match="not a published probe: no classifier in batch_size, encoder, epoch"):
        classifier_config(CONFIG, published_checkpoint_of(CONFIG))
    linear = {"classifier": {"module.linear.weight": torch.zeros(7, 48), "module.linear.bias": torch.zeros(7)}}
    with pytest.raises(CheckpointError, match="`classifier` has no pooler.query_tokens"):
        classifier_config(CONFIG, linear)
    probe = published_probe_of(48, depth=2)
    del probe["classifier"]["module.pooler.blocks.0.norm1.bias"]
    probe["classifier"]["module.scale"] = torch.ones(1)
    message = "unknown: classifier.scale; missing: classifier.pooler.blocks.0.norm1.bias"
    with pytest.raises(CheckpointError, match=message):
        classifier_config(CONFIG, probe)


def test_models_without_a_published_layout_are_refused():
    two = VJEPAConfig(**IMAGE.to_diff_dict() | {"pred_num_mask_tokens": 2})
    with pytest.raises(CheckpointError, match="2 mask tokens: a published I-JEPA predictor has one"):
        published_checkpoint(VJEPAForPreTraining(two).state_dict(), two)
    mean = VJEPAConfig(**TINY, pooling="mean")
    with pytest.raises(CheckpointError, match="pooling='mean' has no published layout"):
        published_probe(VJEPAForVideoClassification(mean).state_dict(), mean)


def test_dropped_entries_are_named():
    checkpoint = published_checkpoint_of(CONFIG)
    assert dropped_entries(checkpoint) == [
        *("opt", "scaler", "epoch", "loss", "batch_size", "world_size", "lr"),
        "position tables (computed)",
    ]
    assert dropped_entries({"target_encoder": {"module.norm.weight": 0}, "epoch": 0}) == ["epoch"]
    assert dropped_entries({}, {"classifier": {}, "epoch": 1, "opt": None}) == [
        "of the probe opt, epoch, xattn.proj (never applied)"
    ]
    assert "predictor" in dropped_entries(checkpoint, published_probe_of(48))


def test_folders_are_read_with_the_names_of_the_larger_models(tmp_path):
    model = VJEPAModel(VJEPAConfig(**TINY))
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    config, weights = read_folder(tmp_path)
    assert config.to_diff_dict() == model.config.to_diff_dict()
    assert weights.keys() == {f"vjepa.{name}" for name in model.state_dict()}
    assert all(torch.equal(weights[f"vjepa.{name}"], value) for name, value in model.state_dict().items())


def test_folders_without_a_model_or_with_a_damaged_file_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is not a saved model: it has no config.json or no model.safetensors"):
        read_folder(tmp_path)
    VJEPAModel(VJEPAConfig(**TINY)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="model.safetensors is damaged"):
        read_folder(tmp_path)
