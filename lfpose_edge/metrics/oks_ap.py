"""OKS average precision, as COCO and CrowdPose measure it, through pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfpose_edge.persons import AREA_OF_BOX
from lfpose_edge.skeleton import Skeleton


@dataclass(frozen=True)
class OksAp:
    """COCO keypoint average precision and recall; -1 if no person counts.

    Attributes:
        ap: mean over OKS thresholds 0.50, 0.55 ... 0.95.
        ap50, ap75: at one threshold.
        ap_medium, ap_large: AP of persons with an area of 32^2 to 96^2 pixels, and above.
        ar: average recall over the same thresholds.
    """

    ap: float
    ap50: float
    ap75: float
    ap_medium: float
    ap_large: float
    ar: float


@dataclass(frozen=True)
class CrowdAp:
    """CrowdPose's average precision and recall; -1 if no person counts.

    Attributes:
        ap: mean over OKS thresholds 0.50, 0.55 ... 0.95.
        ap50, ap75: at one threshold.
        ar, ar50, ar75: average recall.
        easy, medium, hard: AP on the images with a crowd index below 0.2, from 0.2 to 0.8, and from 0.8 on.
    """

    ap: float
    ap50: float
    ap75: float
    ar: float
    ar50: float
    ar75: float
    easy: float
    medium: float
    hard: float


_NOWHERE = -1e4  # pixels

CROWD_LEVELS = {"easy": (-np.inf, 0.2), "medium": (0.2, 0.8), "hard": (0.8, np.inf)}
"""Lower (inclusive) and upper (exclusive) crowd index of an image, as in CrowdPose's evaluation code."""


def oks_ap(truth: dict[str, Any], predictions: Sequence[dict[str, Any]], skeleton: Skeleton) -> OksAp:
    """Measure predictions against a COCO-keypoints tree.

    Args:
        truth: ``images``, ``annotations`` and ``categories`` as in a COCO-keypoints JSON; its joints are
            those of ``skeleton``, in its order.
        predictions: entries as :meth:`lfpose_edge.PoseResult.to_coco` makes them.
        skeleton: the joints and their sigmas.

    Raises:
        ImportError: pycocotools is not installed.
    """
    if not predictions:
        return OksAp(*(_of_nothing(truth["annotations"]),) * 6)
    ap, ap50, ap75, medium, large, ar, *_ = _evaluated(truth, predictions, skeleton).stats.tolist()
    return OksAp(ap, ap50, ap75, medium, large, ar)


def crowd_ap(truth: dict[str, Any], predictions: Sequence[dict[str, Any]], skeleton: Skeleton) -> CrowdAp:
    """Measure predictions against a CrowdPose tree, as CrowdPose's own evaluation does.

    A person's area is ``AREA_OF_BOX`` times the box's area, whatever the annotation says. A person without a
    visible joint (v = 2, CrowdPose's ``num_keypoints``), or without a labelled joint if the file lacks
    ``num_keypoints``, is ignored. Easy, medium and hard are separate evaluations, each on a part of the
    images, and are the mean of the whole precision table.

    Args:
        truth: as for :func:`oks_ap`; every image has a ``crowdIndex``.
        predictions: entries as :meth:`lfpose_edge.PoseResult.to_coco` makes them.
        skeleton: the joints and their sigmas, in general CrowdPose's.

    Raises:
        ImportError: pycocotools is not installed.
        ValueError: an image has no crowd index.
    """
    if any("crowdIndex" not in image for image in truth["images"]):
        message = "CrowdPose's levels need a crowdIndex of every image"
        raise ValueError(message)
    # Fill in the fields that pycocotools needs and a file may leave out, with COCO's usual defaults.
    persons = [
        {
            "iscrowd": 0,
            "num_keypoints": sum(v > 0 for v in a["keypoints"][2::3]),
            **a,
            "area": AREA_OF_BOX * a["bbox"][2] * a["bbox"][3],
        }
        for a in truth["annotations"]
    ]
    shown = {
        level: [i["id"] for i in truth["images"] if low <= i["crowdIndex"] < high]
        for level, (low, high) in CROWD_LEVELS.items()
    }
    if not predictions:
        parts = [[a for a in persons if a["image_id"] in images] for images in shown.values()]
        return CrowdAp(*(_of_nothing(persons),) * 6, *map(_of_nothing, parts))
    tree = {**truth, "annotations": persons}
    stats = _evaluated(tree, predictions, skeleton).stats
    levels = []
    for images in shown.values():
        table = _evaluated(tree, predictions, skeleton, images).eval["precision"]
        levels.append(float(np.mean(table[:, :, :, 0])) if images else -1.0)
    ap, ap50, ap75, ar, ar50, ar75 = (float(stats[i]) for i in (0, 1, 2, 5, 6, 7))
    return CrowdAp(ap, ap50, ap75, ar, ar50, ar75, *levels)


def _of_nothing(persons: Sequence[dict[str, Any]]) -> float:
    """The precision without any predictions, a case that pycocotools cannot evaluate."""
    counted = (not person.get("iscrowd") and person.get("num_keypoints", 1) for person in persons)
    return 0.0 if any(counted) else -1.0


def _evaluated(
    truth: dict[str, Any],
    predictions: Sequence[dict[str, Any]],
    skeleton: Skeleton,
    images: list[int] | None = None,
) -> Any:
    """Run pycocotools' evaluation on all images or some, for the categories that have joints."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        message = "OKS AP needs pycocotools: pip install pycocotools"
        raise ImportError(message) from error
    # pycocotools treats an annotation with id 0 as no match, and a joint that is NaN as a perfect one.
    persons = [{**person, "id": number} for number, person in enumerate(truth["annotations"], 1)]
    tables = [np.asarray(guess["keypoints"], np.float64) for guess in predictions]
    guesses = [
        {**guess, "keypoints": np.where(np.isfinite(table), table, _NOWHERE).tolist()}
        for guess, table in zip(predictions, tables, strict=True)
    ]
    located = [category["id"] for category in truth["categories"] if category.get("keypoints")]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by printing
        ground = COCO()
        ground.dataset = {**truth, "annotations": persons}
        ground.createIndex()
        evaluator = COCOeval(ground, ground.loadRes(guesses), "keypoints")
        if located:
            evaluator.params.catIds = located
        evaluator.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
        if images is not None:
            evaluator.params.imgIds = images
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator
