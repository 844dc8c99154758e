"""Requirements of `transformers` on saving and loading, for all three models."""

import json
import logging
from pathlib import Path

import pytest
import torch
from accelerate import infer_auto_device_map
from rules import MODELS, all_tensors, inputs_of, largest_gap, tiny_config, tiny_model
from safetensors.torch import load_file, save_file
from transformers import initialization

from transformers_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel

every_model = pytest.mark.parametrize("cls", MODELS)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without(folder: Path, *names: str) -> None:
    """Removes tensors from a saved model."""
    tensors = load_file(folder / "model.safetensors")
    for name in names:
        del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@every_model
def test_round_trip_is_silent_and_byte_identical(cls, tmp_path, caplog, monkeypatch):
    # By default the logger of transformers does not propagate its messages.
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model, inputs = tiny_model(cls), inputs_of(cls)
    for name in ("first", "second"):
        model.save_pretrained(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        loaded, info = cls.from_pretrained(tmp_path / "first", output_loading_info=True)
    assert not any(info.values())
    # A notebook of an earlier test may be shutting down.
    assert [record.getMessage() for record in caplog.records if record.name != "traitlets"] == []
    loaded.save_pretrained(tmp_path / "third")
    # The order of the pooler's sums depends on the memory alignment of the weights.
    assert largest_gap(loaded(**inputs), model(**inputs)) < 1e-6
    assert all(torch.equal(value, dict(all_tensors(loaded))[name]) for name, value in all_tensors(model))
    first, *others = (files_of(tmp_path / name) for name in ("first", "second", "third"))
    assert first.keys() == {"config.json", "model.safetensors"}
    assert all(other == first for other in others)


@every_model
def test_saved_in_shards(cls, tmp_path):
    model = tiny_model(cls)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == len(list(tmp_path.glob("*.safetensors"))) > 3
    assert index["weight_map"].keys() == model.state_dict().keys()
    assert largest_gap(cls.from_pretrained(tmp_path)(**inputs_of(cls)), model(**inputs_of(cls))) < 1e-6


@every_model
@pytest.mark.parametrize(
    ("saved", "arguments", "expected"),
    [
        (torch.bfloat16, {"dtype": "auto"}, torch.bfloat16),
        (torch.bfloat16, {}, torch.bfloat16),  # as it was saved
        (torch.float32, {"dtype": "bfloat16"}, torch.bfloat16),
        (torch.float32, {"torch_dtype": torch.float16}, torch.float16),  # the name before `dtype`
        (torch.float16, {"dtype": torch.float32}, torch.float32),
    ],
)
def test_types_of_the_weights(cls, tmp_path, saved, arguments, expected):
    model = tiny_model(cls).to(saved)
    model.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path, **arguments)
    assert {value.dtype for value in loaded.parameters()} == {expected}
    assert loaded.dtype == loaded.config.dtype == expected
    # Positions are computed, not loaded: they keep the precision that the weights lose.
    fresh = dict(tiny_model(cls).named_buffers())
    assert fresh and all(torch.equal(value, fresh[name]) for name, value in loaded.named_buffers())
    assert largest_gap(loaded(**inputs_of(cls)), tiny_model(cls)(**inputs_of(cls))) < 0.15


@pytest.fixture
def seeded_weights(monkeypatch):
    """Random weights that depend only on their shape and distribution, not on earlier draws."""
    draw = initialization.TORCH_INIT_FUNCTIONS["trunc_normal_"]

    def seeded(*args, **kwargs):
        torch.manual_seed(0)
        return draw(*args, **kwargs)

    monkeypatch.setitem(initialization.TORCH_INIT_FUNCTIONS, "trunc_normal_", seeded)


@every_model
def test_made_on_the_meta_device(cls, seeded_weights):
    with torch.device("meta"):
        model = cls(tiny_config())
    assert all(value.is_meta for _, value in all_tensors(model))
    model.to_empty(device="cpu")
    for _, value in all_tensors(model):
        value.data.fill_(float("nan"))
    model.init_weights()
    expected = dict(all_tensors(cls(tiny_config())))
    assert all(torch.equal(value, expected[name]) for name, value in all_tensors(model))
    model.eval()
    assert all(tensor.isfinite().all() for tensor in model(**inputs_of(cls)).to_tuple() if torch.is_tensor(tensor))


@every_model
@pytest.mark.parametrize("fields", [{}, {"pred_zero_init_mask_tokens": False, "num_pooler_layers": 1}])
def test_all_missing_weights_are_initialised_as_in_a_new_model(cls, fields, seeded_weights):
    config = tiny_config(**fields)
    expected = dict(all_tensors(cls(config)))
    model = cls.from_pretrained(None, config=config, state_dict={})
    assert all(torch.equal(value, expected[name]) for name, value in all_tensors(model))
    wants_gradient = {name: value.requires_grad for name, value in cls(config).named_parameters()}
    assert {name: value.requires_grad for name, value in model.named_parameters()} == wants_gradient


@every_model
def test_one_missing_weight_is_named_and_initialised(cls, tmp_path):
    model = tiny_model(cls)
    name = next(name for name in model.state_dict() if name.endswith("mlp.fc1.weight") and "context" not in name)
    model.save_pretrained(tmp_path)
    without(tmp_path, name)
    loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {name} and not info["unexpected_keys"]
    for key, value in loaded.state_dict().items():
        assert key == name or torch.equal(value, model.state_dict()[key])
    if cls is not VJEPAForPreTraining:  # in pretraining, the other encoder provides it
        assert loaded.state_dict()[name].std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("lost, other", [("context_encoder", "vjepa.encoder"), ("vjepa.encoder", "context_encoder")])
def test_a_damaged_encoder_is_told_and_mended_from_the_other(tmp_path, lost, other):
    model = tiny_model(VJEPAForPreTraining)
    model.save_pretrained(tmp_path)
    without(tmp_path, f"{lost}.layernorm.bias")
    loaded, info = VJEPAForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {f"{lost}.layernorm.bias"}
    state = loaded.state_dict()
    assert torch.equal(state[f"{lost}.layernorm.bias"], model.state_dict()[f"{other}.layernorm.bias"])
    kept = f"{lost}.layernorm.weight"
    assert torch.equal(state[kept], model.state_dict()[kept])
    assert not torch.equal(state[kept], state[f"{other}.layernorm.weight"])


def test_the_context_encoder_is_missing_only_if_there_is_nothing_to_copy(tmp_path):
    base = tiny_model(VJEPAModel)
    base.save_pretrained(tmp_path)
    loaded, info = VJEPAForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == set()
    state = loaded.state_dict()
    assert all(
        torch.equal(value, state[f"context_encoder.{name}"]) for name, value in base.encoder.state_dict().items()
    )
    # A part of the target encoder is missing, too: neither encoder has it.
    without(tmp_path, "encoder.layernorm.bias")
    _, info = VJEPAForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {"context_encoder.layernorm.bias", "vjepa.encoder.layernorm.bias"}
    # A checkpoint of something else.
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, info = VJEPAForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == state.keys()


def test_both_encoders_are_equal_however_a_model_is_made():
    with torch.device("meta"):
        late = VJEPAForPreTraining(tiny_config())
    late.to_empty(device="cpu").init_weights()
    loaded = VJEPAForPreTraining.from_pretrained(None, config=tiny_config(), state_dict={})
    for model in (late, loaded, VJEPAForPreTraining(tiny_config())):
        target = model.vjepa.encoder.state_dict()
        assert target["layer.0.mlp.fc1.weight"].std() > 0.01
        assert all(torch.equal(value, target[name]) for name, value in model.context_encoder.state_dict().items())


def test_initialising_twice_leaves_the_encoders_alone():
    model = tiny_model(VJEPAForPreTraining)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@every_model
def test_loading_within_the_meta_device_is_refused_by_transformers(cls, tmp_path):
    tiny_model(cls).save_pretrained(tmp_path)
    with torch.device("meta"), pytest.raises(RuntimeError, match="meta device context manager"):
        cls.from_pretrained(tmp_path)


@every_model
@pytest.mark.parametrize("share", [0.65, 0.8])
def test_weights_offloaded_to_disk(cls, tmp_path, share):
    model, inputs = tiny_model(cls, num_pooler_layers=1), inputs_of(cls)
    model.save_pretrained(tmp_path / "model")
    size = sum(value.numel() * value.element_size() for value in model.parameters())
    loaded = cls.from_pretrained(
        tmp_path / "model",
        device_map="auto",
        max_memory={"cpu": int(size * share)},
        offload_folder=tmp_path / "offloaded",
    )
    if "disk" not in loaded.hf_device_map.values():
        pytest.fail(f"nothing was offloaded: {loaded.hf_device_map}")
    with torch.no_grad():
        assert largest_gap(loaded(**inputs), model(**inputs)) < 1e-6


def test_the_pooler_may_be_on_disk_alone(tmp_path):
    model = tiny_model(VJEPAForVideoClassification)
    model.save_pretrained(tmp_path)
    device_map = {"vjepa": "cpu", "pooler": "disk", "classifier": "cpu"}
    loaded = VJEPAForVideoClassification.from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path)
    assert loaded.pooler.cross_attention_layer.cross_attn.k_proj.weight.is_meta
    inputs = inputs_of(VJEPAForVideoClassification)
    with torch.no_grad():
        assert largest_gap(loaded(**inputs), model(**inputs)) < 1e-6


@every_model
def test_parts_that_share_a_device_are_not_split(cls):
    model = tiny_model(cls)
    size = sum(value.numel() * value.element_size() for value in model.parameters())
    whole = [name for name, part in model.named_modules() if type(part).__name__ in model._no_split_modules]
    # The predictor itself adds its mask tokens to the output of its embeddings.
    assert len(whole) >= 3 and (cls is VJEPAForVideoClassification or any(n.endswith("predictor") for n in whole))
    for share in (0.2, 0.35, 0.5, 0.65, 0.8):
        devices = infer_auto_device_map(
            model,
            max_memory={"cpu": int(size * share), "disk": size * 2},
            no_split_module_classes=list(model._no_split_modules),
        )
        assert not [(key, name) for key in devices for name in whole if key.startswith(f"{name}.")]


@every_model
def test_names_of_buffers_and_shared_weights(cls):
    model = tiny_model(cls)
    # Positions follow from the configuration and are not saved.
    assert not model.state_dict().keys() & {name for name, _ in model.named_buffers()}
    assert model.all_tied_weights_keys == {}
    model.tie_weights()
    pointers = [value.data_ptr() for value in model.parameters()]
    assert len(set(pointers)) == len(pointers)
    assert all(value.is_contiguous() for value in model.parameters())
    trainable = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert model.num_parameters(only_trainable=True) == trainable
    frozen = sum(value.numel() for value in model.vjepa.encoder.parameters()) if cls is VJEPAForPreTraining else 0
    assert model.num_parameters() == trainable + frozen


@every_model
def test_an_index_of_weights_names_only_files_beside_it(cls, tmp_path):
    folder = tmp_path / "model"
    tiny_model(cls).save_pretrained(folder, max_shard_size="50KB")
    assert cls.from_pretrained(folder) is not None
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    key, shard = next(iter(index["weight_map"].items()))
    (folder / shard).rename(tmp_path / shard)
    for name in (f"../{shard}", str(tmp_path / shard)):
        index["weight_map"][key] = name
        file.write_text(json.dumps(index))
        with pytest.raises(ValueError, match=r"index.json names '.*', which is not a file beside it: copy the"):
            cls.from_pretrained(folder)
    for text in ("noise", "[]", '{"weight_map": [1]}'):
        file.write_text(text)
        with pytest.raises(ValueError, match="index.json is not an index of weights: copy or download it again"):
            cls.from_pretrained(folder)
