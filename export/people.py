"""Check that unlabelled crops show people, as far as the network itself can tell."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from lfpose_edge.export.crops import CropSet
from lfpose_edge.export.proof import Floats, Judge

from lfpose_edge.bundle import Decode
from lfpose_edge.errors import CalibrationError
from lfpose_edge.skeleton import Skeleton

logger = logging.getLogger("lfpose_edge")

NOBODY = 0.9
DOUBTFUL = 1.05
MANY = 0.25  # of the crops
_GRID = 4  # pieces per side; each is smaller than a limb is long


def require_people(
    infer: Callable[[Floats], tuple[Floats, Floats]],
    crops: CropSet,
    skeleton: Skeleton,
    decode: Decode,
    name: str,
) -> None:
    """Refuse crops that show no people, since ranges observed on them do not hold for people.

    A fixed threshold would not do: typical scores differ from network to network, and every network finds
    some joint in a picture without people. Instead, crops are compared with the same crops cut into pieces
    and mixed: a person in pieces is no longer a person, but a lawn in pieces is still a lawn. The median
    score of ``lfpose-lite`` is 3.5 times as high for crops of athletes as for the same crops in pieces, 2.3
    times for people in COCO, and 0.7 times for the surroundings of these (``tests/export/test_nobody.py``).
    Of 64 crops of each kind, 0, 7 and 43 score higher in pieces.

    Args:
        infer: the float network, crops to (cams, presence).
        crops: crops of the calibration set.
        skeleton: the bundle's joints.
        decode: the bundle's decode section.
        name: what the user calls the set.

    Raises:
        CalibrationError: the scores of the pieces are clearly higher than those of the intact crops.
    """
    scores = [
        Judge(part, skeleton, decode).predict(infer).scores
        for part in (crops, replace(crops, crops=in_pieces(crops.crops)))
    ]
    whole, pieces = (float(np.median(found)) for found in scores)
    if whole < NOBODY * pieces:
        message = (
            f"calibration set {name!r} seems to show nobody: of its crops the model is less sure (its median "
            f"score is {whole:.3f}) than of the same crops cut up and mixed ({pieces:.3f}); give pictures of "
            "people, one in each, or --detector, which finds them; persons whose joints are located, in a "
            "COCO-keypoints JSON, are taken as they are"
        )
        raise CalibrationError(message)
    if whole < DOUBTFUL * pieces:
        logger.warning(
            "of the crops of calibration set %s the model is hardly surer (its median score is %.3f) than of "
            "the same crops cut up and mixed (%.3f): are there people in them?",
            name,
            whole,
            pieces,
        )
        return
    of_whole, of_pieces = (np.median(found, axis=1) for found in scores)
    empty = int((of_whole < of_pieces).sum())
    if empty > MANY * len(crops):
        logger.warning(
            "%d of the %d crops of calibration set %s that were looked at seem to show nobody: the model is "
            "surer of them cut up and mixed. Leave out pictures without people, or give --detector, which "
            "finds them.",
            empty,
            len(crops),
            name,
        )


def in_pieces(crops: Floats) -> Floats:
    """Cut each of the (N, 3, H, W) crops into sixteen pieces and mix these so that none stays in place.

    Rows and columns left over by sixteen equal pieces stay as they are.
    """
    height, width = (side // _GRID for side in crops.shape[2:])
    places = [
        np.s_[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(_GRID)
        for column in range(_GRID)
    ]
    random = np.random.default_rng(0)
    mixed = crops.copy()
    for crop, whole in zip(mixed, crops, strict=True):
        order = random.permutation(len(places))
        for place, source in zip(order, np.roll(order, 1), strict=True):
            crop[places[place]] = whole[places[source]]
    return mixed
