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
    """COCO keypoint average precision and recall; -1 where no person counts.

    Attributes:
        ap: mean over OKS thresholds 0.50, 0.55 ... 0.95.
        ap50, ap75: at one threshold.
        ap_medium, ap_large: of persons with an area of 32^2 to 96^2 pixels, and above.
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
    """CrowdPose's average precision and recall; -1 where no person counts.

    Attributes:
        ap: mean over OKS thresholds 0.50, 0.55 ... 0.95.
        ap50, ap75: at one threshold.
        ar, ar50, ar75: average recall.
        easy, medium, hard: AP on the images of a crowd index below 0.2, up to 0.8, and above.
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
"""From which crowd index of an image on, and below which, as CrowdPose's evaluation code has it."""


def oks_ap(truth: dict[str, Any], predictions: Sequence[dict[str, Any]], skeleton: Skeleton) -> OksAp:
    """Measure predictions against a COCO-keypoints tree.

    Args:
        truth: ``images``, ``annotations`` and ``categories`` as in a COCO-keypoints JSON; its joints are
            those of ``skeleton``, in its order.
        predictions: entries as :meth:`lfpose_edge.PoseResult.to_coco` makes them.
        skeleton: whose sigmas are used.

    Raises:
        ImportError: pycocotools is not installed.
    """
    if not predictions:
        return OksAp(*(_of_nothing(truth["annotations"]),) * 6)
    ap, ap50, ap75, medium, large, ar, *_ = _evaluated(truth, predictions, skeleton).stats.tolist()
    return OksAp(ap, ap50, ap75, medium, large, ar)


def crowd_ap(truth: dict[str, Any], predictions: Sequence[dict[str, Any]], skeleton: Skeleton) -> CrowdAp:
    """Measure predictions against a CrowdPose tree, as CrowdPose's own evaluation does.

    A person's area is a part of the box (``AREA_OF_BOX``), whatever the annotation says; a person without a
    visible joint (v = 2, CrowdPose's ``num_keypoints``; in a file that lacks these, without a labelled one)
    is not asked for; easy, medium and hard are evaluations of their own on a part of the images each, and the
    mean of the whole precision table.

    Args:
        truth: as :func:`oks_ap`'s; every image has a ``crowdIndex``.
        predictions: entries as :meth:`lfpose_edge.PoseResult.to_coco` makes them.
        skeleton: whose sigmas are used, CrowdPose's in general.

    Raises:
        ImportError: pycocotools is not installed.
        ValueError: an image has no crowd index.
    """
    if any("crowdIndex" not in image for image in truth["images"]):
        message = "CrowdPose's levels need a crowdIndex of every image"
        raise ValueError(message)
    # What pycocotools asks for and a file may leave out, as readers of COCO take it.
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
    """The precision where nothing was predicted, which pycocotools cannot be asked about."""
    counted = (not person.get("iscrowd") and person.get("num_keypoints", 1) for person in persons)
    return 0.0 if any(counted) else -1.0


def _evaluated(
    truth: dict[str, Any],
    predictions: Sequence[dict[str, Any]],
    skeleton: Skeleton,
    images: list[int] | None = None,
) -> Any:
    """pycocotools' evaluation of all images, or of some; of the categories that have joints."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        message = "OKS AP needs pycocotools: pip install pycocotools"
        raise ImportError(message) from error
    # pycocotools takes an annotation of id 0 for nobody, and a joint that is not a number for a perfect one.
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
