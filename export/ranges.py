"""Ranges of a network's activations, observed on calibration crops and recorded in ``calibration.json``.

A range is the interval that INT8 covers. The widest (``minmax``) loses nothing to clipping but the most to
rounding; the others clip rare values in exchange for a finer grid.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.proof import onnx_session
from numpy.typing import NDArray

from lfpose_edge.errors import CalibrationError, did_you_mean

Floats = NDArray[np.float32]
RangeMethod = Literal["minmax", "percentile", "mse", "entropy"]
METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)

_KEPT = 1 << 19  # values kept per tensor, besides its exact extremes
_PERCENTILE = 99.99
_LEVELS = 255
_SHRINKS = np.linspace(1.0, 0.4, 61)
_BINS, _FEWEST_BINS = 2048, 128


@dataclass(frozen=True)
class Observation:
    """Values of one tensor over all calibration crops.

    Attributes:
        low, high: the exact extremes.
        kept: (M,) evenly spaced values, the same number from every crop.
    """

    low: float
    high: float
    kept: Floats


@dataclass(frozen=True)
class Calibration:
    """The ranges of a network's tensors, and what they were made from.

    Attributes:
        method: how the ranges were chosen.
        crops: how many crops were observed.
        source_sha256: the calibration set's content hash.
        ranges: tensor name to (low, high).
    """

    method: RangeMethod
    crops: int
    source_sha256: str
    ranges: dict[str, tuple[float, float]]

    def write(self, path: Path) -> None:
        """Write as JSON: a rounded record, which nothing reads back."""
        tree = {
            "method": self.method,
            "crops": self.crops,
            "source_sha256": self.source_sha256,
            "ranges": {name: [round(v, 7) for v in bounds] for name, bounds in sorted(self.ranges.items())},
        }
        path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def observe(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    crops: Floats,
    *,
    batch: int = 8,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[str, Observation]:
    """Run crops through a float model and observe some of its tensors.

    Args:
        model: float32.
        tensors: names of the tensors to observe; the input may be one of them.
        crops: (N, 3, H, W) float32, normalised.
        batch: crops at a time.
        progress: wraps the loop over batches, to show it.
    """
    graph = Graph(model)
    wanted = [name for name in tensors if name not in graph.inputs]
    new = [name for name in wanted if name not in graph.outputs]
    session = onnx_session(graph.to_model(new))
    low = dict.fromkeys(tensors, np.inf)
    high = dict.fromkeys(tensors, -np.inf)
    most = max(1, _KEPT // len(crops))
    kept: dict[str, Floats] = {}
    for first in progress(range(0, len(crops), batch)):
        chunk = crops[first : first + batch]
        found = session.run(wanted, {graph.inputs[0]: chunk}) if wanted else []  # no names would mean all
        values = dict(zip(wanted, found, strict=True))
        values[graph.inputs[0]] = chunk
        for name in tensors:
            rows = values[name].reshape(len(chunk), -1)
            low[name] = min(low[name], float(rows.min()))
            high[name] = max(high[name], float(rows.max()))
            count = rows.shape[1]
            places = np.linspace(0, count - 1, min(count, most)).astype(np.intp)
            if name not in kept:
                kept[name] = np.empty((len(crops), len(places)), np.float32)
            kept[name][first : first + batch] = rows[:, places]
    return {name: Observation(low[name], high[name], kept[name].ravel()) for name in tensors}


def choose_range(seen: Observation, method: RangeMethod) -> tuple[float, float]:
    """The interval that INT8 should cover; it always contains 0, so that zero padding is exact."""
    low, high = _RULES[method](seen)
    return min(low, 0.0), max(high, 0.0)


def _minmax(seen: Observation) -> tuple[float, float]:
    return seen.low, seen.high


def _percentile(seen: Observation) -> tuple[float, float]:
    low, high = np.percentile(seen.kept, (100 - _PERCENTILE, _PERCENTILE)).tolist()
    return low, high


def _mse(seen: Observation) -> tuple[float, float]:
    """The shrunk extremes with the least mean squared error of rounding and clipping together.

    The error is that of 255 steps from low to high, as in the ``cpu`` style; ``trt`` uses the same range.
    """
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if high <= low:
        return low, high
    counts, edges = np.histogram(seen.kept, _BINS, (low, high))
    centres = (edges[:-1] + edges[1:]) / 2

    def error(shrink: float) -> float:
        step = (high - low) * shrink / _LEVELS
        clipped = np.clip(centres, low * shrink, high * shrink)
        rounding = np.where(clipped == centres, step**2 / 12, (clipped - centres) ** 2)
        return float(counts @ rounding)

    best = min(_SHRINKS, key=error)
    return low * best, high * best


def _entropy(seen: Observation) -> tuple[float, float]:
    """The clipping of |x| whose 128-level version has the least KL divergence from the whole histogram.

    This is the rule of TensorRT's entropy calibrator (Migacz, "8-bit inference with TensorRT", GTC 2017), so
    that INT8 files that were calibrated there can be reproduced.
    """
    limit = max(abs(seen.low), abs(seen.high))
    if limit == 0:
        return seen.low, seen.high
    counts, edges = np.histogram(np.abs(seen.kept), _BINS, (0.0, limit))
    counts = counts.astype(np.float64)
    counts[0] = counts[1]  # the zeros of a ReLU would outweigh everything
    if not counts.any():  # every kept value is in the first bin
        return seen.low, seen.high

    def divergence(bins: int) -> float:
        clipped = counts[:bins].copy()
        clipped[-1] += counts[bins:].sum()
        groups = np.arange(bins) * _FEWEST_BINS // bins
        filled = counts[:bins] > 0
        mass = np.bincount(groups, counts[:bins], _FEWEST_BINS)
        size = np.bincount(groups, filled, _FEWEST_BINS)
        level = np.divide(mass, size, out=np.zeros(_FEWEST_BINS), where=size > 0)
        coarse = np.where(filled, level[groups], 0.0)
        p, q = clipped / clipped.sum(), coarse / max(coarse.sum(), 1e-12)
        both = p > 0
        return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))).sum())

    best = min(range(_FEWEST_BINS, _BINS + 1, 16), key=divergence)
    threshold = float(edges[best])
    return max(seen.low, -threshold), min(seen.high, threshold)


_RULES: dict[str, Callable[[Observation], tuple[float, float]]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}


def range_method(name: str) -> RangeMethod | None:
    """The method with a name; None for ``auto``. Raises CalibrationError for an unknown name."""
    if name == "auto":
        return None
    for method in METHODS:
        if method == name:
            return method
    message = f"unknown way to choose ranges {name!r}; {did_you_mean(name, ('auto', *METHODS))}"
    raise CalibrationError(message)


def calibration_from(
    seen: dict[str, Observation], method: RangeMethod, *, crops: int, source_sha256: str
) -> Calibration:
    """Choose the ranges of all tensors by one method."""
    ranges = {name: choose_range(observation, method) for name, observation in seen.items()}
    return Calibration(method, crops, source_sha256, ranges)
