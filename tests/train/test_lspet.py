"""Leeds Sports Pose Extended as it is published becomes the files that recipes name."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from lfpose_edge.cli import main as cli
from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.data.lspet import person_box, split

COUNT = 40


@pytest.fixture
def lfpose(command):
    """Runs ``lfpose`` in an empty folder."""
    return partial(command, cli.main, "lfpose")


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """The folder, and the table in it; one person has no label, one label is far outside."""
    rng = np.random.default_rng(0)
    joints = rng.uniform(20, 100, (14, 3, COUNT))
    joints[:, 2] = rng.random((14, COUNT)) < 0.9
    joints[:, 2, 7] = 0
    joints[6, :, 5] = (np.nan, np.nan, 0)  # where it has no label
    joints[3, :, 9] = (500, 30, 1)
    joints[4, 2, 9] = 1
    folder = tmp_path / "lspet"
    (folder / "images").mkdir(parents=True)
    for number in range(1, COUNT + 1):
        cv2.imwrite(str(folder / f"images/im{number:05d}.jpg"), np.zeros((120, 130, 3), np.uint8))
    savemat(folder / "joints.mat", {"joints": joints})
    return folder, joints


def test_the_parts_are_everybodys_and_the_joints_are_where_they_were(lfpose, published) -> None:
    folder, joints = published
    done = lfpose("data", "lspet", str(folder))
    assert done.code == 0, done.err
    assert "train 33, val 2, test 4" in done.err
    seen = {}
    for part in ("train", "val", "test"):
        persons = read_coco_keypoints(folder / f"{part}.json", folder / "images", LSP14)
        sides = persons.boxes[:, 2:] - persons.boxes[:, :2]
        np.testing.assert_allclose(persons.areas, 0.53 * sides.prod(axis=1), rtol=1e-3)  # no outlines
        seen[part] = [int(i) - 1 for i in persons.annotation_ids]
        for row, number in enumerate(seen[part]):
            labelled = joints[:, 2, number] > 0
            if number == 9:
                labelled[3] = False
            assert (persons.labelled[row] == labelled).all()
            np.testing.assert_allclose(
                persons.joints[row][labelled] - 0.5, joints[labelled, :2, number], atol=0.006
            )
    assert {part: [row for row in rows if row != 7] for part, rows in split(COUNT).items()} == seen
    assert sum(map(len, seen.values())) == COUNT - 1


def test_the_split_of_the_whole_set_is_fixed() -> None:
    parts = split(10_000)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 8500, "val": 500, "test": 1000}
    assert parts["test"][:3] == [12, 25, 27]
    assert len({row for rows in parts.values() for row in rows}) == 10_000


def test_boxes_and_parts_are_those_of_the_published_figures(shared_data: Path) -> None:
    """Images are cropped there, and half of the test people left out."""
    parts = split(10_000)
    for part in ("train", "val", "test"):
        tree = json.loads((shared_data / f"data/lspet/{part}.json").read_text(encoding="utf-8"))
        assert {image["id"] - 1 for image in tree["images"]} <= set(parts[part])
        images = {image["id"]: image for image in tree["images"]}
        for person in tree["annotations"]:
            joints = np.reshape(person["keypoints"], (14, 3))
            image = images[person["image_id"]]
            box = person_box(joints[joints[:, 2] > 0, :2], (image["height"], image["width"]))
            x, y, width, height = person["bbox"]
            np.testing.assert_allclose(box, [x, y, x + width, y + height], atol=0.6)


def _no_table(folder: Path) -> None:
    savemat(folder / "joints.mat", {"other": np.zeros(3)})


def _turned(folder: Path) -> None:
    savemat(folder / "joints.mat", {"joints": np.zeros((3, 14, 5))})


def _broken(folder: Path, length: int | None, wrong: int = -1) -> None:
    """Truncate the table to ``length`` bytes, or corrupt one of its bytes."""
    data = bytearray((folder / "joints.mat").read_bytes()[:length])
    if wrong >= 0:
        data[wrong] ^= 0xFF
    (folder / "joints.mat").write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (partial(_broken, length=0), "no MATLAB file with the table 'joints'"),
        (partial(_broken, length=60), "no MATLAB file with the table 'joints'"),
        (partial(_broken, length=-1), "no MATLAB file with the table 'joints'"),
        (lambda folder: (folder / "joints.mat").unlink(), "joints.mat: give the folder of Leeds Sports Pose"),
        (lambda folder: (folder / "joints.mat").write_bytes(b"no"), "no MATLAB file with the table 'joints'"),
        (_no_table, "no MATLAB file with the table 'joints'"),
        (_turned, "joints must be 14 x 3 x N, got 3 x 14 x 5"),
        (lambda folder: (folder / "images/im00005.jpg").unlink(), "im00005.jpg"),
    ],
)
def test_what_is_no_such_set_is_named(harm, words: str, lfpose, published) -> None:
    folder, _ = published
    harm(folder)
    done = lfpose("data", "lspet", str(folder))
    assert (done.code, words in done.err) == (1, True), done.err
    assert not list(folder.glob("*.json"))
