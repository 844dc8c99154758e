"""
Learning rate, weight decay and EMA momentum as pure functions of the optimizer step.

Steps count from 0, so `step=0` is the first update. `total_steps` is the length of the schedules: in the published
runs 1.25 times the steps of the run, which ends before the schedules do.
"""

import math


def learning_rate_at(
    step: int, *, start: float, peak: float, final: float, warmup_steps: int, total_steps: float
) -> float:
    """
    Linear from `start` to `peak` over `warmup_steps`, then a cosine to `final` at `total_steps`.

    Args:
        step: index of the update, from 0.
        start, peak, final: learning rates, >= 0.
        warmup_steps: updates until `peak` is reached.
        total_steps: length of the schedule; its integer part counts, as published.
    """
    done = step + 1  # the published schedule advances before the update
    if done < warmup_steps:
        return start + (peak - start) * done / warmup_steps
    decay_steps = max(1, int(total_steps) - warmup_steps)
    progress = (done - warmup_steps) / decay_steps
    return max(final, final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def weight_decay_at(step: int, *, start: float, final: float, total_steps: float) -> float:
    """Cosine from `start` to `final` at `total_steps` (its integer part counts, as published)."""
    progress = (step + 1) / max(1, int(total_steps))
    value = final + (start - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return min(final, value) if final >= start else max(final, value)


def momentum_at(step: int, *, start: float, final: float, total_steps: float) -> float:
    """Linear from `start` at the first update towards `final` at `total_steps`."""
    return start + (final - start) * min(1.0, step / total_steps)
