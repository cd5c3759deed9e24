"""Crowds made of single people: how full they are, who is hidden, and that they are the same every time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest

from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.errors import SourceError
from lfpose_edge.persons import PersonTable
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.data import crowding
from lfpose_edge.train.data.crowding import (
    LEVELS,
    Level,
    crowd_person,
    crowded_image,
    silhouette,
    write_crowds,
)


@pytest.fixture(scope="module")
def persons(figures: Path) -> PersonTable:
    return read_coco_keypoints(figures / "train" / "annotations.json", figures / "train" / "images", LSP14)


def test_a_silhouette_holds_the_persons_joints_and_little_else(persons: PersonTable) -> None:
    for row in range(6):
        size = persons.image(row).shape[:2]
        mask = silhouette(persons, row, size)
        assert (mask.shape, mask.dtype) == (size, np.float32)
        assert 0 <= mask.min() < 0.01
        assert 0.99 < mask.max() <= 1
        places = np.floor(persons.joints[row][persons.labelled[row]]).astype(int)
        inside = places[((places >= 0) & (places < size[::-1])).all(axis=1)]
        assert (mask[inside[:, 1], inside[:, 0]] > 0.3).mean() > 0.85
        assert 0.01 < mask.mean() < 0.5


@pytest.mark.parametrize("level", LEVELS)
def test_crowds_are_as_full_as_the_level_says(level: Level, persons: PersonTable) -> None:
    hidden = found = 0
    for row in range(len(persons)):
        crowd = crowd_person(persons, row, level, np.random.default_rng(row))
        if crowd is None:
            continue
        found += 1
        low, high = LEVELS[level]
        assert low < crowd.crowd_index < high
        before, after = persons.image(row).astype(int), crowd.image.astype(int)
        assert after.shape == before.shape
        changed = np.abs(after - before).max(axis=2) > 8
        assert not (crowd.hidden & ~persons.labelled[row]).any()
        assert crowd.hidden.sum() <= 0.6 * persons.labelled[row].sum()  # so that the person can be located
        hidden += int(crowd.hidden.sum())
        assert 0 < changed.mean() < 0.9
    assert found >= 0.6 * len(persons)
    assert hidden > 0 or level == "easy"


@pytest.mark.parametrize("in_front", [True, False])
def test_who_is_in_front_hides_joints_and_who_is_behind_none(in_front: bool, persons: PersonTable) -> None:
    """White figures, put in their own places: the image shows who is visible where a joint is."""
    checked = 0
    for row in range(8):
        image = np.zeros_like(persons.image(row))
        there = persons.labelled[row] & crowding._inside(
            persons.joints[row], np.array([2, 2, image.shape[1] - 2, image.shape[0] - 2])
        )
        x, y = np.floor(persons.joints[row][there]).astype(int).T
        on_top = silhouette(persons, row, image.shape[:2])[y, x] > 0.99
        identity = np.array([[1.0, 0, 0], [0, 1, 0]])
        bright = replace_image(persons, row, np.full_like(image, 255))
        shown, covered = crowding._put(bright, row, identity, image, row, in_front=in_front)
        assert (covered[there][on_top] == in_front).all()
        assert ((shown[y, x, 0] > 200)[on_top] == in_front).all()
        checked += int(on_top.sum())
    assert checked > 20


def replace_image(persons: PersonTable, row: int, image: np.ndarray) -> PersonTable:
    """The table with another image for one person."""

    class Painted(PersonTable):
        def image(self, asked: int) -> np.ndarray:
            return image if asked == row else persons.image(asked)

    return Painted(**{f.name: getattr(persons, f.name) for f in fields(persons)})


def test_what_is_written_is_read_again_and_the_same_every_time(persons: PersonTable, tmp_path: Path) -> None:
    some = persons.chosen(range(5))
    counts = write_crowds(some, tmp_path / "a", seed=3)
    write_crowds(some, tmp_path / "b", seed=3)
    write_crowds(some, tmp_path / "c", seed=4)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 3 + sum(counts.values())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert (tmp_path / "a" / "hard.json").read_bytes() != (tmp_path / "c" / "hard.json").read_bytes()
    for number, (level, count) in enumerate(counts.items()):
        table = read_coco_keypoints(tmp_path / "a" / f"{level}.json", tmp_path / "a" / "images", LSP14)
        assert len(table) == count
        rows = table.annotation_ids - 1
        np.testing.assert_allclose(
            table.joints, some.joints[rows] * some.labelled[rows][..., None], atol=0.01
        )
        np.testing.assert_array_equal(table.labelled, some.labelled[rows])
        tree = json.loads((tmp_path / "a" / f"{level}.json").read_text(encoding="utf-8"))
        for row, annotation in zip(rows, tree["annotations"], strict=True):
            crowd = crowd_person(some, row, level, np.random.default_rng((3, number, row)))
            assert crowd is not None
            seen = np.where(crowd.hidden, 1, 2)  # COCO's v of a joint behind somebody, and of one that shows
            assert annotation["keypoints"][2::3] == (seen * some.labelled[row]).tolist()
        low, high = LEVELS[level]
        assert all(low <= image["crowdIndex"] <= high for image in tree["images"])
        assert all(cv2.imread(str(p)) is not None for p in table.images)


def test_crowds_do_not_mix_with_what_is_there(persons: PersonTable, tmp_path: Path) -> None:
    def stop(rows: object) -> Iterator[int]:
        yield 0
        raise KeyboardInterrupt

    some = persons.chosen(range(5))
    with pytest.raises(KeyboardInterrupt):
        write_crowds(some, tmp_path / "out", seed=1, show=stop)
    assert list(tmp_path.iterdir()) == []
    write_crowds(some, tmp_path / "out", seed=1)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.json")}
    with pytest.raises(SourceError, match="is no empty folder: give another path, or remove it"):
        write_crowds(some, tmp_path / "out", seed=2)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.json")} == before


def test_one_person_alone_is_no_crowd(persons: PersonTable, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="two persons"):
        write_crowds(persons.first(1), tmp_path / "out", seed=0)
    assert not (tmp_path / "out").exists()


def test_the_command(figures: Path, tmp_path: Path) -> None:
    """Whose image the file has somebody else in, located or not, is no part of it."""
    tree = json.loads((figures / "train" / "annotations.json").read_text(encoding="utf-8"))
    count = len(tree["annotations"])
    tree["annotations"][1]["image_id"] = tree["annotations"][0]["image_id"]
    unseen = {**tree["annotations"][2], "id": 90, "keypoints": [0] * 42}
    crowd = {**tree["annotations"][3], "id": 91, "iscrowd": 1}
    dog = {**tree["annotations"][5], "id": 92, "category_id": 2}
    tree["annotations"] += [unseen, crowd, dog]
    tree["categories"].append({"id": 2, "name": "dog"})
    source = tmp_path / "source"
    source.mkdir()
    (source / "images").symlink_to(figures / "train" / "images")
    (source / "annotations.json").write_text(json.dumps(tree))
    command = [sys.executable, "-c", "from lfpose_edge.cli.main import main; main()", "data", "crowd"]
    done = subprocess.run(
        [*command, source / "annotations.json", source / "images", "--out", tmp_path / "crowds"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "left out: 4 persons who share their images" in done.stderr
    assert "easy " in done.stderr
    crowds = [
        json.loads((tmp_path / "crowds" / f"{level}.json").read_text(encoding="utf-8")) for level in LEVELS
    ]
    assert 0 < max(len(crowd["annotations"]) for crowd in crowds) <= count - 4
    assert (tmp_path / "crowds" / "hard.json").is_file()


def test_who_is_alone_in_the_data_stays_alone(persons: PersonTable) -> None:
    one = persons.first(1)
    np.testing.assert_array_equal(crowded_image(one, 0, np.random.default_rng(0)), one.image(0))


def test_every_level_comes_to_crowds_for_training(
    persons: PersonTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Level] = []

    def note_level(persons: PersonTable, row: int, level: Level, rng: np.random.Generator) -> None:
        asked.append(level)

    monkeypatch.setattr(crowding, "crowd_person", note_level)
    for seed in range(30):
        crowded_image(persons, 0, np.random.default_rng(seed))
    assert set(asked) == set(LEVELS)
