"""OKS average precision, as COCO measures it, through pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        message = "OKS AP needs pycocotools: pip install pycocotools"
        raise ImportError(message) from error
    if not predictions:
        return OksAp(*(0.0,) * 6)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by printing
        ground = COCO()
        ground.dataset = truth
        ground.createIndex()
        evaluator = COCOeval(ground, ground.loadRes(list(predictions)), "keypoints")
        evaluator.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    ap, ap50, ap75, medium, large, ar, *_ = (float(v) for v in evaluator.stats)
    return OksAp(ap, ap50, ap75, medium, large, ar)
