"""Converts the MPII annotation lists that pose network repositories share to COCO keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lfpose_edge.skeleton import MPII16

SIDE_OF_SCALE = 200.0
"""A person of ``scale`` 1 is 200 pixels tall."""

LOWERED = 15.0
"""Pixels at scale 1 by which the centre is too high to be the centre of the person's box."""


def mpii_as_coco(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Convert the list to a COCO-keypoints tree.

    A person's box is a square of 200 pixels at scale 1 around the centre, lowered by 15 pixels at scale 1.
    With a crop padded by 1.25 this is the crop that the field uses. Pixels are counted from 0 in the result,
    and from 1 in the list, as in MATLAB.

    Args:
        entries: dicts with ``image``, ``center``, ``scale``, and ``joints`` (16, 2) with ``joints_vis``
            (16,), which test sets lack.

    Raises:
        KeyError, TypeError, ValueError: an entry does not have that form, or the list is empty.
    """
    if not entries:
        message = "the list is empty"
        raise ValueError(message)
    ids: dict[str, int] = {}
    annotations = []
    for number, entry in enumerate(entries, 1):
        image_id = ids.setdefault(entry["image"], len(ids) + 1)
        (x, y), scale = (float(v) for v in entry["center"]), float(entry["scale"])
        side = SIDE_OF_SCALE * scale
        corner = (x - 1 - side / 2, y - 1 + LOWERED * scale - side / 2)
        flat: list[float] = []
        seen = entry.get("joints_vis", [0] * len(MPII16))
        for (a, b), visible in zip(entry.get("joints", [(0, 0)] * len(MPII16)), seen, strict=True):
            flat += [float(a) - 1, float(b) - 1, 2] if visible else [0.0, 0.0, 0]
        annotations.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": 1,
                "bbox": [*corner, side, side],
                "keypoints": flat,
                "num_keypoints": sum(map(bool, seen)),
                "iscrowd": 0,
            }
        )
    return {
        "images": [{"id": number, "file_name": name} for name, number in ids.items()],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(MPII16.keypoints)}],
    }
