"""Calibration crops without people are refused; crops of people, whoever they are, are not."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from lfpose_edge.export.crops import CropSet, cut_crops
from lfpose_edge.export.people import in_pieces, require_people
from lfpose_edge.export.proof import session
from nets import write_blob_bundle

from lfpose_edge.bundle import Bundle
from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.errors import CalibrationError
from lfpose_edge.persons import PersonTable, unlabelled_persons
from lfpose_edge.zoo import bundle_path

PERSONS = 64


def _require(crops: CropSet, bundle: Bundle) -> None:
    infer = session(onnx.load(bundle.model_file("fp32")))
    require_people(infer, crops, bundle.skeleton, bundle.manifest.decode, "mine")


@pytest.fixture(scope="module")
def lite() -> Bundle:
    return Bundle.open(bundle_path("lfpose-lite"))


def _crops(persons: PersonTable, bundle: Bundle) -> CropSet:
    rows = np.random.default_rng(0).permutation(len(persons))[:PERSONS]
    return cut_crops(persons.chosen(rows.tolist()), bundle.manifest.input)


def _around_people(annotations: Path, bundle: Bundle) -> PersonTable:
    """Squares of a COCO file's images that touch no box of a person."""
    tree = json.loads(annotations.read_text(encoding="utf-8"))
    random = np.random.default_rng(0)
    images, boxes = [], []
    for image in tree["images"]:
        own = [a["bbox"] for a in tree["annotations"] if a["image_id"] == image["id"]]
        taken = np.array(own).reshape(-1, 4)
        for _ in range(40):
            side = random.integers(70, min(image["height"], image["width"]) // 2 + 40)
            x, y = (random.integers(0, max(1, image[s] - side)) for s in ("width", "height"))
            low, high = taken[:, :2], taken[:, :2] + taken[:, 2:]
            if ((high < (x, y)) | (low > (x + side, y + side))).any(axis=1).all():
                images.append(annotations.parent / "images" / image["file_name"])
                boxes.append((x, y, x + side, y + side))
    return unlabelled_persons(images, np.array(boxes, np.float64), bundle.skeleton)


def _skies(folder: Path, count: int = 48) -> Path:
    """Pictures that go from one colour to another, downwards and to the right."""
    folder.mkdir()
    random = np.random.default_rng(0)
    down, right = np.mgrid[:192, :192][..., None] / 192
    for i in range(count):
        colours = random.integers(0, 256, (2, 3))
        sky = (down * colours[0] + right * colours[1]).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i:02d}.png"), sky)
    return folder


def test_a_folder_of_empty_skies_is_refused_and_nothing_written(run, tmp_path: Path) -> None:
    skies = _skies(tmp_path / "skies")
    code, _, err = run("lfpose-lite", "--out", "b", "--int8", "--calib", skies)
    assert (code, (tmp_path / "b").exists()) == (1, False)
    assert "skies' seems to show nobody" in err
    assert "--detector" in err


@pytest.mark.parametrize(("images", "annotations"), [("lspet", "val.json"), ("coco_mini", "train.json")])
def test_people_are_calibrated_with_in_silence(
    images: str, annotations: str, shared_data: Path, lite: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shared_data / "data" / images
    people = read_coco_keypoints(folder / annotations, folder / "images", lite.skeleton)
    _require(_crops(people, lite), lite)
    assert not caplog.records


def test_what_is_around_people_is_refused(shared_data: Path, lite: Bundle) -> None:
    around = _around_people(shared_data / "data/coco_mini/train.json", lite)
    with pytest.raises(CalibrationError, match="'mine' seems to show nobody"):
        _require(_crops(around, lite), lite)


def test_the_user_hears_that_many_crops_show_nobody(
    shared_data: Path, lite: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shared_data / "data" / "lspet"
    people = _crops(read_coco_keypoints(folder / "val.json", folder / "images", lite.skeleton), lite)
    around = _crops(_around_people(shared_data / "data/coco_mini/train.json", lite), lite)
    half = PERSONS // 2
    _require(replace(people, crops=np.concatenate([people.crops[:half], around.crops[half:]])), lite)
    (warning,) = caplog.messages
    assert f"of the {PERSONS} crops of calibration set mine that were looked at" in warning
    assert half / 2 < int(warning.split()[0]) <= half


def test_a_network_that_cannot_tell_is_believed_and_the_user_warned(
    run, frames: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its joints are spots, which are as bright in pieces."""
    write_blob_bundle(tmp_path / "blob")
    with caplog.at_level(logging.WARNING):
        assert run("blob", "--out", "b", "--int8", "--calib", frames, "--max-drop", "5")[0] == 0
    assert "are there people in them?" in caplog.text


@pytest.mark.parametrize("shape", [(64, 48), (66, 51)])
def test_no_piece_stays_where_it_was_and_none_is_lost(shape: tuple[int, int]) -> None:
    height, width = shape
    crops = np.arange(2 * 3 * height * width, dtype=np.float32).reshape(2, 3, height, width)
    mixed = in_pieces(crops)
    assert np.array_equal(np.sort(mixed, axis=None), np.sort(crops, axis=None))
    inner = np.s_[..., : height // 4 * 4, : width // 4 * 4]
    assert not (mixed[inner] == crops[inner]).any()
    assert not np.array_equal(mixed[0] - crops[0, 0, 0, 0], mixed[1] - crops[1, 0, 0, 0])  # each its own way
