"""The One Euro filter: what it removes, what it keeps, and that neither size nor direction matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lfpose_edge.smoothing import OneEuroFilter

FPS = 30.0


def smoothed(
    path: NDArray[Any], *, size: float = 100.0, seen: Any = None, **constants: float
) -> NDArray[Any]:
    """A path (T, K, 2) through the filter, a frame every 1 / FPS s."""
    filter_ = OneEuroFilter(path.shape[1], **{"min_cutoff_hz": 1.0, "beta": 20.0, **constants})
    shown = np.ones(path.shape[:2], bool) if seen is None else seen
    return np.stack([filter_(p, s, i / FPS, size) for i, (p, s) in enumerate(zip(path, shown, strict=True))])


def line(speed: float, frames: int = 60) -> NDArray[Any]:
    """One point that moves right, in pixels a second."""
    return np.stack([[[speed * i / FPS, 40.0]] for i in range(frames)])


def test_a_step_is_the_low_pass_filters() -> None:
    path = np.array([[[0.0, 0.0]], [[1.0, 2.0]]])
    turns = 2 * np.pi * 3.0 / FPS
    np.testing.assert_allclose(
        smoothed(path, min_cutoff_hz=3.0, beta=0.0)[1, 0], np.array([1, 2]) * turns / (1 + turns)
    )


def test_the_cutoff_grows_with_the_speed() -> None:
    """By the paper's equations, of the second frame: its speed is itself smoothed, from rest, at 1 Hz."""
    path = np.array([[[0.0, 0.0]], [[3.0, 4.0]]])

    def part(cutoff_hz: float) -> float:
        turns = 2 * np.pi * cutoff_hz / FPS
        return turns / (1 + turns)

    speed = 5.0 * FPS * part(1.0) / 100  # sizes a second
    np.testing.assert_allclose(smoothed(path)[1, 0], np.array([3, 4]) * part(1.0 + 20.0 * speed))


def test_what_rests_stays_and_jitter_of_it_goes() -> None:
    assert (smoothed(np.full((20, 2, 2), 7.25)) == 7.25).all()
    shaken = np.random.default_rng(0).normal(50, 0.5, (300, 14, 2))
    left = smoothed(shaken)[30:].std(axis=0).mean() / shaken[30:].std(axis=0).mean()
    assert left < 0.45


@pytest.mark.parametrize(("speed", "most_ms"), [(20, 60), (100, 20), (400, 8)])
def test_the_faster_the_less_behind(speed: float, most_ms: float) -> None:
    """In sizes of 100 pixels a second: a fifth, one, and four."""
    path = line(speed)
    behind_ms = (path - smoothed(path))[-1, 0, 0] / speed * 1e3
    assert 0 < behind_ms < most_ms


def test_size_position_and_direction_make_no_difference() -> None:
    path = np.cumsum(np.random.default_rng(1).normal(0, 3, (40, 5, 2)), axis=0)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    expected = 4 * smoothed(path) @ turn.T + (300, -20)
    np.testing.assert_allclose(smoothed(4 * path @ turn.T + (300, -20), size=400.0), expected, atol=1e-9)


def test_what_is_not_seen_comes_back_as_it_came_and_changes_nothing() -> None:
    path, seen = line(50.0), np.ones((60, 1), bool)
    seen[10:13] = False
    wild = path.copy()
    wild[10:13] = (-999.0, 4e6)
    left_out = smoothed(wild, seen=seen)
    assert (left_out[10:13] == wild[10:13]).all()
    np.testing.assert_array_equal(left_out[13:], smoothed(path, seen=seen)[13:])


def test_a_point_begins_where_it_is_first_seen() -> None:
    path, seen = line(50.0), np.zeros((60, 1), bool)
    seen[20:] = True
    np.testing.assert_array_equal(smoothed(path, seen=seen)[20], path[20])


def test_two_frames_of_one_moment_are_no_division_by_zero() -> None:
    filter_ = OneEuroFilter(1, min_cutoff_hz=1.0, beta=20.0)
    filter_(np.zeros((1, 2)), np.ones(1, bool), 1.0, 100.0)
    again = filter_(np.ones((1, 2)), np.ones(1, bool), 1.0, 100.0)
    assert ((0 <= again) & (again <= 1)).all()
