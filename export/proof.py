"""What a conversion costs and gains: joints moved, accuracy lost, time saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import onnx
from lfpose_edge.export.crops import CropSet
from numpy.typing import NDArray

from lfpose_edge import ops
from lfpose_edge.backends.onnxruntime import session_options
from lfpose_edge.bundle import Decode
from lfpose_edge.errors import CalibrationError
from lfpose_edge.metrics.bootstrap import pck_difference
from lfpose_edge.metrics.pck import LIMB_JOINTS, PckResult, box_thresholds, pck
from lfpose_edge.results import LEAST_SCORE
from lfpose_edge.skeleton import Skeleton

Floats = NDArray[np.float32]
LITTLE = 0.1  # change of presence that does not count as an error
T = TypeVar("T")
Show = Callable[[Iterable[T], str], Iterable[T]]
"""Wraps a loop to show its progress under a label."""


def silent(items: Iterable[T], _: str) -> Iterable[T]:
    """Return the items without showing progress."""
    return items


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for N crops.

    Attributes:
        joints: (N, K, 2) image pixels.
        scores: (N, K) in [0, 1].
        presence: (N, K) in [0, 1].
    """

    joints: Floats
    scores: Floats
    presence: Floats


@dataclass(frozen=True)
class Drop:
    """The accuracy that a conversion costs, in percentage points.

    Attributes:
        pck: loss of PCK.
        low, high: 95 % bootstrap interval of ``pck`` over persons.
        presence: loss of presence accuracy; see :meth:`Judge.presence_points`.
    """

    pck: float
    low: float
    high: float
    presence: float

    @property
    def worst(self) -> float:
        """The larger of ``pck`` and ``presence``."""
        return max(self.pck, self.presence)


def judged_joints(skeleton: Skeleton) -> list[str]:
    """The joints that PCK counts: those of the limbs, or all if the skeleton has none of them."""
    limbs = [joint for joint in LIMB_JOINTS if joint in skeleton.keypoints]
    return limbs or list(skeleton.keypoints)


class Judge:
    """Compares converted models with the original on a set of crops.

    Args:
        crops: the crops to judge on.
        skeleton: the bundle's joints.
        decode: the bundle's decode section.

    Attributes:
        labelled: whether any joint of the crops is labelled. If none is, the original's joints are the truth
            once :meth:`trust` has been called; a drop is then the share of the joints it finds that moved.
    """

    def __init__(self, crops: CropSet, skeleton: Skeleton, decode: Decode) -> None:
        self._crops, self._skeleton = crops, skeleton
        self._config = ops.DecodeConfig.of(decode)
        self._threshold = decode.presence_threshold
        self.labelled = bool(crops.persons.labelled.any())
        self._truth = crops.persons
        self._believed: Floats | None = None  # presence of the original, if that is the truth

    def __len__(self) -> int:
        return len(self._crops)

    def predict(self, infer: Callable[[Floats], tuple[Floats, Floats]], batch: int = 8) -> Predictions:
        """Run a network, given as a function from crops to (cams, presence), on all crops."""
        parts = []
        for first in range(0, len(self._crops), batch):
            rows = slice(first, first + batch)
            cams, presence = infer(self._crops.crops[rows])
            parts.append(ops.decode(cams, presence, self._crops.affines[rows], self._config))
        return Predictions(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def trust(self, original: Predictions) -> None:
        """Take the original's joints as the truth if nothing is labelled."""
        if not self.labelled:
            found = self._found(original)
            joints = original.joints.astype(float)
            self._truth = replace(
                self._crops.persons, joints=joints, labelled=found, known=np.ones_like(found)
            )
            self._believed = original.presence

    def sees_joints(self, predictions: Predictions) -> bool:
        """Whether any joint is found at all."""
        return bool(self._found(predictions).any())

    def _found(self, predictions: Predictions) -> NDArray[np.bool_]:
        """(N, K) bool, joints that are present and located; the peak of an empty map may be anywhere."""
        return (predictions.presence >= self._threshold) & (predictions.scores >= LEAST_SCORE)

    def points(self, predictions: Predictions) -> float:
        """PCK at 0.1 of the box's longer side, in points (0 to 100), of the limb joints or of all."""
        return 100 * self._limbs(predictions).mean

    def require_points(self, predictions: Predictions) -> None:
        """Raise CalibrationError if no joint that counts is labelled, so that PCK is undefined."""
        if np.isnan(self.points(predictions)):
            message = "no joint that counts is labelled in the held-out persons; give others with --proof"
            raise CalibrationError(message)

    def presence_points(self, predictions: Predictions) -> float:
        """Percentage of joints whose presence is predicted correctly, by the bundle's threshold.

        NaN if the presence of no joint is known. If the original is the truth, a presence within ``LITTLE``
        of the original's counts as correct even if it is on the other side of the threshold.
        """
        there = self._truth.labelled if self._believed is None else self._believed >= self._threshold
        right = (predictions.presence >= self._threshold) == there
        if self._believed is not None:
            right |= np.abs(predictions.presence - self._believed) <= LITTLE
        known = self._truth.known
        return 100 * float(right[known].mean()) if known.any() else float("nan")

    def drop(self, predictions: Predictions, original: Predictions) -> Drop:
        """What a conversion of the original costs."""
        ours, theirs = (self._limbs(found).per_person for found in (predictions, original))
        sure = pck_difference(ours, theirs)
        lost = self.presence_points(original) - self.presence_points(predictions)
        value, low, high = (0.0 - 100 * gain for gain in (sure.value, sure.high, sure.low))  # no -0.0
        return Drop(value, low, high, 0.0 if np.isnan(lost) else lost)

    def resolution(self) -> float:
        """The points that one joint is worth; smaller differences cannot be seen on these crops."""
        judged = self._truth.labelled[:, [self._skeleton.index(j) for j in judged_joints(self._skeleton)]]
        return 100 / max(1, int(judged.sum()))

    def by_chance(self, max_drop: float) -> str:
        """A hint for the error message if one or two joints are enough to fail a gate; else empty."""
        step = self.resolution()
        if step <= max_drop / 2:
            return ""
        return f" One joint of those judged is {step:.2f} points: give more images, or --proof."

    def per_joint(self, predictions: Predictions) -> dict[str, float]:
        """The same as :meth:`points`, for every joint that is labelled."""
        points = self._pck(predictions, None).per_joint
        return {joint: 100 * value for joint, value in points.items() if not np.isnan(value)}

    def _limbs(self, predictions: Predictions) -> PckResult:
        return self._pck(predictions, judged_joints(self._skeleton))

    def _pck(self, predictions: Predictions, joints: list[str] | None) -> PckResult:
        truth = self._truth
        thresholds = box_thresholds(truth.boxes)
        return pck(predictions.joints, truth.joints, truth.labelled, thresholds, self._skeleton, joints)

    def moved(self, predictions: Predictions, original: Predictions) -> NDArray[np.float64]:
        """(N, K) how far each joint moved, as a fraction of its box's longer side; NaN if not found."""
        sides = box_thresholds(self._crops.persons.boxes, 1.0)[:, None]
        return self._distance(predictions, original) / sides

    def pixels(self, predictions: Predictions, original: Predictions) -> dict[str, float]:
        """How far the found joints moved, in image pixels: median, 95th percentile and maximum."""
        distance = self._distance(predictions, original)
        seen = distance[np.isfinite(distance)]
        if seen.size == 0:
            return {"median": 0.0, "p95": 0.0, "most": 0.0}
        return {
            "median": float(np.median(seen)),
            "p95": float(np.percentile(seen, 95)),
            "most": float(seen.max()),
        }

    def _distance(self, predictions: Predictions, original: Predictions) -> NDArray[np.float64]:
        distance = np.linalg.norm(predictions.joints - original.joints, axis=2).astype(np.float64)
        return np.where(self._found(original), distance, np.nan)


def onnx_session(model: onnx.ModelProto) -> Any:
    """An ``onnxruntime.InferenceSession`` of a model, on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )


def session(model: onnx.ModelProto) -> Callable[[Floats], tuple[Floats, Floats]]:
    """A pose network in ONNX Runtime, as a function from crops to (cams, presence)."""
    engine = onnx_session(model)

    def infer(crops: Floats) -> tuple[Floats, Floats]:
        cams, presence = engine.run(("cams", "presence"), {"crops": crops})
        return cams, presence

    return infer


def time_interleaved(
    engines: Mapping[str, Callable[[], object]], *, turns: int = 4, calls: int = 50, settling: int = 10
) -> dict[str, dict[str, float]]:
    """Time engines that take turns: p50 and p95 of one call in milliseconds, and speedup over the first.

    In each turn an engine is called many times in a row, as in use. The first ``settling`` calls are not
    timed, since its weights are not in the caches yet.
    """
    samples: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(turns):
        for name, run in engines.items():
            for call in range(calls):
                started = perf_counter()
                run()
                if call >= settling:
                    samples[name].append((perf_counter() - started) * 1e3)
    first = np.array(next(iter(samples.values())))
    return {
        name: {
            "p50_ms": float(np.percentile(times, 50)),
            "p95_ms": float(np.percentile(times, 95)),
            "speedup": float(np.median(first / np.array(times))),
        }
        for name, times in samples.items()
    }


def summary(moved: NDArray[np.float64]) -> dict[str, float]:
    """Mean, median and 95th percentile of how far joints moved, in percent of the box's longer side."""
    seen = moved[np.isfinite(moved)] * 100
    if seen.size == 0:
        return {"mean_percent": 0.0, "median_percent": 0.0, "p95_percent": 0.0}
    return {
        "mean_percent": float(seen.mean()),
        "median_percent": float(np.median(seen)),
        "p95_percent": float(np.percentile(seen, 95)),
    }
