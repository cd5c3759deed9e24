"""Synthetic crowds of people photographed alone: others are pasted beside, in front of and behind a person.

As there are no segmentation masks, a figure of limbs, trunk and head is cut out around a person's joints. An
image's crowding is measured by CrowdPose's crowd index (Li et al., CVPR 2019) of its original person: the
number of the others' joints in that person's box over that of the person's own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.coco import coco_tree, persons_of
from lfpose_edge.coco_writing import coco_persons_tree, joint_entries, person_annotation
from lfpose_edge.errors import SourceError
from lfpose_edge.files import whole_file, whole_folder, write_text_whole
from lfpose_edge.geometry import apply_affine
from lfpose_edge.opencv import cv2
from lfpose_edge.persons import PersonTable

Level = Literal["easy", "medium", "hard"]
LEVELS: dict[Level, tuple[float, float]] = {"easy": (0.0, 0.2), "medium": (0.2, 0.8), "hard": (0.8, 2.5)}
"""Crowd index: from above the first, below the second."""

LIMB_WIDTH = 0.3  # over the trunk's length, as is the next
FEATHER = 0.03
LEAST_TRUNK = 0.15  # least trunk length over the box's longer side, for trunks seen end-on
MOST_HIDDEN = 0.6  # largest part of a person's joints that may be hidden
TRIES = 80
_TRUNK = ("left_shoulder", "right_shoulder", "right_hip", "left_hip")


@dataclass(frozen=True)
class Crowded:
    """A person among others.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        hidden: (K,) bool, joints that others cover.
        crowd_index: others' joints in the box, over the person's own.
    """

    image: NDArray[np.uint8]
    hidden: NDArray[np.bool_]
    crowd_index: float


def alone(persons: PersonTable, annotations: Path) -> PersonTable:
    """The persons alone in their image: the file has no other annotation there, even a crowd or no joints."""
    count = Counter(person["image_id"] for person in persons_of(coco_tree(annotations)))
    return persons.chosen([row for row, image in enumerate(persons.image_ids.tolist()) if count[image] == 1])


def silhouette(persons: PersonTable, row: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """How much of each pixel (H, W) belongs to a person, 0 to 1: limbs, trunk and head around the joints."""
    skeleton, joints, labelled = persons.skeleton, persons.joints[row], persons.labelled[row]
    trunk = _trunk_length(persons, row)
    mask = np.zeros(size, np.uint8)
    places = np.round(joints - 0.5).astype(int).tolist()
    width = max(2, round(LIMB_WIDTH * trunk))
    for a, b in skeleton.edge_indices:
        if labelled[a] and labelled[b]:
            cv2.line(mask, places[a], places[b], 255, width, cv2.LINE_AA)
    corners = [skeleton.index(j) for j in _TRUNK if j in skeleton.keypoints]
    corners = [k for k in corners if labelled[k]]
    if len(corners) >= 3:
        cv2.fillPoly(mask, [np.array([places[k] for k in corners], np.int32)], 255, cv2.LINE_AA)
    if {"neck", "head_top"} <= set(skeleton.keypoints):
        neck, top = skeleton.index("neck"), skeleton.index("head_top")
        if labelled[neck] and labelled[top]:
            middle = np.round((joints[neck] + joints[top]) / 2 - 0.5).astype(int).tolist()
            radius = 0.6 * float(np.linalg.norm(joints[neck] - joints[top]))
            cv2.circle(mask, middle, max(2, round(radius)), 255, -1, cv2.LINE_AA)
    soft = cv2.GaussianBlur(mask, (0, 0), max(0.6, FEATHER * trunk))
    return (soft / np.float32(255)).astype(np.float32)


def crowd_person(persons: PersonTable, row: int, level: Level, rng: np.random.Generator) -> Crowded | None:
    """Paste one or two other persons around a person; None if no random try reaches the level.

    Args:
        persons: the person and the candidates to paste.
        row: the person's row.
        level: how crowded the image is to be.
        rng: decides who is pasted, where, and whether in front or behind.
    """
    box, joints, labelled = persons.boxes[row], persons.joints[row], persons.labelled[row]
    low, high = LEVELS[level]
    in_own_box = int((_inside(joints, box) & labelled).sum())
    for _ in range(TRIES):
        count = int(rng.integers(1, 3)) if level == "hard" else 1
        others = [int(rng.integers(len(persons))) for _ in range(count)]
        if row in others or not in_own_box:
            continue
        affines = [_placed(persons, other, box, level, rng) for other in others]
        there = sum(
            int((_inside(apply_affine(a, persons.joints[o]), box) & persons.labelled[o]).sum())
            for o, a in zip(others, affines, strict=True)
        )
        index = there / in_own_box
        if not low < index < high:
            continue
        image, hidden = persons.image(row), np.zeros(len(labelled), bool)
        for other, affine in zip(others, affines, strict=True):
            in_front = bool(rng.random() < 0.5)
            image, covered = _put(persons, other, affine, image, row, in_front=in_front)
            hidden |= covered & labelled
        if hidden.sum() <= MOST_HIDDEN * labelled.sum():
            return Crowded(image, hidden, index)
    return None


def crowded_image(persons: PersonTable, row: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A person's image (H, W, 3) BGR with others at a random level; unchanged if no place was found."""
    level = list(LEVELS)[int(rng.integers(len(LEVELS)))]
    found = crowd_person(persons, row, level, rng) if len(persons) > 1 else None
    return persons.image(row) if found is None else found.image


def write_crowds(
    persons: PersonTable,
    out: Path,
    *,
    seed: int,
    show: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[Level, int]:
    """Write every person at every level: ``LEVEL.json``, COCO keypoints with crowd indices, and ``images``.

    A hidden joint has v = 1. The same persons and seed give the same files.

    Returns:
        The number of images made, by level.

    Raises:
        SourceError: there are fewer than two persons, an image cannot be read, or ``out`` is not empty.
        OSError: ``out`` cannot be written; raised before the work starts.
    """
    if len(persons) < 2:
        message = "a crowd needs two persons with joints at least"
        raise SourceError(message)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        message = f"{out} is there already and is no empty folder: give another path, or remove it"
        raise SourceError(message)
    with whole_folder(out) as folder:
        return _write_crowds(persons, folder, seed, show)


def _write_crowds(
    persons: PersonTable, out: Path, seed: int, show: Callable[[Iterable[int]], Iterable[int]]
) -> dict[Level, int]:
    (out / "images").mkdir()
    trees: dict[Level, dict[str, list[dict[str, Any]]]] = {
        level: {"images": [], "annotations": []} for level in LEVELS
    }
    for row in show(range(len(persons))):
        for number, level in enumerate(LEVELS):
            found = crowd_person(persons, row, level, np.random.default_rng((seed, number, row)))
            if found is not None:
                _add(trees[level], persons, row, found, out / "images", f"{level}-{row:05d}.jpg")
    for level, tree in trees.items():
        info = {"crowd": level, "seed": seed}
        made = coco_persons_tree(**tree, skeleton=persons.skeleton, info=info)
        write_text_whole(out / f"{level}.json", json.dumps(made) + "\n")
    return {level: len(tree["images"]) for level, tree in trees.items()}


def _add(
    tree: dict[str, list[dict[str, Any]]],
    persons: PersonTable,
    row: int,
    found: Crowded,
    folder: Path,
    name: str,
) -> None:
    with whole_file(folder / name) as temporary:
        good, data = cv2.imencode(".jpg", found.image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        assert good
        temporary.write_bytes(data.tobytes())
    height, width = found.image.shape[:2]
    image = {"id": row + 1, "file_name": name, "width": width, "height": height}
    tree["images"].append({**image, "crowdIndex": round(found.crowd_index, 4)})
    v = np.where(found.hidden, 1, 2) * persons.labelled[row]
    joints = joint_entries(persons.joints[row], v, decimals=2)
    area = float(persons.areas[row])
    tree["annotations"].append(person_annotation(row + 1, row + 1, persons.boxes[row], area=area, **joints))


def _placed(
    persons: PersonTable, other: int, box: NDArray[np.float64], level: Level, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A random affine (2, 3) from another person's image that puts them near the box, at a similar size."""
    theirs = persons.boxes[other]
    own_side, their_side = (float((b[2:] - b[:2]).max()) for b in (box, theirs))
    scale = rng.uniform(0.85, 1.15) * own_side / their_side
    reach = ((box[2:] - box[:2]) + scale * (theirs[2:] - theirs[:2])) / 2
    spread = 0.5 if level == "hard" else 1.0
    offset = rng.uniform(-1, 1, 2) * reach * (spread, 0.3)
    mirrored = -1 if rng.random() < 0.5 else 1
    linear = scale * np.diag([mirrored, 1.0])
    shift = (box[:2] + box[2:]) / 2 + offset - linear @ ((theirs[:2] + theirs[2:]) / 2)
    return np.column_stack([linear, shift])


def _put(
    persons: PersonTable,
    other: int,
    affine: NDArray[np.float64],
    image: NDArray[np.uint8],
    row: int,
    *,
    in_front: bool,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paste another person into an image; also returns which joints of the person in ``row`` they cover."""
    theirs = persons.image(other)
    size = (image.shape[1], image.shape[0])
    # OpenCV's pixel centres are at integers, ours half a pixel further.
    pixels = affine.copy()
    pixels[:, 2] += affine[:, :2] @ (0.5, 0.5) - 0.5
    shown = cv2.warpAffine(theirs, pixels, size, flags=cv2.INTER_LINEAR)
    mask = cv2.warpAffine(silhouette(persons, other, theirs.shape[:2]), pixels, size, flags=cv2.INTER_LINEAR)
    if not in_front:
        mask = mask * (1 - silhouette(persons, row, image.shape[:2]))
    x, y, width, height = cv2.boundingRect((mask > 0).astype(np.uint8))
    part = np.s_[y : y + height, x : x + width]
    blended = image[part] + mask[part][..., None] * (shown[part].astype(np.float32) - image[part])
    together = image.copy()
    together[part] = np.clip(blended + 0.5, 0, 255).astype(np.uint8)
    joints = np.floor(persons.joints[row]).astype(int)
    inside = _inside(persons.joints[row], np.array([0, 0, *size], np.float64))
    covered = np.zeros(len(joints), bool)
    covered[inside] = mask[joints[inside, 1], joints[inside, 0]] > 0.5
    return together, covered


def _trunk_length(persons: PersonTable, row: int) -> float:
    """Distance from shoulder to hip, in pixels; at least LEAST_TRUNK of the box's longer side."""
    skeleton, joints, labelled = persons.skeleton, persons.joints[row], persons.labelled[row]
    box = persons.boxes[row]
    longest = float((box[2:] - box[:2]).max())
    sides = [("left_shoulder", "left_hip"), ("right_shoulder", "right_hip")]
    lengths = [
        float(np.linalg.norm(joints[a] - joints[b]))
        for a, b in ((skeleton.index(s), skeleton.index(h)) for s, h in sides)
        if labelled[a] and labelled[b]
    ]
    return max([LEAST_TRUNK * longest, *lengths])


def _inside(places: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.all((places >= box[:2]) & (places < box[2:]), axis=-1)
