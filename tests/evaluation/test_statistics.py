import numpy as np
import pytest

from transformers_vjepa.evaluation.statistics import accuracy_interval, paired_bootstrap


def test_wilson_interval():
    # Published example (Newcombe, Statistics in Medicine 17, 1998, Table I): 81 of 263, and 15 of 148.
    assert accuracy_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert accuracy_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert accuracy_interval(0, 20) == (0.0, pytest.approx(0.1611, abs=5e-5))
    low, high = accuracy_interval(20, 20)
    assert (low, high) == (pytest.approx(1 - 0.1611, abs=5e-5), 1.0)


def test_wilson_interval_of_one_half_by_hand():
    # Symmetric; half of z / sqrt(n + z^2) with z = 1.96 and n = 16.
    half = 0.5 * 1.959964 / (16 + 1.959964**2) ** 0.5
    assert accuracy_interval(8, 16) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


@pytest.mark.parametrize(
    ("correct", "total", "message"), [(0, 0, "0 correct of 0 clips"), (3, 2, "3 correct of 2 clips")]
)
def test_intervals_refuse(correct, total, message):
    with pytest.raises(ValueError, match=message):
        accuracy_interval(correct, total)


def test_bootstrap_of_differences_that_are_all_equal_has_no_width():
    assert paired_bootstrap(np.full((3, 50), 0.5)) == (0.5, 0.5, 0.5)


def test_bootstrap_over_clips_by_hand():
    # One seed, 100 clips, of which one half differs by 1: the mean has the deviation sqrt(1/4 / 100) = 0.05.
    mean, low, high = paired_bootstrap(np.arange(100)[None] % 2.0)
    assert mean == 0.5
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.01) and high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.01)


def test_bootstrap_draws_seeds_too():
    # All clips of a seed agree, so new clips change nothing; the mean of seeds 0, 0, 1 is 0, 1/3, 2/3 or 1.
    table = np.repeat([[0.0], [0.0], [1.0]], 100, axis=1)
    mean, low, high = paired_bootstrap(table)
    # P(0) = 8/27 and P(1) = 1/27 = 3.7 %, so both ends of a 95 % interval are reached.
    assert (round(mean, 9), low, high) == (round(1 / 3, 9), 0.0, 1.0)
    assert paired_bootstrap(table) == (mean, low, high)
