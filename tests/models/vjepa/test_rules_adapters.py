"""Changed layers: with adapters (PEFT), quantised (torchao), or with weights that exist only during a call."""

import copy

import peft
import pytest
import torch
from packaging.version import Version
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from rules import MODELS, clips, gradients_of, inputs_of, largest_gap, scalar_of, tiny_model
from torch import nn
from torch.nn.utils import parametrize, prune
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


def train_a_step(model: nn.Module, inputs: dict, rate: float = 1.0) -> None:
    model.train()
    scalar_of(model(**inputs)).backward()
    with torch.no_grad():
        for value in model.parameters():
            if value.grad is not None:
                value -= rate * value.grad
    model.zero_grad()
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


@pytest.mark.parametrize("task", [None, *TaskType])
def test_adapters_of_every_task(task):
    """For tasks of text, PEFT passes `input_ids` and its like on to the model."""
    cls = VJEPAForVideoClassification if task == TaskType.SEQ_CLS else VJEPAModel
    inputs = inputs_of(cls)
    expected = tiny_model(cls)(**inputs)
    base = tiny_model(cls)
    if task in (TaskType.CAUSAL_LM, TaskType.SEQ_2_SEQ_LM):
        base.prepare_inputs_for_generation = lambda *_: None  # PEFT asks every model of these tasks for it
        base._prepare_encoder_decoder_kwargs_for_generation = lambda *_: None
    model = get_peft_model(base, LoraConfig(target_modules=["query"], task_type=task))
    assert largest_gap(model(**inputs), expected) < 1e-6
    train_a_step(model, inputs)
    assert any("lora_B" in name and value.any() for name, value in model.named_parameters())
    with pytest.raises(TypeError, match=f"{cls.__name__} takes no attention_mask: leave them out or pass None"):
        model(**inputs, attention_mask=torch.ones(2, 32))


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


CHANGES = {
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", amount=0.5),
    "pruned bias": lambda layer: prune.random_unstructured(layer, "bias", amount=0.5),
    "weight norm": nn.utils.parametrizations.weight_norm,
    "old weight norm": nn.utils.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "old spectral norm": nn.utils.spectral_norm,
}
BAKED = {
    "pruned": lambda layer: prune.remove(layer, "weight"),
    "pruned bias": lambda layer: prune.remove(layer, "bias"),
    "weight norm": lambda layer: parametrize.remove_parametrizations(layer, "weight"),
    "old weight norm": nn.utils.remove_weight_norm,
    "spectral norm": lambda layer: parametrize.remove_parametrizations(layer, "weight"),
    "old spectral norm": nn.utils.remove_spectral_norm,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("change", list(CHANGES))
def test_a_changed_layer_of_the_pooler_is_trained(classifier, change):
    inputs = inputs_of(VJEPAForVideoClassification)
    attention = classifier.pooler.cross_attention_layer.cross_attn
    layers = [attention.k_proj, attention.v_proj]
    for layer in layers:
        torch.manual_seed(0)
        CHANGES[change](layer)
    before = {name: value.detach().clone() for name, value in attention.named_parameters()}
    for _ in range(3):
        train_a_step(classifier, inputs, rate=1e-3)
    moved = {name for name, value in attention.named_parameters() if not torch.equal(value, before[name])}
    # The key bias adds the same number to all scores of a head: its gradient is 0.
    assert all(name in moved or name.startswith("k_proj.bias") for name in before)
    output = classifier(**inputs)
    # What was trained is what is evaluated: with the result written into plain weights, nothing changes.
    for layer in layers:
        BAKED[change](layer)
        assert type(layer) is nn.Linear and "weight" in dict(layer.named_parameters())
    assert largest_gap(classifier(**inputs), output) < 1e-5


@pytest.mark.parametrize("name", ["k_proj", "v_proj"])
@pytest.mark.parametrize("of_all_modules", [False, True])
def test_hooks_of_the_poolers_layers_are_called(classifier, name, of_all_modules):
    inputs = inputs_of(VJEPAForVideoClassification)
    layer = getattr(classifier.pooler.cross_attention_layer.cross_attn, name)
    expected, calls = classifier(**inputs), []

    def called(kind):
        return lambda module, *_: calls.append(kind) if module is layer else None

    kinds = {
        "forward_pre_hook": nn.modules.module.register_module_forward_pre_hook,
        "forward_hook": nn.modules.module.register_module_forward_hook,
        "full_backward_pre_hook": nn.modules.module.register_module_full_backward_pre_hook,
        "full_backward_hook": nn.modules.module.register_module_full_backward_hook,
    }
    for kind, of_all in kinds.items():
        register = of_all if of_all_modules else getattr(layer, f"register_{kind}")
        handle = register(called(kind))
        try:
            output = classifier(**inputs)
            output.loss.backward()
        finally:
            handle.remove()
        assert calls.pop() == kind and not calls
        assert largest_gap(output, expected) < 1e-5
    classifier(**inputs)
    assert not calls


def test_a_hook_may_change_the_keys_and_values(classifier):
    """A hook sees all tokens, as in any attention: here it makes all keys equal, so that all tokens count alike."""
    attention = classifier.pooler.cross_attention_layer.cross_attn
    tokens = torch.randn(2, 7, 48)
    query = classifier.pooler.query_tokens
    shapes = []
    attention.k_proj.register_forward_hook(lambda layer, inputs, keys: torch.zeros_like(keys))
    attention.v_proj.register_forward_hook(lambda layer, inputs, values: shapes.append(values.shape) or values.abs())
    expected = attention.v_proj(tokens).mean(dim=1, keepdim=True)
    assert torch.allclose(attention(query, tokens), expected, atol=1e-6)
    assert shapes == [(2, 7, 48)] * 2


def test_a_replaced_forward_of_the_poolers_layers_is_called(classifier):
    attention = classifier.pooler.cross_attention_layer.cross_attn
    calls, forward = [], attention.k_proj.forward
    attention.k_proj.forward = lambda tokens: calls.append(tokens.shape[1]) or forward(tokens)
    classifier(**inputs_of(VJEPAForVideoClassification))
    assert calls == [32]


# Layers without a weight


class Wrapper(nn.Module):
    """A layer of another kind around the layer of the model, without an attribute `weight`."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.inner = layer

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.inner(values)


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_wrapped_by_hand(cls, dtype):
    model, inputs = tiny_model(cls).to(dtype), inputs_of(cls)
    expected = model(**inputs)
    for name, part in list(model.named_modules()):
        if type(part) is nn.Linear:
            model.set_submodule(name, Wrapper(part))
    assert largest_gap(model(**inputs), expected) < (1e-5 if dtype is torch.float32 else 0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@every_model
def test_dynamic_quantisation_of_torch(cls):
    model, inputs = tiny_model(cls), inputs_of(cls)
    expected = model(**inputs)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert callable(quantised.get_input_embeddings().weight)
    with torch.no_grad():
        assert 0 < largest_gap(quantised(**inputs), expected) < 0.3


def test_encoders_that_were_changed_differently_are_refused():
    model = tiny_model(VJEPAForPreTraining)
    prune.random_unstructured(model.context_encoder.layer[0].mlp.fc1, "weight", amount=0.5)
    with pytest.raises(ValueError, match=r"only one of the two encoders .*layer.0.mlp.fc1.weight.* in the same way"):
        model.update_target(0.5)
    prune.random_unstructured(model.vjepa.encoder.layer[0].mlp.fc1, "weight", amount=0.5)
    model.update_target(0.0)
    names = [name for name, _ in model.vjepa.encoder.named_parameters()]
    state = model.state_dict()
    assert "layer.0.mlp.fc1.weight_orig" in names
    assert all(torch.equal(state[f"vjepa.encoder.{name}"], state[f"context_encoder.{name}"]) for name in names)


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
