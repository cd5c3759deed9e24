"""Smoothing of points over time: the One Euro filter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SPEED_CUTOFF_HZ = 1.0  # as in the paper
_LEAST_STEP_S = 1e-3


class OneEuroFilter:
    """Smooths K points: slow ones most, where jitter shows, and fast ones least, where lag does.

    Casiez, Roussel and Vogel, "1 Euro Filter", CHI 2012: a low-pass filter whose cutoff grows with the speed.
    Here both coordinates of a point share one cutoff, set by the speed along its path, so the result does not
    depend on the camera's orientation; and speeds are relative to the size of the object that the points
    belong to, so it does not depend on the object's distance.

    Args:
        points: number of points K.
        min_cutoff_hz: cutoff for a point at rest; lower values reduce jitter.
        beta: increase of the cutoff, in Hz, for a speed of one size per second; higher values reduce lag.
    """

    def __init__(self, points: int, *, min_cutoff_hz: float, beta: float) -> None:
        self._min_cutoff_hz, self._beta = min_cutoff_hz, beta
        self._places = np.zeros((points, 2))
        self._speeds = np.zeros((points, 2))
        self._times = np.full(points, -np.inf)  # when each point was last seen

    def __call__(
        self, places: NDArray[np.floating], seen: NDArray[np.bool_], time_s: float, size: float
    ) -> NDArray[np.float64]:
        """Smooth the points of the next time step.

        Args:
            places: (K, 2) coordinates.
            seen: (K,) bool; points not seen are returned unchanged and do not update the filter.
            time_s: time of this step, not before the last one's.
            size: size of the object that the points belong to, in the unit of ``places``.

        Returns:
            (K, 2) smoothed coordinates.
        """
        out = places.astype(np.float64)
        first = seen & np.isneginf(self._times)
        later = seen & ~first
        step = np.maximum(time_s - self._times[later], _LEAST_STEP_S)[:, None]
        last, given = self._places[later], out[later]
        speeds = _blend(self._speeds[later], (given - last) / step, _SPEED_CUTOFF_HZ, step)
        pace = np.linalg.norm(speeds, axis=1, keepdims=True) / size
        out[later] = _blend(last, given, self._min_cutoff_hz + self._beta * pace, step)
        self._speeds[later] = speeds
        self._places[seen] = out[seen]
        self._times[seen] = time_s
        return out


def _blend(
    old: NDArray[np.float64],
    new: NDArray[np.float64],
    cutoff_hz: NDArray[np.float64] | float,
    step_s: NDArray[np.float64],
) -> NDArray[np.float64]:
    """One step of a first-order low-pass filter."""
    turns = 2 * np.pi * cutoff_hz * step_s
    return old + (new - old) * turns / (1 + turns)
