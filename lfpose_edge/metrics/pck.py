"""PCK: percentage of correct keypoints, those within a fraction of the person's size of the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lfpose_edge.skeleton import Skeleton

LIMB_JOINTS = tuple(
    f"{side}_{joint}"
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
)
"""The twelve joints that LSP, COCO, MPII and CrowdPose share."""


@dataclass(frozen=True)
class PckResult:
    """PCK of one prediction set.

    Attributes:
        mean: over all counted joints of all persons, in [0, 1]; NaN if none is counted.
        per_joint: by joint name, in [0, 1]; NaN for a joint that is never counted.
        counted: number of joints counted.
        per_person: for every person, the numbers of correct and of counted joints.
    """

    mean: float
    per_joint: dict[str, float]
    counted: int
    per_person: tuple[tuple[int, int], ...] = field(repr=False)


def pck(
    predicted: ArrayLike,
    truth: ArrayLike,
    labelled: ArrayLike,
    thresholds_px: ArrayLike,
    skeleton: Skeleton,
    joints: Sequence[str] | None = None,
    *,
    either_side: bool = False,
) -> PckResult:
    """Count the labelled joints predicted within a threshold (inclusive).

    Args:
        predicted: (N, K, 2) pixels; a NaN is never correct.
        truth: (N, K, 2) pixels, in the same frame.
        labelled: (N, K) bool, which joints count.
        thresholds_px: (N,) largest distance in pixels; a person whose threshold is NaN does not count.
        skeleton: the K joints.
        joints: names of the joints to count; None counts all.
        either_side: also count a joint as correct if it is close enough to the labelled mirror joint.
    """
    thresholds = np.asarray(thresholds_px, np.float64)
    distance = joint_distances(predicted, truth, labelled, skeleton, either_side=either_side)
    chosen = np.zeros(len(skeleton), bool)
    chosen[[skeleton.index(j) for j in (skeleton.keypoints if joints is None else joints)]] = True
    counts = np.asarray(labelled, bool) & chosen & np.isfinite(thresholds)[:, None]  # (N, K)
    correct = counts & (distance <= thresholds[:, None])

    per_joint = {
        name: _ratio(correct[:, k], counts[:, k]) for k, name in enumerate(skeleton.keypoints) if chosen[k]
    }
    per_person = zip(correct.sum(1).tolist(), counts.sum(1).tolist(), strict=True)
    return PckResult(_ratio(correct, counts), per_joint, int(counts.sum()), tuple(per_person))


def joint_distances(
    predicted: ArrayLike,
    truth: ArrayLike,
    labelled: ArrayLike,
    skeleton: Skeleton,
    *,
    either_side: bool = False,
) -> NDArray[np.float64]:
    """(N, K) pixels between prediction and truth; see :func:`pck` for the arguments."""
    guess, places = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    distance: NDArray[np.float64] = np.linalg.norm(guess - places, axis=-1)
    if either_side:
        mirror = skeleton.flip_permutation
        other = np.linalg.norm(guess - places[:, mirror], axis=-1)
        distance = np.where(np.asarray(labelled, bool)[:, mirror], np.fmin(distance, other), distance)
    return distance


def box_thresholds(boxes: ArrayLike, fraction: float = 0.1) -> NDArray[np.float64]:
    """(N,) thresholds: a fraction of the longer side of boxes (N, 4) x1, y1, x2, y2."""
    xyxy = np.asarray(boxes, np.float64)
    longer: NDArray[np.float64] = np.max(xyxy[:, 2:] - xyxy[:, :2], axis=1)
    return fraction * longer


def torso_thresholds(
    truth: ArrayLike, labelled: ArrayLike, skeleton: Skeleton, fraction: float = 0.2
) -> NDArray[np.float64]:
    """(N,) thresholds: a fraction of the distance from left shoulder to right hip, Leeds Sports Pose's torso.

    NaN for persons without labels for both joints, and for all persons if the skeleton lacks one of them.
    """
    if not {"left_shoulder", "right_hip"}.issubset(skeleton.keypoints):
        return np.full(len(np.asarray(truth)), np.nan)
    a, b = skeleton.index("left_shoulder"), skeleton.index("right_hip")
    joints, known = np.asarray(truth, np.float64), np.asarray(labelled, bool)
    torso = np.linalg.norm(joints[:, a] - joints[:, b], axis=1)
    result: NDArray[np.float64] = np.where(known[:, a] & known[:, b], fraction * torso, np.nan)
    return result


def _ratio(correct: NDArray[np.bool_], counts: NDArray[np.bool_]) -> float:
    total = int(counts.sum())
    return int(correct.sum()) / total if total else float("nan")
