"""How sure a PCK is: the bootstrap over persons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = Sequence[tuple[int, int]]
"""Correct and counted joints of every person."""


@dataclass(frozen=True)
class Interval:
    """A figure and where 95 of 100 repetitions with other persons would have it.

    Attributes:
        value: the figure.
        low: its 2.5th percentile.
        high: its 97.5th percentile.
    """

    value: float
    low: float
    high: float


def pck_interval(persons: Counts, *, draws: int = 4000, seed: int = 0) -> Interval:
    """PCK over all counted joints; NaN when none is counted.

    Args:
        persons: of every person, correct and counted joints.
        draws: how often as many persons are drawn, with replacement. Persons, not joints: the joints of one
            are right or wrong together.
        seed: of the draws.
    """
    correct, counted = _columns(persons)
    return _ratio_interval(correct, counted, draws, seed)


def pck_difference(persons: Counts, others: Counts, *, draws: int = 4000, seed: int = 0) -> Interval:
    """PCK of one model less that of another; every draw of persons is the same for both.

    Args:
        persons: of every person, joints that the one has correct, and counted ones.
        others: the same of the other.
        draws: how often as many persons are drawn, with replacement.
        seed: of the draws.

    Raises:
        ValueError: the two did not count the same joints of the same persons.
    """
    (correct, counted), (other_correct, other_counted) = _columns(persons), _columns(others)
    if not np.array_equal(counted, other_counted):
        message = "the two count other joints: models are compared on the same persons"
        raise ValueError(message)
    return _ratio_interval(correct - other_correct, counted, draws, seed)


def _columns(persons: Counts) -> NDArray[np.float64]:
    return np.array(persons, np.float64).reshape(-1, 2).T


def _ratio_interval(
    gained: NDArray[np.float64], counted: NDArray[np.float64], draws: int, seed: int
) -> Interval:
    if not counted.sum():
        return Interval(math.nan, math.nan, math.nan)
    rng, persons = np.random.default_rng(seed), len(counted)
    ratios: list[float] = []
    for _ in range(draws):
        drawn = rng.integers(persons, size=persons)
        total = counted[drawn].sum()
        if total:
            ratios.append(gained[drawn].sum() / total)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Interval(float(gained.sum() / counted.sum()), float(low), float(high))
