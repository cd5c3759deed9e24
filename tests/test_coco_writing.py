"""COCO trees as they are written: pixels, boxes and what has no label; and the reader understands them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.coco_writing import coco_persons_tree, joint_entries, person_annotation
from lfpose_edge.skeleton import Skeleton

SKELETON = Skeleton(
    "three",
    ("head", "left_hand", "right_hand"),
    (("head", "left_hand"), ("head", "right_hand")),
    (0.1, 0.1, 0.1),
)
JOINTS = np.array([[0.5, 10.25], [3.127, 4.0], [np.nan, 7.0]])
V = (2, 1, 0)


def test_pixels_are_counted_by_their_centres_and_what_is_unlabelled_lies_at_zero() -> None:
    found = joint_entries(JOINTS, V, decimals=2)
    assert found == {"keypoints": [0.0, 9.75, 2.0, 2.63, 3.5, 1.0, 0.0, 0.0, 0.0], "num_keypoints": 2}
    assert "-0.0" not in json.dumps(found)
    assert joint_entries(JOINTS, V)["keypoints"][3] == JOINTS[1, 0] - 0.5


def test_a_box_is_stored_as_corner_and_extent() -> None:
    entry = person_annotation(7, 3, (10.0, 20.5, 30.125, 60.0), decimals=1, score=0.5)
    assert entry == {
        "id": 7, "image_id": 3, "category_id": 1, "iscrowd": 0, "bbox": [10.0, 20.5, 20.1, 39.5], "score": 0.5
    }  # fmt: skip


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    box = np.array([1.0, 2.0, 31.0, 52.0])
    person = person_annotation(7, 3, box, area=900.0, **joint_entries(JOINTS, V))
    images = [{"id": 3, "file_name": "a.jpg", "width": 100, "height": 100}]
    tree = coco_persons_tree(images, [person], SKELETON, info={"seed": 1})
    assert tree["info"] == {"seed": 1}
    (tmp_path / "a.jpg").touch()
    (tmp_path / "a.json").write_text(json.dumps(tree), encoding="utf-8")
    read = read_coco_keypoints(tmp_path / "a.json", tmp_path, SKELETON)
    np.testing.assert_allclose(read.boxes, [box])
    np.testing.assert_array_equal(read.labelled, [[True, True, False]])
    np.testing.assert_allclose(read.joints[0, :2], JOINTS[:2])
