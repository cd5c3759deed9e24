"""The benchmark of smoothing measures what it says: lag, error and jitter that are put in come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmark_scripts import benchmark

from lfpose_edge.opencv import cv2
from lfpose_edge.persons import PersonTable
from lfpose_edge.skeleton import LSP14

smoothing = benchmark("smoothing")
FPS, FRAMES = smoothing.FPS, smoothing.FRAMES


def path(frames_late: float = 0.0) -> np.ndarray:
    """Two joints that swing, (T, 2, 2), as they were so many frames ago."""
    time_s = (np.arange(FRAMES) - frames_late) / FPS
    swing = 60 * np.sin(2 * np.pi * 0.7 * time_s)
    return np.stack(
        [np.column_stack([100 + swing, 50 + 0.5 * swing]), np.column_stack([swing, 0 * swing])], axis=1
    )


@pytest.mark.parametrize("frames_late", [0.0, 0.5, 1.0, -1.0])
def test_lag(frames_late: float) -> None:
    wrong = smoothing.measure(path(frames_late), path(), np.ones(2, bool), 200.0)
    assert wrong.behind / wrong.speed_squared == pytest.approx(frames_late / FPS, abs=0.002)


def test_an_offset_is_an_error_and_no_jitter() -> None:
    wrong = smoothing.measure(path() + (3.0, 4.0), path(), np.array([True, False]), 100.0)
    np.testing.assert_allclose(wrong.error, 0.05)
    np.testing.assert_allclose(wrong.jitter, 0, atol=1e-12)
    assert len(wrong.error) == FRAMES - smoothing.SETTLED


def test_what_goes_to_and_fro_is_jitter() -> None:
    found = path() + np.where(np.arange(FRAMES) % 2, 1.0, -1.0)[:, None, None] * (1.0, 0.0)
    wrong = smoothing.measure(found, path(), np.ones(2, bool), 100.0)
    np.testing.assert_allclose(wrong.jitter, 0.04)


@pytest.mark.parametrize("speed", smoothing.PANS.values())
def test_the_picture_and_the_truth_move_together(speed: float, tmp_path: Path) -> None:
    """A bright square around a joint is where the joint is said to be."""
    picture = np.zeros((240, 320, 3), np.uint8)
    picture[98:103, 148:153] = 255
    cv2.imwrite(str(tmp_path / "one.png"), picture)
    joints = np.full((1, 14, 2), (150.5, 100.5))
    everywhere = np.ones((1, 14), bool)
    ids = np.ones(1, np.int64)
    persons = PersonTable(
        skeleton=LSP14, images=(tmp_path / "one.png",), boxes=np.array([[120.0, 60, 180, 160]]),
        joints=joints, labelled=everywhere, known=everywhere, areas=np.array([6000.0]),
        image_ids=ids, annotation_ids=ids,
    )  # fmt: skip
    shifts = []
    for image, box, truth in smoothing.video(persons, 0, speed):
        bright = (image.astype(float) - 60).clip(0).sum(axis=2)
        rows, columns = np.mgrid[:240, :320] + 0.5
        middle = np.array([(bright * columns).sum(), (bright * rows).sum()]) / bright.sum()
        np.testing.assert_allclose(middle, truth[3], atol=0.5)
        np.testing.assert_allclose(box, np.tile(truth[0] - joints[0, 0], 2) + persons.boxes[0], atol=8.0)
        shifts.append(truth[0])
    steps = np.linalg.norm(np.diff(shifts, axis=0), axis=1) * FPS / 100
    assert steps.max() == pytest.approx(speed, abs=0.13)  # in boxes a second; the rest is tremor
