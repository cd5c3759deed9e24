"""Calibration sets: names, folders, JSON files and archives; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from lfpose_edge.export import calibration
from lfpose_edge.export.calibration import CalibrationSet, load_calibration_set
from nets import spot_image

from lfpose_edge.bundle import Input
from lfpose_edge.errors import CalibrationError
from lfpose_edge.skeleton import COCO17, LSP14

HOW = Input(size=(64, 48), mean=(10.0, 20.0, 30.0), std=(2.0, 2.0, 2.0), padding=1.0)


def _images(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:03d}.png"), spot_image(rng))
    return folder


def _coco(root: Path, part: str, count: int, *, side: float = 120.0, joints: int = 9) -> None:
    """A COCO folder in miniature, laid out as COCO 2017 is."""
    folder = _images(root / f"coco/{part}2017", count, seed=len(part))
    annotations = root / f"coco/annotations/person_keypoints_{part}2017.json"
    annotations.parent.mkdir(parents=True, exist_ok=True)
    names = list(COCO17.keypoints)
    tree: dict[str, Any] = {
        "images": [{"id": i, "file_name": p.name} for i, p in enumerate(sorted(folder.iterdir()))],
        "annotations": [
            {
                "id": 1000 + i,
                "image_id": i,
                "bbox": [0, 0, side, side],
                "keypoints": [20, 30, 2] * joints + [0, 0, 0] * (len(names) - joints),
            }
            for i in range(count)
        ],
        "categories": [{"id": 1, "keypoints": names}],
    }
    # As one of COCO's: nothing of him is labelled, and his box is flat.
    flat = {"id": 999, "image_id": 0, "bbox": [9.98, 18.5, 5.54, 0.0], "keypoints": [0] * 3 * len(names)}
    tree["annotations"].append(flat)
    annotations.write_text(json.dumps(tree))


def _load(spec: Any, root: Path, **options: Any) -> CalibrationSet:
    return load_calibration_set(str(spec), HOW, LSP14, data_root=root, **options)


def test_a_folder_is_split_into_ranges_and_proof(tmp_path: Path) -> None:
    found = _load(_images(tmp_path / "frames", 50), tmp_path)
    assert (len(found.crops), len(found.held_out), found.asked) == (32, 18, 512)
    assert not set(found.crops.persons.images) & set(found.held_out.persons.images)
    assert found.crops.crops.shape == (32, 3, 64, 48)
    image = cv2.imread(str(found.crops.persons.images[0]))[..., ::-1]
    expected = (image.astype(np.float32) - (10, 20, 30)) / 2
    np.testing.assert_allclose(found.crops.crops[0].transpose(1, 2, 0), expected, atol=1e-4)


def test_a_detector_finds_the_people_of_a_folder(tmp_path: Path) -> None:
    boxes = np.array([[0, 0, 20, 30], [10, 10, 40, 60.0]])
    found = _load(_images(tmp_path / "frames", 30), tmp_path, detector=lambda image: boxes)
    assert (len(found.crops), len(found.held_out)) == (32, 26)  # two share an image with those of the ranges
    assert {tuple(box) for box in found.crops.persons.boxes.tolist()} == {tuple(b) for b in boxes.tolist()}
    assert not set(found.crops.persons.images) & set(found.held_out.persons.images)
    with pytest.raises(CalibrationError, match="finds no person in its 30 images"):
        _load(tmp_path / "frames", tmp_path, detector=lambda image: np.zeros((0, 4)))


def test_coco_subset_is_a_rule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _coco(tmp_path, "train", 60)
    assert len(_load("coco_subset", tmp_path).held_out) == 28
    assert "person_keypoints_val2017.json is not there" in caplog.text
    _coco(tmp_path, "val", 20)
    caplog.clear()
    found = _load("coco_subset", tmp_path)
    assert (len(found.crops), len(found.held_out), found.asked) == (60, 20, 512)
    assert caplog.messages == [
        "the ranges of calibration set coco_subset are seen on 60 persons; 512 were asked for"
    ]
    assert found.held_out.persons.labelled.any()
    ids = found.crops.persons.annotation_ids.tolist()
    assert ids != sorted(ids)
    # Another order of the same file changes nothing.
    path = tmp_path / "coco/annotations/person_keypoints_train2017.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["annotations"].reverse()
    path.write_text(json.dumps(tree))
    again = _load("coco_subset", tmp_path)
    assert again.crops.sha256 == found.crops.sha256
    assert _load("coco_subset", tmp_path, limit=40).crops.persons.annotation_ids.tolist() == ids[:40]


@pytest.mark.parametrize(("side", "joints"), [(90.0, 9), (120.0, 7)], ids=["small", "few joints"])
def test_persons_that_the_rule_leaves_out(tmp_path: Path, side: float, joints: int) -> None:
    _coco(tmp_path, "train", 40, side=side, joints=joints)
    with pytest.raises(CalibrationError, match="has 0 different persons"):
        _load("coco_subset", tmp_path)


def test_a_json_of_ones_own(tmp_path: Path) -> None:
    _coco(tmp_path, "train", 50)
    path = tmp_path / "coco/annotations/person_keypoints_train2017.json"
    found = _load(path, tmp_path, images=tmp_path / "coco/train2017")
    assert (len(found.crops), len(found.held_out)) == (32, 18)
    assert not set(found.crops.persons.images) & set(found.held_out.persons.images)
    assert found.crops.sha256 != found.held_out.sha256


def test_whom_the_ranges_are_seen_on_proves_nothing(tmp_path: Path) -> None:
    _coco(tmp_path, "train", 50)
    proof = (tmp_path / "coco/annotations/person_keypoints_train2017.json", tmp_path / "coco/train2017")
    found = _load(proof[0], tmp_path, images=proof[1], proof=proof, limit=40)
    assert (len(found.crops), len(found.held_out)) == (40, 10)
    with pytest.raises(CalibrationError, match="has 0 persons to prove the export on"):
        _load(proof[0], tmp_path, images=proof[1], proof=proof)


def test_of_one_file_for_ranges_and_proof_each_has_its_own_persons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MOST_HELD_OUT", 20)
    _coco(tmp_path, "train", 60)
    proof = (tmp_path / "coco/annotations/person_keypoints_train2017.json", tmp_path / "coco/train2017")
    found = _load(proof[0], tmp_path, images=proof[1], proof=proof, limit=40)
    assert (len(found.crops), len(found.held_out)) == (40, 20)


def test_of_a_video_what_is_held_out_is_in_blocks_from_all_over_it(tmp_path: Path) -> None:
    found = _load(_images(tmp_path / "frames", 60), tmp_path, limit=32)
    parts = (found.crops, found.held_out)
    ranges, proof = (sorted(int(path.stem) for path in part.persons.images) for part in parts)
    assert (len(ranges), len(proof)) == (32, 28)
    borders = sum(b - a > 1 for a, b in zip(proof, proof[1:], strict=False))
    assert borders == 4  # five blocks
    assert (min(ranges), max(proof)) == (0, 59)
    assert max(np.diff(ranges)) <= 7
    tuning = [int(path.stem) for path in found.crops.persons.images[:12]]
    assert min(tuning) < 15 < 45 < max(tuning)


def test_of_many_frames_those_that_are_taken_are_from_all_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MOST_HELD_OUT", 20)
    found = _load(_images(tmp_path / "frames", 130), tmp_path, limit=40)
    taken = sorted(int(p.stem) for part in (found.crops, found.held_out) for p in part.persons.images)
    assert len(taken) == 60
    assert (taken[0], taken[-1]) == (0, 129)
    assert max(np.diff(taken)) <= 3


def test_beside_a_proof_the_ranges_are_from_all_over_a_folder_too(tmp_path: Path) -> None:
    _coco(tmp_path, "val", 20)
    proof = (tmp_path / "coco/annotations/person_keypoints_val2017.json", tmp_path / "coco/val2017")
    found = _load(_images(tmp_path / "frames", 130), tmp_path, limit=40, proof=proof)
    taken = [int(path.stem) for path in found.crops.persons.images]
    assert (len(found.crops), len(found.held_out)) == (40, 20)
    assert (min(taken), max(taken)) == (0, 129)
    assert max(np.diff(sorted(taken))) <= 4
    assert min(taken[:8]) < 40 < 90 < max(taken[:8])


def test_no_range_is_made_from_an_image_that_a_proof_shows(tmp_path: Path) -> None:
    _coco(tmp_path, "val", 10)
    proof = (tmp_path / "coco/annotations/person_keypoints_val2017.json", tmp_path / "coco/val2017")
    frames = _images(tmp_path / "frames", 32, seed=7)
    for path in proof[1].iterdir():
        shutil.copy(path, frames / f"located-{path.name}")
    found = _load(frames, tmp_path, proof=proof)
    assert (len(found.crops), len(found.held_out)) == (32, 10)
    assert not any("located" in path.name for path in found.crops.persons.images)
    next(frames.glob("0*")).unlink()
    with pytest.raises(CalibrationError, match=r"has 31 persons .* 10 more are in images that --proof"):
        _load(frames, tmp_path, proof=proof)


def test_who_has_no_joint_that_counts_proves_nothing(tmp_path: Path) -> None:
    _coco(tmp_path, "val", 20, joints=5)  # a nose, eyes and ears
    proof = (tmp_path / "coco/annotations/person_keypoints_val2017.json", tmp_path / "coco/val2017")
    with pytest.raises(CalibrationError, match="has 0 persons to prove the export on.* a limb is labelled"):
        calibration.load_proof(proof, HOW, COCO17)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_an_archive_of_crops(tmp_path: Path, color: str) -> None:
    rng = np.random.default_rng(0)
    bgr = np.stack([spot_image(rng) for _ in range(50)])
    crops = bgr if color == "bgr" else bgr[..., ::-1]
    np.savez(tmp_path / "c.npz", crops=crops, color=color)
    found = _load(tmp_path / "c.npz", tmp_path)
    assert (len(found.crops), len(found.held_out)) == (32, 18)
    number = int(found.crops.persons.images[0].name)
    expected = (bgr[number, ..., ::-1].astype(np.float32) - (10, 20, 30)) / 2
    np.testing.assert_allclose(found.crops.crops[0].transpose(1, 2, 0), expected, atol=1e-4)


def _few(root: Path) -> str:
    return str(_images(root / "few", 3))


def _empty(root: Path) -> str:
    (root / "empty").mkdir()
    return str(root / "empty")


def test_an_archive_may_be_proved_on_located_persons(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", crops=_GOOD, color="rgb")
    _coco(tmp_path, "val", 12)
    proof = (tmp_path / "coco/annotations/person_keypoints_val2017.json", tmp_path / "coco/val2017")
    found = _load(tmp_path / "c.npz", tmp_path, proof=proof)
    assert (len(found.crops), len(found.held_out)) == (40, 12)
    assert found.held_out.persons.labelled.any()


def _truncated_npz(root: Path) -> str:
    path = Path(_npz(crops=_GOOD, color="rgb")(root))
    path.write_bytes(path.read_bytes()[:-200])
    return str(path)


def _npz(**arrays: Any) -> Any:
    def make(root: Path) -> str:
        np.savez(root / "c.npz", **arrays)
        return str(root / "c.npz")

    return make


_GOOD = np.random.default_rng(0).integers(0, 256, (40, 64, 48, 3), np.uint8)
BAD = {
    "three images": (_few, ["has 3 different persons", "at least 40", "do not hold"]),
    "no name": (lambda root: "", ["empty name"]),
    "one picture forty times": (
        _npz(crops=np.zeros_like(_GOOD), color="rgb"),
        ["has 1 different persons", "at least 40"],
    ),
    "no image": (_empty, ["holds no image"]),
    "coco is not there": (
        lambda root: "coco_subset",
        ["person_keypoints_train2017.json", "coco/train2017", "LFPOSE_DATA", "is not there"],
    ),
    "unknown name": (lambda root: "coco_subsett", ["did you mean 'coco_subset'"]),
    "no colour order": (_npz(crops=_GOOD), ["an .npz with 'crops' and 'color'"]),
    "odd colour order": (_npz(crops=_GOOD, color="hsv"), ["'rgb' or 'bgr', got 'hsv'"]),
    "other size": (_npz(crops=_GOOD[:, :32], color="rgb"), ["uint8 (N, 64, 48, 3)", "(40, 32, 48, 3)"]),
    "float crops": (_npz(crops=_GOOD.astype(np.float32), color="rgb"), ["must be uint8", "got float32"]),
    "a part of a file": (_truncated_npz, ["c.npz is no calibration set"]),
    "few crops": (_npz(crops=_GOOD[:39], color="rgb"), ["has 39 different persons", "at least 40"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_set_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    make, words = BAD[case]
    with pytest.raises(CalibrationError) as caught:
        _load(make(tmp_path), tmp_path)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_lspet_subset_is_there(shared_data: Path) -> None:
    found = calibration.load_calibration_set(
        "lspet_subset", HOW, LSP14, data_root=shared_data / "data", limit=32
    )
    assert len(found.crops) == 32
    assert len(found.held_out) == 256
    assert found.crops.persons.labelled.sum(axis=1).min() >= 8
    first = found.crops.persons.annotation_ids[:3].tolist()
    assert first == found.crops.persons.chosen(range(3)).annotation_ids.tolist()
