"""Domain pairs: joints go where the lens puts them, halves share nothing, posture is the trunk's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from benchmark_scripts import benchmark

from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.persons import PersonTable
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.data.domains import (
    Camera,
    by_posture,
    halves,
    through_camera,
    trunk_angle_deg,
    write_persons,
)


@pytest.fixture(scope="module")
def persons(figures: Path) -> PersonTable:
    return read_coco_keypoints(figures / "train" / "annotations.json", figures / "train" / "images", LSP14)


@pytest.mark.parametrize("barrel", [0.0, 0.1, 0.3])
def test_the_lens_moves_pixels_to_where_it_says(barrel: float) -> None:
    """White spots on black: each is found again, within a tenth of a pixel, where ``places`` says."""
    clean = Camera(
        barrel=barrel, pixels=1.0, gain=1.0, gamma=1.0, tint=(1, 1, 1), blur_px=1.0, noise=0.0, jpeg=95
    )
    rng = np.random.default_rng(0)
    for x, y in [(30, 40), (100, 75), (170, 20), (60, 130)]:
        picture = np.zeros((150, 200, 3), np.uint8)
        cv2.circle(picture, (x, y), 3, (255, 255, 255), -1)
        shot = clean.photograph(picture, rng)[..., 0].astype(float)
        rows, columns = np.mgrid[:150, :200] + 0.5
        centre = np.array([(shot * columns).sum(), (shot * rows).sum()]) / shot.sum()
        np.testing.assert_allclose(centre, clean.places(np.array([x + 0.5, y + 0.5]), (150, 200)), atol=0.1)
    corner, middle = clean.places(np.array([[0.0, 0], [100, 75]]), (150, 200))
    assert (corner[0] > 3) == (barrel > 0.05)
    np.testing.assert_allclose(middle, (100, 75), atol=1e-9)


def test_the_camera_is_dark_and_noisy_and_the_same_for_a_seed(persons: PersonTable) -> None:
    image = np.full((90, 120, 3), 200, np.uint8)
    one, two, other = (Camera().photograph(image, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    assert one.shape == image.shape
    assert one.mean() < 120
    assert one[30:60, 40:80].std() > 3


PLAIN = Camera(barrel=0, pixels=1.0, gain=1.0, gamma=1.0, tint=(1, 1, 1), blur_px=1.0, noise=0.0, jpeg=95)


def test_every_fault_of_the_camera_shows() -> None:
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[:, ::4] = picture[::4] = 160  # lines of one pixel
    rng = np.random.default_rng(0)
    plain = PLAIN.photograph(picture, rng).astype(float)
    np.testing.assert_allclose(plain, picture, atol=2)

    def shot(**fault: object) -> np.ndarray:
        return replace(PLAIN, **fault).photograph(picture, np.random.default_rng(0)).astype(float)

    assert shot(pixels=0.3).std() < 0.5 * plain.std()
    assert shot(blur_px=9.0).std() < 0.8 * plain.std()
    blue, green, red = shot(tint=(0.5, 1.0, 1.2)).mean(axis=(0, 1)) / plain.mean(axis=(0, 1))
    assert (blue, green, red) == (
        pytest.approx(0.5, abs=0.02),
        pytest.approx(1, abs=0.02),
        pytest.approx(1.2, abs=0.02),
    )
    assert shot(gain=0.5).max() == pytest.approx(80, abs=2)
    assert shot(gamma=2.0).max() == pytest.approx(255 * (160 / 255) ** 2, abs=2)
    grain = shot(noise=20.0)[picture == 160]
    assert grain.std() == pytest.approx(20 * (1 / 3 + 2 / 3 * (160 / 255) ** 0.5), rel=0.1)


def test_persons_through_a_camera_are_read_again(persons: PersonTable, tmp_path: Path) -> None:
    some, camera = persons.chosen(range(4)), Camera()
    through_camera(some, camera, tmp_path / "a", seed=1)
    through_camera(some, camera, tmp_path / "b", seed=1)
    for file in sorted((tmp_path / "a").rglob("*.*")):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
    found = read_coco_keypoints(tmp_path / "a" / "annotations.json", tmp_path / "a" / "images", LSP14)
    np.testing.assert_array_equal(found.labelled, some.labelled)
    for row in range(4):
        there = camera.places(some.joints[row], some.image(row).shape[:2])
        np.testing.assert_allclose(found.joints[row], there * some.labelled[row][:, None], atol=0.01)
        inside = (there >= found.boxes[row, :2] - 6) & (there <= found.boxes[row, 2:] + 6)
        assert inside.all(axis=1)[some.labelled[row]].mean() > 0.9
        corners = some.boxes[row][[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
        bent = camera.places(corners, some.image(row).shape[:2])
        np.testing.assert_allclose(found.boxes[row], [*bent.min(axis=0), *bent.max(axis=0)], atol=0.02)
        assert np.abs(found.boxes[row] - some.boxes[row]).max() > 1


def test_ids_of_one_person_an_image_share_no_file(persons: PersonTable, tmp_path: Path) -> None:
    some = replace(persons.chosen(range(3)), annotation_ids=np.ones(3, np.int64))
    through_camera(some, PLAIN, tmp_path, seed=1)
    found = read_coco_keypoints(tmp_path / "annotations.json", tmp_path / "images", LSP14)
    before, after = ([table.image(row).astype(float) for row in range(3)] for table in (some, found))
    difference = [[np.abs(a - b).mean() for b in before] for a in after]
    assert np.argmin(difference, axis=1).tolist() == [0, 1, 2]


def test_halves_share_no_image(persons: PersonTable) -> None:
    twice = replace(persons, image_ids=persons.image_ids // 2)  # two persons an image
    first, second = halves(twice, 3)
    assert len(first) + len(second) == len(persons)
    assert not set(first.image_ids) & set(second.image_ids)
    assert abs(len(first) - len(second)) <= 2
    again, _ = halves(twice, 3)
    assert again.annotation_ids.tolist() == first.annotation_ids.tolist()
    assert halves(twice, 4)[0].annotation_ids.tolist() != first.annotation_ids.tolist()


@pytest.mark.parametrize(
    ("turn_deg", "expected"),
    [(0, "upright"), (25, "upright"), (50, "neither"), (90, "other"), (180, "other")],
)
def test_posture_is_the_trunks(turn_deg: float, expected: str, persons: PersonTable) -> None:
    some = persons.chosen(range(8))
    a = np.radians(turn_deg)
    turned = replace(some, joints=some.joints @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]))
    upright, other = by_posture(turned)
    known = int(np.isfinite(trunk_angle_deg(turned)).sum())
    assert known >= 6
    counts = {"upright": len(upright), "other": len(other), "neither": known - len(upright) - len(other)}
    assert counts[expected] >= known - 2
    unlabelled = replace(turned, labelled=np.zeros_like(turned.labelled))
    assert [len(part) for part in by_posture(unlabelled)] == [0, 0]


def test_a_table_is_written_and_read(persons: PersonTable, figures: Path, tmp_path: Path) -> None:
    some, folder = persons.chosen([5, 2, 9]), figures / "train" / "images"
    write_persons(some, tmp_path / "some.json", folder)
    found = read_coco_keypoints(tmp_path / "some.json", folder, LSP14)
    assert found.images == some.images
    np.testing.assert_allclose(found.joints, some.joints * some.labelled[..., None], atol=0.01)
    np.testing.assert_allclose(found.boxes, some.boxes, atol=0.02)


def _write_set(figures: Path, part: str, rows: slice, out: Path) -> None:
    """Some of the figures as a data set: every other one upside down, and all of them there twice."""
    tree = json.loads((figures / part / "annotations.json").read_text(encoding="utf-8"))
    (out.parent / "images").mkdir(parents=True, exist_ok=True)
    for image in tree["images"]:
        name = f"{out.stem}-{image['file_name']}"
        shutil.copy(figures / part / "images" / image["file_name"], out.parent / "images" / name)
        image["file_name"] = name
    people = tree["annotations"][rows]
    for person in people[::2]:
        _, top, _, height = person["bbox"]
        joints = np.reshape(person["keypoints"], (-1, 3))
        joints[:, 1] = np.where(joints[:, 2] > 0, 2 * top + height - joints[:, 1], 0)
        person["keypoints"] = joints.ravel().tolist()
    again = [{**person, "id": 100 + person["id"]} for person in people]
    out.write_text(json.dumps({**tree, "annotations": [*people, *again]}), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("camera", {"source": 8, "target": 8, "source_test": 4, "target_test": 4}),
        ("people", {"source": 7, "target": 8, "source_test": 4, "target_test": 4}),  # one shows no trunk
        ("coco", {"source": 16, "target": 4, "source_test": 4, "target_test": 4}),
    ],
)
def test_nobody_is_in_two_parts_of_a_benchmarks_pair(
    name: str, counts: dict[str, int], figures: Path, tmp_path: Path
) -> None:
    """Neither of source and target nor of training and test; a figure is known by its area."""
    sets = {"lspet/train": ("train", slice(16)), "coco/train": ("train", slice(16, 24))}
    sets |= {"lspet/test": ("val", slice(4)), "lspet/val": ("val", slice(4, 8))}
    for out, (part, rows) in sets.items():
        _write_set(figures, part, rows, tmp_path / f"{out}.json")
    make_pair = benchmark("adaptation").make_pair
    pair = make_pair(name, tmp_path)
    domains = {part: getattr(pair, part) for part in counts}
    found = {
        part: read_coco_keypoints(tmp_path / domain.annotations, tmp_path / domain.images, LSP14)
        for part, domain in domains.items()
    }
    who = {part: set(table.areas.tolist()) for part, table in found.items()}
    assert [(one, other) for one, other in combinations(who, 2) if who[one] & who[other]] == []
    assert {part: len(areas) for part, areas in who.items()} == counts
    assert [len(table) for table in found.values()] == [2 * count for count in counts.values()]
    if name == "people":
        lying = {part: set((trunk_angle_deg(table) > 90).tolist()) for part, table in found.items()}
        assert lying == {part: {part.startswith("target")} for part in found}

    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "domains").rglob("*.*")}
    assert make_pair(name, tmp_path) == pair
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "domains").rglob("*.*")} == made
