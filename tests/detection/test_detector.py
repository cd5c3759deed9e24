"""Detectors of one's own: what they may return, what they are shown, and how they are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lfpose_edge.detection import resolve_detector
from lfpose_edge.errors import BundleError
from lfpose_edge.geometry import FAR_PX

IMAGE = np.zeros((100, 200, 3), np.uint8)
TWO = [[10, 20, 50, 90], [60, 0, 190, 100]]


def answering(answer: Any) -> Any:
    """A detector that always gives this answer."""

    def my_detector(image: NDArray[np.uint8]) -> Any:
        return answer

    return resolve_detector(my_detector)


def test_none_is_no_detector() -> None:
    assert resolve_detector(None) is None


@pytest.mark.parametrize(
    ("answer", "boxes", "scores"),
    [
        pytest.param(TWO, TWO, [1, 1], id="list of boxes"),
        pytest.param(np.array(TWO, np.float64), TWO, [1, 1], id="array of boxes"),
        pytest.param((TWO, [0.5, 0.25]), TWO, [0.5, 0.25], id="boxes and scores"),
        pytest.param((np.array(TWO), np.array([0.0, 1.0])), TWO, [0, 1], id="arrays, scores at the ends"),
        pytest.param([], [], [], id="nobody, a list"),
        pytest.param(np.zeros((0, 4)), [], [], id="nobody, an array"),
        pytest.param(([], []), [], [], id="nobody, with scores"),
        pytest.param(tuple(TWO), TWO, [1, 1], id="tuple of two boxes"),
        pytest.param((TWO[0],) * 3, [TWO[0]] * 3, [1] * 3, id="tuple of three boxes"),
        pytest.param(([TWO[0]] * 4, [1, 0, 1, 0]), [TWO[0]] * 4, [1, 0, 1, 0], id="four boxes and scores"),
        pytest.param([[-10, -5, 50, 300]], [[-10, -5, 50, 300]], [1], id="beyond the image: as it is"),
        pytest.param([[-1e9, 0, 50, 9]], [[-FAR_PX, 0, 50, 9]], [1], id="far beyond the image"),
        pytest.param(
            ([[-9, 0, -2, 9], TWO[0]], [0.9, 0.5]), TWO[:1], [0.5], id="outside the image: left out"
        ),
    ],
)
def test_answers_get_one_form(answer: Any, boxes: Any, scores: Any) -> None:
    got_boxes, got_scores = answering(answer)(IMAGE)
    np.testing.assert_array_equal(got_boxes, np.reshape(boxes, (-1, 4)))
    np.testing.assert_array_equal(got_scores, scores)
    assert got_boxes.shape == (len(scores), 4)
    assert got_boxes.dtype == got_scores.dtype == np.float32


def test_the_detectors_own_array_is_not_handed_on() -> None:
    own = np.array(TWO, np.float32)
    boxes, _ = answering(own)(IMAGE)
    assert not np.shares_memory(boxes, own)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        pytest.param(None, (TypeError, ValueError), "'my_detector' gave boxes", id="nothing returned"),
        pytest.param("boxes", TypeError, "not an array of numbers, but str", id="text"),
        pytest.param({"boxes": TWO}, TypeError, "but dict", id="dict"),
        pytest.param([[1, 2, 3, 4], [5, 6]], TypeError, "but list", id="ragged"),
        pytest.param([10, 20, 50, 90], ValueError, r"shape \(4,\), expected \(N, 4\)", id="one box, no axis"),
        pytest.param(np.ones((2, 5)), ValueError, r"shape \(2, 5\).*\(boxes, scores\)", id="fifth column"),
        pytest.param([[10, 20, np.nan, 90]], ValueError, "box 0, .* is not finite", id="NaN"),
        pytest.param([[0, 0, np.inf, 9]], ValueError, "is not finite", id="infinite"),
        pytest.param([[0, 0, 1e99, 9]], ValueError, "is not finite", id="beyond float32"),
        pytest.param(
            [TWO[0], [120, 20, 50, 70]], ValueError, "box 1, .* has no area", id="x, y, width, height"
        ),
        pytest.param(
            (TWO, [0.5]), ValueError, r"scores of shape \(1,\), expected \(2,\)", id="score missing"
        ),
        pytest.param((TWO, [0.5, 87]), ValueError, r"box 1 the score 87.0.*\[0, 1\]", id="per cent"),
        pytest.param((TWO, [np.nan, 1]), ValueError, "box 0 the score nan", id="score NaN"),
        pytest.param((TWO, "high"), TypeError, "gave scores .* but str", id="scores as text"),
    ],
)
def test_wrong_answers_are_named(answer: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        answering(answer)(IMAGE)
    assert "\n" not in str(caught.value)


def test_an_object_is_named_by_its_class() -> None:
    class Tracker:
        def __call__(self, image: NDArray[np.uint8]) -> list[int]:
            return [1]

    with pytest.raises(ValueError, match="detector 'Tracker' gave boxes"):
        resolve_detector(Tracker())(IMAGE)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((8, 9), "repeated"), ((8, 9, 1), "repeated"), ((8, 9, 3), "kept"), ((8, 9, 4), "first three")],
)
def test_it_is_shown_three_channels(shape: tuple[int, ...], channels: str) -> None:
    seen = []

    def look(image: NDArray[np.uint8]) -> list[Any]:
        seen.append(image)
        return []

    image = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    resolve_detector(look)(image)  # type: ignore[misc]
    assert seen[0].shape == (8, 9, 3)
    assert seen[0].flags.c_contiguous
    expected = image.reshape(8, 9, 1) if channels == "repeated" else image[..., :3]
    np.testing.assert_array_equal(seen[0], np.broadcast_to(expected, (8, 9, 3)))


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        pytest.param("yolox-nanno", BundleError, "did you mean 'yolox-nano'", id="zoo name misspelt"),
        pytest.param(Path("no/such/file.onnx"), BundleError, "no/such/file.onnx", id="no such file"),
        pytest.param(7, TypeError, "None, a callable, a path or a zoo name, got int", id="a number"),
    ],
)
def test_unknown_detectors(spec: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        resolve_detector(spec)
