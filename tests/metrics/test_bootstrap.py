"""How certain a PCK is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lfpose_edge.metrics.bootstrap import pck_difference, pck_interval


def test_of_independent_joints_it_is_the_interval_of_a_proportion() -> None:
    persons = [(1, 1)] * 240 + [(0, 1)] * 160
    found = pck_interval(persons)
    half = 1.96 * math.sqrt(0.6 * 0.4 / 400)
    assert found.value == 0.6
    np.testing.assert_allclose([found.low, found.high], [0.6 - half, 0.6 + half], atol=0.1 * half)


def test_joints_that_err_together_say_less() -> None:
    apart = pck_interval([(6, 12)] * 100)
    together = pck_interval([(12, 12), (0, 12)] * 50)
    assert apart.low == apart.high == apart.value == together.value == 0.5
    assert together.high - together.low > 0.15


def test_persons_weigh_what_they_show() -> None:
    assert pck_interval([(12, 12), (0, 3), (0, 0)]).value == 12 / 15


def test_in_the_draws_persons_weigh_what_they_show_too() -> None:
    found = pck_interval([(12, 12)] * 50 + [(0, 1)] * 50)
    assert found.value == 600 / 650
    assert 0.85 < found.low < found.value < found.high < 0.97


def test_a_difference_is_surer_than_its_parts() -> None:
    rng = np.random.default_rng(0)
    before = [(int(rng.integers(0, 11)), 12) for _ in range(300)]
    after = [(correct + (i % 3 == 0), counted) for i, (correct, counted) in enumerate(before)]
    found = pck_difference(after, before)
    assert found.value == pytest.approx(1 / 36)
    assert 0 < found.low < found.value < found.high
    alone = pck_interval(after)
    assert found.high - found.low < 0.3 * (alone.high - alone.low)
    nothing = pck_difference(before, before)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_the_same_draws_every_time() -> None:
    persons = [(i % 13, 12) for i in range(50)]
    assert pck_interval(persons) == pck_interval(persons)
    assert pck_interval(persons) != pck_interval(persons, seed=1)


@pytest.mark.parametrize("persons", [[], [(0, 0), (0, 0)]], ids=["nobody", "nothing counted"])
def test_of_nothing_there_is_no_figure(persons: list[tuple[int, int]]) -> None:
    found = pck_interval(persons)
    assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize("others", [[(1, 2)], [(1, 2), (3, 4)], []], ids=["fewer", "other joints", "nobody"])
def test_only_the_same_persons_are_compared(others: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="same persons"):
        pck_difference([(1, 2), (3, 5)], others)
