"""Changed layers: with adapters (PEFT), quantised (torchao), or with weights that exist only during a call."""

import copy

import peft
import pytest
import torch
from packaging.version import Version
from peft import LoraConfig, PeftModel, get_peft_model
from rules import MODELS, clips, gradients_of, inputs_of, largest_gap, scalar_of, tiny_model
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig
from transformers import TorchAoConfig
from transformers.integrations.peft import MIN_PEFT_VERSION

from transformers_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel

every_model = pytest.mark.parametrize("cls", MODELS)
# The pooler multiplies with the weights of these layers without a call of the layers, if it can.
POOLER = ["k_proj", "v_proj", "q_proj"]


@pytest.fixture
def classifier() -> VJEPAForVideoClassification:
    return tiny_model(VJEPAForVideoClassification)


# LoRA


def train_a_step(model: nn.Module, inputs: dict) -> None:
    model.train()
    scalar_of(model(**inputs)).backward()
    with torch.no_grad():
        for value in model.parameters():
            if value.grad is not None:
                value -= value.grad
    model.eval()


@pytest.mark.parametrize(
    ("cls", "targets"),
    [*((cls, ["query", "value"]) for cls in MODELS), (VJEPAForVideoClassification, POOLER)],
)
def test_an_adapter_is_trained_saved_and_merged(cls, targets, tmp_path):
    base, inputs = tiny_model(cls), inputs_of(cls)
    expected = base(**inputs)
    model = get_peft_model(copy.deepcopy(base), LoraConfig(target_modules=targets, r=4))
    assert largest_gap(model(**inputs), expected) < 1e-6
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(2):  # one of the two factors starts at 0: the other changes from the second step on
        train_a_step(model, inputs)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name for name in changed)
    output = model(**inputs)
    assert largest_gap(output, expected) > 1e-3
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert largest_gap(PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)(**inputs), output) < 1e-6
    merged = model.merge_and_unload()
    assert type(merged) is cls and largest_gap(merged(**inputs), output) < 1e-4


def test_every_factor_of_an_adapter_is_trained(classifier):
    model = get_peft_model(classifier, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    inputs = inputs_of(VJEPAForVideoClassification)
    trained = {name for name, gradient in gradients_of(model, inputs).items() if gradient.any()}
    adapted = {name for name, value in model.named_parameters() if value.requires_grad}
    assert len(adapted) == 2 * sum(isinstance(part, nn.Linear) for part in tiny_model(type(classifier)).modules())
    assert trained == adapted


def test_the_target_encoder_follows_with_adapters():
    model = get_peft_model(tiny_model(VJEPAForPreTraining), LoraConfig(target_modules=["query"], r=2))
    pretraining, inputs = model.get_base_model(), inputs_of(VJEPAForPreTraining)
    train_a_step(model, inputs)
    pretraining.update_target(0.0)
    target = pretraining.vjepa.encoder.state_dict()
    assert all(torch.equal(value, target[name]) for name, value in pretraining.context_encoder.state_dict().items())
    assert any("lora_B" in name and value.any() for name, value in target.items())


@pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION), reason=f"transformers asks for peft {MIN_PEFT_VERSION}"
)
def test_adapters_by_the_methods_of_transformers(classifier, tmp_path):
    inputs = inputs_of(VJEPAForVideoClassification)
    expected = classifier(**inputs)
    model = copy.deepcopy(classifier)
    model.add_adapter(LoraConfig(target_modules=["query", "value"], init_lora_weights=False))
    model.eval()
    output = model(**inputs)
    assert model.active_adapters() == ["default"] and largest_gap(output, expected) > 1e-3
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    classifier.load_adapter(tmp_path)
    assert largest_gap(classifier(**inputs), output) < 1e-6
    model.disable_adapters()
    assert largest_gap(model(**inputs), expected) < 1e-6


# The pooler's short cut


def test_the_pooler_calls_layers_that_are_more_than_their_weight(classifier):
    """The long form gives the same result as the short form."""

    class Wrapped(nn.Linear):
        pass

    inputs = inputs_of(VJEPAForVideoClassification)
    expected, gradients = classifier(**inputs), gradients_of(classifier, inputs)
    attention = classifier.pooler.cross_attention_layer.cross_attn
    calls = []
    for name in ("k_proj", "v_proj"):
        layer = getattr(attention, name)
        layer.__class__ = Wrapped
        layer.register_forward_hook(lambda *_: calls.append(1))
    assert largest_gap(classifier(**inputs), expected) < 1e-5
    assert len(calls) == 2
    for name, gradient in gradients_of(classifier, inputs).items():
        assert torch.allclose(gradient, gradients[name], atol=1e-5), name


def test_the_pooler_finds_weights_that_are_there_only_while_a_layer_is_called(classifier):
    """As partitioned weights (ZeRO, stage 3), which are empty except during a call."""
    inputs = inputs_of(VJEPAForVideoClassification)
    expected = classifier(**inputs)
    attention = classifier.pooler.cross_attention_layer.cross_attn
    for layer in (attention.k_proj, attention.v_proj):
        whole, empty = layer.weight.data, torch.empty(0)
        layer.weight.data = empty
        layer.register_forward_pre_hook(lambda layer, _, whole=whole: setattr(layer.weight, "data", whole))
        layer.register_forward_hook(lambda layer, *_, empty=empty: setattr(layer.weight, "data", empty))
    with torch.no_grad():
        assert largest_gap(classifier(**inputs), expected) < 1e-5


# Quantised weights


@every_model
def test_int8_weights(cls, tmp_path):
    model, inputs = tiny_model(cls), inputs_of(cls)
    model.save_pretrained(tmp_path / "float")
    settings = TorchAoConfig(Int8WeightOnlyConfig(version=2))
    quantised = cls.from_pretrained(tmp_path / "float", quantization_config=settings)
    linear = [part for part in quantised.modules() if isinstance(part, nn.Linear)]
    assert {type(part.weight).__name__ for part in linear} == {"Int8Tensor"}
    output = quantised(**inputs)
    assert 0 < largest_gap(output, model(**inputs)) < 0.2
    quantised.save_pretrained(tmp_path / "int8")
    size_of = {path.name: (path / "model.safetensors").stat().st_size for path in tmp_path.iterdir()}
    assert size_of["int8"] < 0.4 * size_of["float"]
    again = cls.from_pretrained(tmp_path / "int8")
    assert again.config.quantization_config.quant_method == "torchao"
    assert largest_gap(again(**inputs), output) < 1e-6


def int8_layer(layer: nn.Linear) -> nn.Linear:
    """A layer whose `weight` is int8, with a separate scale, as in bitsandbytes."""

    class Int8Linear(nn.Linear):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(values, self.weight.to(values.dtype) * self.scale, self.bias)

    scale = layer.weight.abs().amax() / 127
    int8 = Int8Linear(layer.in_features, layer.out_features)
    int8.weight = nn.Parameter((layer.weight / scale).round().to(torch.int8), requires_grad=False)
    int8.bias, int8.scale = layer.bias, scale.detach()
    return int8


@pytest.mark.parametrize("cls", [VJEPAModel, VJEPAForVideoClassification])
def test_weights_of_an_integer_type_do_not_become_the_type_of_pixels(cls):
    model, inputs = tiny_model(cls), inputs_of(cls)
    expected = model(**inputs)
    for name, part in list(model.named_modules()):
        if type(part) is nn.Linear:
            model.set_submodule(name, int8_layer(part))
    assert model.get_input_embeddings().weight.dtype == torch.int8
    assert 0 < largest_gap(model(**inputs), expected) < 0.3
    assert model(clips().bfloat16().float()).to_tuple()[0].dtype == torch.float32
