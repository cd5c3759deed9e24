"""Pairs of domains made from one set of located persons by a seed, which differ by camera or by posture.

*Your camera*: half of the persons are photographed again through a poor camera. *Your people*: those who
stand upright, and those who do not. The effect of an adaptation between such a source and target can be
measured, because the target's joints are known but can be withheld from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.coco_writing import coco_persons_tree, joint_entries, person_annotation
from lfpose_edge.files import require_writable, whole_file, write_text_whole
from lfpose_edge.opencv import cv2
from lfpose_edge.persons import PersonTable

Points = NDArray[np.float64]
UPRIGHT_DEG, LYING_DEG = 40.0, 60.0
_SOLVER_STEPS = 30


@dataclass(frozen=True)
class Camera:
    """A camera worse than the one a model was trained on, with the same parameters in every frame.

    Attributes:
        barrel: barrel distortion: the radius r of a point in the result, 1 in the corner, is
            r (1 + barrel r^2) in the original.
        pixels: resolution along a side, over the original's.
        gain, gamma: exposure: grey becomes 255 gain (grey / 255)^gamma.
        tint: gains of the channels B, G, R.
        blur_px: longest motion blur, in pixels of the picture; its direction and length vary per frame.
        noise: standard deviation of a bright pixel's noise, in grey levels; a black one has a third of it.
        jpeg: quality of the stored JPEG.
    """

    barrel: float = 0.18
    pixels: float = 0.45
    gain: float = 0.6
    gamma: float = 1.5
    tint: tuple[float, float, float] = (0.85, 1.0, 1.1)
    blur_px: float = 7.0
    noise: float = 14.0
    jpeg: int = 45

    def places(self, points: Points, size: tuple[int, int]) -> Points:
        """Map points (..., 2) of a picture of ``size`` (height, width) to the camera's picture."""
        centre, radius = _lens(size)
        there = (points - centre) / radius
        found = there.copy()
        for _ in range(_SOLVER_STEPS):  # found * (1 + barrel |found|^2) = there
            found = there / (1 + self.barrel * (found**2).sum(axis=-1, keepdims=True))
        return found * radius + centre

    def photograph(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Pass an (H, W, 3) BGR image through the camera; same size, black where the lens sees nothing."""
        height, width = image.shape[:2]
        centre, radius = _lens((height, width))
        rows, columns = np.mgrid[:height, :width].astype(np.float64) + 0.5
        seen = (np.stack([columns, rows], axis=-1) - centre) / radius
        source = seen * (1 + self.barrel * (seen**2).sum(axis=-1, keepdims=True)) * radius + centre - 0.5
        x, y = (np.ascontiguousarray(source[..., axis], np.float32) for axis in (0, 1))
        out = cv2.remap(image, x, y, cv2.INTER_LINEAR)
        out = cv2.filter2D(out, -1, _smear(rng.uniform(1, self.blur_px), rng.uniform(0, np.pi)))
        small = max(8, round(width * self.pixels)), max(8, round(height * self.pixels))
        light = np.asarray(cv2.resize(out, small, interpolation=cv2.INTER_AREA), np.float64) / 255
        dark = np.clip(self.gain * light**self.gamma * self.tint, 0, 1)
        grain = rng.normal(0, self.noise / 255, dark.shape) * (1 / 3 + 2 / 3 * np.sqrt(dark))
        noisy = (255 * np.clip(dark + grain, 0, 1)).astype(np.uint8)
        return np.asarray(cv2.resize(noisy, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def through_camera(
    persons: PersonTable,
    camera: Camera,
    out: Path,
    *,
    seed: int,
    show: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> None:
    """Photograph persons through a camera: ``annotations.json``, COCO keypoints, and ``images`` in a folder.

    Joints and the boxes' corners are mapped through the lens; areas stay. The same persons and seed give the
    same files.

    Raises:
        SourceError: an image cannot be read.
        OSError: ``out`` cannot be written; raised before the work starts.
    """
    require_writable(out / "annotations.json")
    (out / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for row in show(range(len(persons))):
        image = persons.image(row)
        height, width = image.shape[:2]
        name = f"{row + 1:06d}.jpg"  # annotation ids may be unique only within an image
        shot = camera.photograph(image, np.random.default_rng((seed, int(persons.annotation_ids[row]))))
        with whole_file(out / "images" / name) as temporary:
            good, data = cv2.imencode(".jpg", shot, [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg])
            assert good
            temporary.write_bytes(data.tobytes())
        images.append({"id": row + 1, "file_name": name, "width": width, "height": height})
        joints = camera.places(persons.joints[row], (height, width))
        corners = persons.boxes[row][[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
        box = camera.places(corners, (height, width))
        around = np.concatenate([box.min(axis=0), box.max(axis=0)])
        annotations.append(_annotation(persons, row, row + 1, joints, around))
    tree = coco_persons_tree(images, annotations, persons.skeleton, info={"seed": seed})
    write_text_whole(out / "annotations.json", json.dumps(tree) + "\n")


def write_persons(persons: PersonTable, out: Path, folder: Path) -> None:
    """Write a table as COCO keypoints, image names relative to ``folder``; the images stay where they are."""
    names = sorted({path.relative_to(folder).as_posix() for path in persons.images})
    ids = {name: number for number, name in enumerate(names, 1)}
    annotations = []
    for row, path in enumerate(persons.images):
        image_id = ids[path.relative_to(folder).as_posix()]
        annotations.append(_annotation(persons, row, image_id, persons.joints[row], persons.boxes[row]))
    images = [{"id": number, "file_name": name} for name, number in ids.items()]
    tree = coco_persons_tree(images, annotations, persons.skeleton)
    write_text_whole(out, json.dumps(tree) + "\n")


def halves(persons: PersonTable, seed: int) -> tuple[PersonTable, PersonTable]:
    """Split at random into two halves that share no image."""
    images = np.unique(persons.image_ids)
    first = np.random.default_rng(seed).permutation(images)[: len(images) // 2]
    in_first = np.isin(persons.image_ids, first)
    return _those(persons, in_first), _those(persons, ~in_first)


def by_posture(persons: PersonTable) -> tuple[PersonTable, PersonTable]:
    """The persons who stand upright, and those who lie or are upside down; those in between are in neither.

    Decided by the trunk's angle from the vertical: below 40 degrees, and above 60. Persons without a labelled
    shoulder and hip are in neither.
    """
    angle = trunk_angle_deg(persons)
    return _those(persons, angle < UPRIGHT_DEG), _those(persons, angle > LYING_DEG)


def trunk_angle_deg(persons: PersonTable) -> NDArray[np.float64]:
    """(N,) degrees, 0 with hips straight below shoulders, to 180; NaN without a labelled shoulder and hip."""
    angles = np.full(len(persons), np.nan)
    ends = [
        [persons.skeleton.index(f"{side}_{j}") for side in ("left", "right")] for j in ("shoulder", "hip")
    ]
    for row in range(len(persons)):
        known = [[k for k in pair if persons.labelled[row, k]] for pair in ends]
        if all(known):
            shoulder, hip = (persons.joints[row, pair].mean(axis=0) for pair in known)
            dx, dy = hip - shoulder
            angles[row] = np.degrees(np.arctan2(abs(dx), dy))
    return angles


def _those(persons: PersonTable, which: NDArray[np.bool_]) -> PersonTable:
    return persons.chosen(np.flatnonzero(which).tolist())


def _annotation(persons: PersonTable, row: int, image_id: int, joints: Points, box: Points) -> dict[str, Any]:
    found = joint_entries(joints, 2 * persons.labelled[row], decimals=2)
    return person_annotation(row + 1, image_id, box, decimals=2, area=float(persons.areas[row]), **found)


def _lens(size: tuple[int, int]) -> tuple[Points, float]:
    centre = np.array([size[1] / 2, size[0] / 2])
    return centre, float(np.linalg.norm(centre))


def _smear(length: float, angle: float) -> NDArray[np.float32]:
    """A motion-blur kernel of odd size: a line that is ``length`` pixels long."""
    side = 2 * int(np.ceil(length / 2)) + 1
    reach = np.linspace(-length / 2, length / 2, 64)
    kernel = np.zeros((side, side), np.float32)
    x, y = (np.round(side // 2 + reach * f).astype(int) for f in (np.cos(angle), np.sin(angle)))
    np.add.at(kernel, (y, x), 1)
    return kernel / kernel.sum()
