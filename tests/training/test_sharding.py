import warnings

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from transformers_vjepa import VJEPAClassificationArguments, VJEPATrainingArguments
from transformers_vjepa.commands import pretrain
from transformers_vjepa.training.sharding import (
    fsdp_version,
    ignoring_view_warnings,
    load_whole_optimizer_state,
    whole_optimizer_state,
)

ARGUMENTS = [VJEPATrainingArguments, VJEPAClassificationArguments]


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_deepspeed_is_refused(arguments, tmp_path, monkeypatch):
    message = "^DeepSpeed does not work .* accelerate launch --config_file fsdp2.yaml$"
    with pytest.raises(ValueError, match=message):
        arguments(output_dir=str(tmp_path), deepspeed={"zero_optimization": {"stage": 3}})
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match=message):
        arguments(output_dir=str(tmp_path))


def test_the_script_refuses_deepspeed_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="^error: DeepSpeed does not work") as exit_info:
        pretrain.run(["--dataset", "videos", "--output_dir", str(tmp_path), "--deepspeed", "zero3.json"])
    assert "\n" not in str(exit_info.value)


def test_the_first_fsdp_is_refused(tmp_path, monkeypatch):
    message = "^fsdp_version=1 does not keep the moving average .* accelerate launch --config_file fsdp2.yaml$"
    with pytest.raises(ValueError, match=message):
        VJEPATrainingArguments(output_dir=str(tmp_path), fsdp=True, fsdp_config={"version": 1})
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=message):
        VJEPATrainingArguments(output_dir=str(tmp_path))
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert fsdp_version(VJEPATrainingArguments(output_dir=str(tmp_path))) == 2


def test_classifiers_are_not_sharded(tmp_path):
    with pytest.raises(ValueError, match="fsdp_version=2: classifiers cannot be sharded; .*multi_gpu.yaml"):
        VJEPAClassificationArguments(output_dir=str(tmp_path), fsdp=True)


def test_the_warning_about_views_is_hidden_inside_only():
    message = "FSDP2-wrapped module (Linear) returned a view tensor"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with ignoring_view_warnings():
            warnings.warn(message, stacklevel=1)
            warnings.warn("another one", stacklevel=1)
        warnings.warn(message, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["another one", message]


@pytest.fixture
def single_process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trained(layer, *, steps=1):
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(steps):
        layer(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def test_optimizer_state_moves_between_sharded_and_whole_parameters(single_process_group):
    torch.manual_seed(0)
    plain, sharded = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    sharded.load_state_dict(plain.state_dict())
    fully_shard(sharded)
    expected, whole = trained(plain).state_dict(), whole_optimizer_state(trained(sharded), keep=True)
    assert whole["param_groups"] == expected["param_groups"]
    for number, values in expected["state"].items():
        for name, value in values.items():
            assert type(whole["state"][number][name]) is torch.Tensor
            assert torch.equal(whole["state"][number][name], value)

    fresh = torch.optim.AdamW(sharded.parameters(), lr=0.5)
    load_whole_optimizer_state(fresh, expected)
    assert fresh.param_groups[0]["lr"] == 0.1
    moments = [fresh.state[parameter]["exp_avg"] for parameter in sharded.parameters()]
    for moment, values in zip(moments, expected["state"].values(), strict=True):
        assert isinstance(moment, DTensor)
        assert torch.equal(moment.full_tensor(), values["exp_avg"])
    assert whole_optimizer_state(fresh, keep=False)["state"] == {}
