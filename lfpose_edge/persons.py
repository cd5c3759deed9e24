"""Persons, for training, evaluation and export: boxes, joints, and the images they are in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.skeleton import Skeleton
from lfpose_edge.sources import load_image, load_stored

AREA_OF_BOX = 0.53
"""Ratio of a person's area to the box's, for persons without an outline: CrowdPose's and AIC's convention."""


@dataclass(frozen=True)
class PersonTable:
    """N persons with located joints.

    Attributes:
        images: N image paths.
        image_ids: (N,) COCO image ids.
        annotation_ids: (N,) COCO annotation ids.
        boxes: (N, 4) float64 x1, y1, x2, y2 in image pixels.
        joints: (N, K, 2) float64 continuous image coordinates (COCO's pixel index + 0.5); 0 where unlabelled.
        labelled: (N, K) bool, whether the joint has a location (COCO v > 0).
        known: (N, K) bool, whether it is known if the joint is there; True where labelled.
        areas: (N,) the annotations' areas, square pixels; without one, ``AREA_OF_BOX`` times the box's area.
        skeleton: the K joints' names and order.
        exif: whether boxes and joints refer to the image after EXIF orientation; annotations do not.
    """

    images: list[Path]
    image_ids: NDArray[np.int64]
    annotation_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    joints: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    known: NDArray[np.bool_]
    areas: NDArray[np.float64]
    skeleton: Skeleton
    exif: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> PersonTable:
        """The first ``count`` persons."""
        return self.chosen(range(min(count, len(self))))

    def chosen(self, rows: Sequence[int]) -> PersonTable:
        """These persons, in this order."""
        index = np.asarray(rows, np.intp)
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        columns |= {name: column[index] for name, column in columns.items() if isinstance(column, np.ndarray)}
        return PersonTable(**{**columns, "images": [self.images[i] for i in index]})

    def image(self, row: int) -> NDArray[np.uint8]:
        """A person's image, (H, W, 3) uint8 BGR."""
        path = self.images[row]
        return load_image(path) if self.exif else load_stored(path)


def joined(tables: Sequence[PersonTable]) -> PersonTable:
    """Concatenate tables, which must share a skeleton."""
    first = tables[0]
    columns = {f.name: [getattr(table, f.name) for table in tables] for f in fields(first)}
    merged = {
        name: np.concatenate(parts) for name, parts in columns.items() if isinstance(parts[0], np.ndarray)
    }
    images = [path for table in tables for path in table.images]
    return replace(first, images=images, **merged)  # type: ignore[arg-type]


def unlabelled_persons(images: list[Path], boxes: NDArray[np.float64], skeleton: Skeleton) -> PersonTable:
    """A table of persons with known boxes only: image paths, and boxes (N, 4) after EXIF orientation."""
    n, k = len(images), len(skeleton)
    return PersonTable(
        images=images,
        image_ids=np.arange(n),
        annotation_ids=np.arange(n),
        boxes=boxes,
        joints=np.zeros((n, k, 2)),
        labelled=np.zeros((n, k), bool),
        known=np.zeros((n, k), bool),
        areas=AREA_OF_BOX * np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
        skeleton=skeleton,
        exif=True,
    )


def data_root(given: str | Path | None = None) -> Path:
    """The folder that data paths are relative to: the one given, ``$LFPOSE_DATA``, or the current one."""
    return Path(given or os.environ.get("LFPOSE_DATA") or Path.cwd())
