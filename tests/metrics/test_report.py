"""The pictures of an evaluation."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lfpose_edge.errors import LFPoseError
from lfpose_edge.geometry import crop_affines
from lfpose_edge.metrics import report
from lfpose_edge.metrics.accuracy import measure
from lfpose_edge.metrics.report import Evaluation, pck_curve, write_evaluation
from lfpose_edge.persons import PersonTable
from lfpose_edge.skeleton import LSP14


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    rng = np.random.default_rng(0)
    joints = rng.uniform(30, 90, (8, 14, 2))
    labelled = rng.random((8, 14)) < 0.8
    labelled[3] = False  # nothing is known of one person
    for i in range(8):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((120, 130, 3), 90, np.uint8))
    persons = PersonTable(
        images=[tmp_path / f"{i}.png" for i in range(8)],
        image_ids=np.arange(8),
        annotation_ids=np.arange(8),
        boxes=np.tile([20.0, 20.0, 100.0, 100.0], (8, 1)),
        joints=joints,
        labelled=labelled,
        known=np.ones_like(labelled),
        areas=np.full(8, 6400.0),
        skeleton=LSP14,
    )
    guess = joints + rng.normal(0, 6, joints.shape)
    guess[5] += 400  # far out of the picture
    keypoints = guess.astype(np.float32)
    affine = crop_affines(persons.boxes[0], (64, 48), padding=1.25)[0]
    return Evaluation(
        model="<best> & model",
        annotations="some.json",
        runs_on="paper",
        persons=persons,
        keypoints=keypoints,
        accuracy=measure(keypoints, persons, presence=rng.random((8, 14)).astype(np.float32)),
        maps=lambda row: (rng.normal(0, 1, (14, 16, 12)).astype(np.float32), affine),
        crop_size=(64, 48),
    )


def test_a_page_names_its_numbers_and_its_pictures_are_there(evaluation: Evaluation, tmp_path: Path) -> None:
    page = write_evaluation(tmp_path / "out", evaluation)
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r'src="([^"]+)"', text)
    assert set(pictures) == {"pck.png", "joints.png", "cams.jpg", "worst.jpg"}
    for name in pictures:
        picture = cv2.imread(str(page.parent / name))
        assert picture is not None
        assert picture.std() > 1
    assert "&lt;best&gt; &amp; model" in text
    a = evaluation.accuracy
    assert a.pck_torso.mean != pytest.approx(a.pck_box.mean, abs=1e-3)
    for row in (
        (a.pck_box.mean, a.pck_either_side.mean, a.pck_torso.mean),
        (a.pck_box_all.per_joint["neck"], a.pck_torso.per_joint["neck"], a.presence_auc["neck"]),
    ):
        assert "".join(f"<td>{value:.3f}</td>" for value in row) in text
    assert {p.name for p in page.parent.iterdir()} == {*pictures, "index.html"}


def test_the_curve_goes_through_the_table(evaluation: Evaluation) -> None:
    parts, values = pck_curve(evaluation.keypoints, evaluation.persons)
    assert values[np.argmin(np.abs(parts - 0.1))] == pytest.approx(evaluation.accuracy.pck_box.mean)
    assert (np.diff(values) >= 0).all()
    _, either = pck_curve(evaluation.keypoints, evaluation.persons, either_side=True)
    assert (either >= values).all()


def test_truth_and_prediction_are_drawn_where_they_are(evaluation: Evaluation) -> None:
    persons = replace(evaluation.persons, labelled=np.ones((8, 14), bool))
    affine = crop_affines(persons.boxes[0], (168, 168), padding=1.0)[0]
    exact = replace(evaluation, persons=persons, keypoints=persons.joints.astype(np.float32))
    tile = report._with_poses(exact, 0, affine, (168, 168))
    a, b = (persons.joints[0, LSP14.index(j)] for j in ("neck", "head_top"))
    x, y = ((a + b) / 2 - 20) * 168 / 80  # the box is 80 pixels, from 20 on
    around = tile[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].reshape(-1, 3).astype(int)
    assert np.abs(around - report._GUESS_BGR).sum(axis=1).min() < 60


def test_the_worst_come_first(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    tile = report._pose_tile
    monkeypatch.setattr(report, "_pose_tile", lambda e, row: drawn.append(row) or tile(e, row))
    write_evaluation(tmp_path / "out", evaluation)
    assert drawn[0] == 5  # who is far out of the picture
    assert sorted(drawn) == [0, 1, 2, 4, 5, 6, 7]  # of the fourth nothing is known


def test_a_crop_shows_the_pixels_that_the_affine_names(evaluation: Evaluation) -> None:
    picture = np.zeros((120, 130, 3), np.uint8)
    picture[:, 60:] = 255  # an edge at x = 60: in the middle of the box
    cv2.imwrite(str(evaluation.persons.images[0]), picture)
    affine = crop_affines(evaluation.persons.boxes[0], (168, 168), padding=1.0)[0]
    row = report._crop(evaluation, 0, affine, (168, 168))[84, :, 0].astype(float)
    assert row[82] + row[85] == pytest.approx(255, abs=3)  # half way up between pixels 83 and 84
    assert row[83] + row[84] == pytest.approx(255, abs=3)


def test_without_matplotlib_it_says_what_to_install(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(LFPoseError, match="pip install matplotlib"):
        write_evaluation(tmp_path / "out", evaluation)
    assert not (tmp_path / "out").exists()
