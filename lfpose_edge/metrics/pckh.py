"""MPII's PCKh: the fraction of joints within half a head length of the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lfpose_edge.errors import SourceError
from lfpose_edge.matlab import read_matlab
from lfpose_edge.metrics.pck import PckResult, pck
from lfpose_edge.persons import PersonTable
from lfpose_edge.skeleton import MPII16

HEAD_OF_BOX = 0.6
"""Ratio of the head's length to the diagonal of its box."""

SAME = 2.0
"""Pixels within which two files' positions of a joint count as the same."""

COUNTED = tuple(joint for joint in MPII16.keypoints if joint not in ("pelvis", "thorax"))
"""The joints in the mean; each counts as often as it is labelled."""


@dataclass(frozen=True)
class MpiiTruth:
    """The contents of MPII's ``gt_valid.mat`` for N persons.

    Attributes:
        joints: (N, 16, 2) pixels, counted from 1 as MATLAB does.
        labelled: (N, 16) bool.
        head_boxes: (N, 4) x1, y1, x2, y2.
    """

    joints: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    head_boxes: NDArray[np.float64]


def read_mpii_truth(file: Path) -> MpiiTruth:
    """Read the validation set's ``.mat`` file: ``pos_gt_src``, ``jnt_missing`` and ``headboxes_src``.

    Raises:
        SourceError: the file is missing, or holds something else.
        BackendUnavailable: scipy is not installed.
    """
    joints, missing, heads = read_matlab(file, "pos_gt_src", "jnt_missing", "headboxes_src")
    n = joints.shape[-1] if joints.ndim else 0
    if joints.shape != (16, 2, n) or missing.shape != (16, n) or heads.shape != (2, 2, n):
        message = (
            f"{file} is not MPII's ground truth: shapes {joints.shape}, {missing.shape} and {heads.shape}, "
            "expected (16, 2, N), (16, N) and (2, 2, N)"
        )
        raise SourceError(message)
    return MpiiTruth(joints.transpose(2, 0, 1), missing.T == 0, heads.transpose(2, 0, 1).reshape(-1, 4))


def truth_of(persons: PersonTable, truth: MpiiTruth) -> MpiiTruth:
    """The rows of a ``.mat`` file for persons of MPII's annotation list, whose ids count from 1.

    Raises:
        SourceError: the file describes other persons.
    """
    rows = persons.annotation_ids - 1
    if rows.min(initial=0) < 0 or rows.max(initial=0) >= len(truth.joints):
        message = (
            f"MPII's ground truth is of {len(truth.joints)} persons, and annotations go to {rows.max() + 1}"
        )
        raise SourceError(message)
    ours = MpiiTruth(truth.joints[rows], truth.labelled[rows], truth.head_boxes[rows])
    both = persons.labelled & ours.labelled
    off = np.where(both, np.linalg.norm(persons.joints + 0.5 - ours.joints, axis=2), 0.0).max(axis=1)
    if off.max(initial=0.0) > SAME:
        wrong = int(np.argmax(off > SAME))
        message = (
            f"MPII's ground truth is of other persons, or in another order: person {rows[wrong] + 1} has a "
            f"joint {off[wrong]:.0f} pixels from where the annotations have it"
        )
        raise SourceError(message)
    return ours


def pckh(predicted: ArrayLike, truth: MpiiTruth, fraction: float = 0.5) -> PckResult:
    """Count the joints within a fraction of the head's length (inclusive), as the field reports them.

    The mean leaves out pelvis and thorax, and weights each joint by how often it is labelled.

    Args:
        predicted: (N, 16, 2) continuous image coordinates, as from the estimator, where pixel centres are
            at + 0.5. The truth has MATLAB's coordinates, where they are whole numbers from 1 on.
        truth: the truth for the same persons, in the same order.
        fraction: the fraction of the head's length.

    Raises:
        ValueError: the shapes of predictions and truth differ.
    """
    places = np.asarray(predicted, np.float64)
    if places.shape != truth.joints.shape:
        message = f"predictions must be {truth.joints.shape}, as the truth, got {places.shape}"
        raise ValueError(message)
    diagonal = np.linalg.norm(truth.head_boxes[:, 2:] - truth.head_boxes[:, :2], axis=1)
    thresholds = fraction * HEAD_OF_BOX * diagonal
    return pck(places + 0.5, truth.joints, truth.labelled, thresholds, MPII16, COUNTED)
