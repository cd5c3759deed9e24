"""Builds COCO-keypoints trees for writing; :mod:`lfpose_edge.coco` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lfpose_edge.skeleton import Skeleton


def coco_persons_tree(
    images: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any]],
    skeleton: Skeleton | None = None,
    *,
    info: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A whole COCO file, whose only category is person, with the joints of ``skeleton`` if given."""
    category: dict[str, Any] = {"id": 1, "name": "person"}
    if skeleton is not None:
        category["keypoints"] = list(skeleton.keypoints)
    tree = {"images": list(images), "annotations": list(annotations), "categories": [category]}
    return tree if info is None else {"info": info, **tree}


def person_annotation(
    number: int, image_id: int, box: ArrayLike, *, decimals: int | None = None, **more: Any
) -> dict[str, Any]:
    """One person's entry.

    Args:
        number: the annotation's id.
        image_id: id of the person's image.
        box: x1, y1, x2, y2 in pixels; COCO stores corner and size.
        decimals: decimals to round these to; None does not round.
        more: further entries: ``area``, ``score``, and those of :func:`joint_entries`.
    """
    x1, y1, x2, y2 = np.asarray(box).tolist()
    bbox = [x1, y1, x2 - x1, y2 - y1]
    if decimals is not None:
        bbox = [round(value, decimals) for value in bbox]
    return {"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "bbox": bbox, **more}


def joint_entries(joints: ArrayLike, v: ArrayLike, *, decimals: int | None = None) -> dict[str, Any]:
    """The entries ``keypoints`` and ``num_keypoints`` of a person.

    Args:
        joints: (K, 2) continuous pixels; the first pixel's centre is 0.5 here and 0 in COCO.
        v: (K,) 0 for an unlabelled joint, which is stored at (0, 0), 1 for a hidden one, 2 for a visible one.
        decimals: decimals to round coordinates to; None does not round.
    """
    v = np.asarray(v)
    table = np.column_stack([np.where(v[:, None] > 0, np.asarray(joints, np.float64) - 0.5, 0.0), v])
    if decimals is not None:
        table = table.round(decimals)
    return {"keypoints": table.ravel().tolist(), "num_keypoints": int((v > 0).sum())}
