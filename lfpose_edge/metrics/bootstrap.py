"""Confidence intervals of PCK: the bootstrap over persons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = Sequence[tuple[int, int]]
"""Numbers of correct and of counted joints, by person."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval over the choice of persons.

    Attributes:
        value: the figure.
        low: its 2.5th percentile.
        high: its 97.5th percentile.
    """

    value: float
    low: float
    high: float


def pck_interval(persons: Counts, *, draws: int = 4000, seed: int = 0) -> Interval:
    """PCK over all counted joints, with its interval; NaN if none is counted.

    Args:
        persons: numbers of correct and of counted joints, by person.
        draws: number of resamples of the persons, with replacement. Persons are drawn rather than joints,
            because the errors of one person's joints are correlated.
        seed: seed of the random draws.
    """
    correct, counted = _columns(persons)
    return _ratio_interval(correct, counted, draws, seed)


def pck_difference(persons: Counts, others: Counts, *, draws: int = 4000, seed: int = 0) -> Interval:
    """PCK of one model minus that of another; every resample uses the same persons for both.

    Args:
        persons: numbers of joints correct by the first model and of counted joints, by person.
        others: the same for the second model.
        draws: number of resamples of the persons, with replacement.
        seed: seed of the random draws.

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
