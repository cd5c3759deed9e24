"""Conversion of Leeds Sports Pose Extended to the COCO-keypoints files that the shipped recipes name.

Johnson and Everingham, "Learning effective human pose estimation from inaccurate annotation" (CVPR 2011):
10,000 images of one person each, and ``joints.mat``. The set has neither boxes nor splits; both are made here
by fixed rules, so that they are the same for everyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.coco_writing import coco_persons_tree, joint_entries, person_annotation
from lfpose_edge.errors import SourceError
from lfpose_edge.files import require_writable, write_json_whole
from lfpose_edge.matlab import read_matlab
from lfpose_edge.persons import AREA_OF_BOX
from lfpose_edge.skeleton import LSP14
from lfpose_edge.sources import load_stored

SPLIT_SEED = 20260
TEST, VAL = 0.1, 0.05  # parts of the whole set
MARGIN, LEAST_MARGIN_PX = 0.12, 8.0  # around the labelled joints, over their longer extent; in pixels
_BEYOND_PX = 1.0  # labels may lie outside of the image by this much


def write_lspet(
    folder: Path, out: Path, *, show: Callable[[Iterable[int]], Iterable[int]] = iter
) -> dict[str, int]:
    """Write ``train.json``, ``val.json`` and ``test.json``; the images stay where they are.

    Args:
        folder: has ``joints.mat``, and in ``images`` im00001.jpg and so on.
        out: where the files go.
        show: wraps the loop over persons.

    Returns:
        The number of persons in each file.

    Raises:
        SourceError: a file is missing, cannot be read, or does not have that form.
        BackendUnavailable: scipy, which reads ``joints.mat``, is missing.
        OSError: ``out`` cannot be written; raised before the work starts.
    """
    joints = _read_joints(folder / "joints.mat")
    parts = split(len(joints))
    for name in parts:
        require_writable(out / f"{name}.json")
    people = {row: _person(folder / "images", row, joints[row]) for row in show(range(len(joints)))}
    counts = {}
    for name, rows in parts.items():
        known = [people[row] for row in rows if people[row] is not None]
        images, annotations = ([pair[i] for pair in known if pair] for i in (0, 1))
        write_json_whole(out / f"{name}.json", coco_persons_tree(images, annotations, LSP14))
        counts[name] = len(annotations)
    return counts


def split(count: int) -> dict[str, list[int]]:
    """Rows of the fixed splits: a tenth for testing, a twentieth for validation, the rest for training."""
    order = np.random.RandomState(SPLIT_SEED).permutation(count)  # noqa: NPY002  (fixed in the wild)
    test, val = round(TEST * count), round(VAL * count)
    ends = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}
    return {name: sorted(rows.tolist()) for name, rows in ends.items()}


def person_box(joints: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """x1, y1, x2, y2 around joints (K, 2), with a margin, inside an image of (height, width)."""
    low, high = joints.min(axis=0), joints.max(axis=0)
    margin = max(LEAST_MARGIN_PX, MARGIN * float((high - low).max()))
    return np.clip(np.concatenate([low - margin, high + margin]), 0, [size[1], size[0], size[1], size[0]])


def _read_joints(path: Path) -> NDArray[np.float64]:
    """(N, 14, 3) x, y and whether the joint is labelled."""
    if not path.is_file():
        message = f"no {path}: give the folder of Leeds Sports Pose Extended, with joints.mat and images"
        raise SourceError(message)
    (table,) = read_matlab(path, "joints")
    if table.ndim != 3 or table.shape[:2] != (len(LSP14), 3):
        message = f"{path}: joints must be 14 x 3 x N, got {' x '.join(map(str, table.shape))}"
        raise SourceError(message)
    return table.transpose(2, 0, 1)


def _person(images: Path, row: int, joints: NDArray[np.float64]) -> Sequence[dict[str, Any]] | None:
    """A person's image and annotation entries; None without any usable label."""
    name = f"im{row + 1:05d}.jpg"
    height, width = load_stored(images / name).shape[:2]
    places = joints[:, :2]
    inside = ((places >= -_BEYOND_PX) & (places <= np.array([width, height]) + _BEYOND_PX)).all(axis=1)
    labelled = (joints[:, 2] > 0) & inside
    if not labelled.any():
        return None
    box = person_box(places[labelled], (height, width)).round(2)
    area = round(AREA_OF_BOX * float(np.prod(box[2:] - box[:2])), 1)
    found = joint_entries(places + 0.5, 2 * labelled, decimals=2)  # the file counts pixels, as COCO does
    annotation = person_annotation(row + 1, row + 1, box, decimals=2, area=area, **found)
    return {"id": row + 1, "file_name": name, "width": width, "height": height}, annotation
