"""Subsets of a user's own COCO-keypoints file, by the rule that the named calibration sets follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lfpose_edge.export.calibration import FEWEST_TO_SPLIT, annotation_order

from lfpose_edge.coco import coco_tree, is_crowd, persons_of
from lfpose_edge.errors import CalibrationError
from lfpose_edge.files import write_text_whole


def make_subset(
    annotations: Path,
    out: Path,
    *,
    persons: int = 512,
    min_joints: int = 8,
    min_side: float = 96.0,
) -> int:
    """Write the part of a COCO-keypoints JSON, or of MPII's annotation list, that a calibration needs.

    From the non-crowd persons with enough labelled joints and a large enough box, those whose annotation ids
    have the smallest SHA-256 are chosen. The choice does not depend on the order of the file, and changes
    little as a data set grows.

    Args:
        annotations: the JSON.
        out: where the smaller JSON goes; images are named, not copied.
        persons: how many, at most.
        min_joints: labelled joints that a person must have.
        min_side: width and height that a person's box must have, pixels.

    Returns:
        How many persons were found.

    Raises:
        CalibrationError: the file is not COCO keypoints, or has fewer than ``FEWEST_TO_SPLIT`` such persons.
    """
    if out.resolve() == annotations.resolve():
        message = f"--out {out} is the file to choose from: give another path"
        raise CalibrationError(message)
    try:
        tree: dict[str, Any] = coco_tree(annotations)
        usable = [
            person
            for person in persons_of(tree)
            if not is_crowd(person)
            and sum(v > 0 for v in (person.get("keypoints") or ())[2::3]) >= min_joints
            and min(person["bbox"][2:]) >= min_side
        ]
        chosen = sorted(usable, key=lambda person: annotation_order(person["id"]))[:persons]
        wanted = {person["image_id"] for person in chosen}
        images = [image for image in tree["images"] if image["id"] in wanted]
        if len({image["id"] for image in images}) < len(wanted):
            missing = min(wanted - {image["id"] for image in images}, key=str)
            message = f"it has no image {missing!r}"
            raise ValueError(message)  # noqa: TRY301  (one message for every way to be something else)
        smaller = {"images": images, "annotations": chosen, "categories": tree["categories"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"{annotations}: not a COCO-keypoints JSON ({type(error).__name__}: {error})"
        raise CalibrationError(message) from error
    if len(chosen) < FEWEST_TO_SPLIT:
        message = (
            f"{annotations} has {len(chosen)} persons with {min_joints} labelled joints and a box of "
            f"{min_side:g} pixels, a calibration needs at least {FEWEST_TO_SPLIT}"
        )
        raise CalibrationError(message)
    write_text_whole(out, json.dumps(smaller) + "\n")
    return len(chosen)
