import json
import math

import pytest

from transformers_vjepa.pretraining.schedules import learning_rate_at, momentum_at, weight_decay_at

LR = {"start": 2e-4, "peak": 6.25e-4, "final": 1e-6}


def test_learning_rate_by_hand():
    at = {**LR, "warmup_steps": 4, "total_steps": 12}
    assert learning_rate_at(0, **at) == pytest.approx(2e-4 + 4.25e-4 / 4)
    assert learning_rate_at(3, **at) == pytest.approx(6.25e-4)
    assert learning_rate_at(7, **at) == pytest.approx((6.25e-4 + 1e-6) / 2)  # half way down
    assert learning_rate_at(11, **at) == pytest.approx(1e-6)


def test_learning_rate_without_warmup_starts_on_the_cosine():
    value = learning_rate_at(0, **LR, warmup_steps=0, total_steps=4)
    assert value == pytest.approx(1e-6 + 6.24e-4 * (1 + math.cos(math.pi / 4)) / 2)


def test_weight_decay_by_hand_in_both_directions():
    assert weight_decay_at(5, start=0.04, final=0.4, total_steps=12) == pytest.approx(0.22)
    assert weight_decay_at(11, start=0.04, final=0.4, total_steps=12) == pytest.approx(0.4)
    assert weight_decay_at(11, start=0.4, final=0.04, total_steps=12) == pytest.approx(0.04)
    assert weight_decay_at(5, start=0.1, final=0.1, total_steps=12) == pytest.approx(0.1)


def test_momentum_by_hand():
    assert momentum_at(0, start=0.998, final=1.0, total_steps=12.5) == 0.998
    assert momentum_at(5, start=0.998, final=1.0, total_steps=12.5) == pytest.approx(0.9988)
    assert momentum_at(99, start=0.998, final=1.0, total_steps=12.5) == 1.0


def test_published_schedules(shared):
    recipe = json.loads((shared / "reference" / "vjepa_tiny_uniform" / "trajectory.json").read_text())
    total = recipe["schedule_scale"] * recipe["steps"]
    for step in range(recipe["steps"]):
        expected = {name: values[step] for name, values in recipe["per_step"].items()}
        lr = learning_rate_at(
            step,
            start=recipe["start_lr"],
            peak=recipe["peak_lr"],
            final=recipe["final_lr"],
            warmup_steps=recipe["warmup_steps"],
            total_steps=total,
        )
        decay = weight_decay_at(
            step, start=recipe["weight_decay"], final=recipe["final_weight_decay"], total_steps=total
        )
        momentum = momentum_at(step, start=recipe["ema"][0], final=recipe["ema"][1], total_steps=total)
        assert lr == pytest.approx(expected["lr"], rel=1e-12)
        assert decay == pytest.approx(expected["weight_decay"], rel=1e-12)
        assert momentum == pytest.approx(expected["momentum"], rel=1e-12)
