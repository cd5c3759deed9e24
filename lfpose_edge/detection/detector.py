"""The protocol of person detectors, and how an argument is resolved to one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lfpose_edge.detection.yolox import YoloxDetector
from lfpose_edge.geometry import FAR_PX
from lfpose_edge.opencv import cv2

Floats = NDArray[np.float32]


class Detector(Protocol):
    """Any callable that finds the persons in an image."""

    def __call__(self, image: NDArray[np.uint8], /) -> tuple[ArrayLike, ArrayLike] | ArrayLike:
        """Find the persons.

        Args:
            image: (H, W, 3) uint8, in the colour order of the calling estimator.

        Returns:
            Boxes (N, 4) x1, y1, x2, y2 in pixels of the image, which may reach beyond it; or a tuple of
            such boxes and their scores (N,) in [0, 1]. N may be 0.
        """
        ...


class CheckedDetector:
    """Wraps a user's detector to validate its results and bring them into one form.

    Args:
        detector: the detector to wrap.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._who = f"detector {getattr(detector, '__name__', type(detector).__name__)!r}"

    def __call__(self, image: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Find the persons in an image (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8.

        Returns:
            Boxes (N, 4) float32 x1, y1, x2, y2, not clipped to the image, and scores (N,) float32, which are
            1 if the detector returns none. Boxes wholly outside the image are dropped: trackers predict
            such boxes for people who walk out of the frame.

        Raises:
            TypeError: the detector's result is not made of numbers.
            ValueError: the result has the wrong shape, a box is not finite or has no area, or a score is
                outside [0, 1].
        """
        answer = self._detector(_three_channels(image))
        if isinstance(answer, tuple) and len(answer) == 2 and not all(map(_is_one_box, answer)):
            boxes = self._boxes(answer[0])
            scores = self._scores(answer[1], len(boxes))
        else:
            boxes = self._boxes(answer)
            scores = np.ones(len(boxes), np.float32)
        height, width = image.shape[:2]
        clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        return np.clip(boxes[inside], -FAR_PX, FAR_PX), scores[inside]

    def _boxes(self, given: object) -> Floats:
        boxes = self._numbers("boxes", given)
        if boxes.shape == (0,):  # an empty list
            return boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            message = f"{self._who} gave boxes of shape {boxes.shape}, expected (N, 4): x1, y1, x2, y2"
            if boxes.ndim == 2 and boxes.shape[1] > 4:
                message += "; scores stand beside them: (boxes, scores)"
            raise ValueError(message)
        finite = np.isfinite(boxes).all(axis=1)
        # A common mistake is width and height instead of the second corner; it must not pass as "no persons".
        sound = finite & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        for i in np.flatnonzero(~sound)[:1].tolist():
            why = "has no area" if np.isfinite(boxes[i]).all() else "is not finite"
            message = f"{self._who} gave box {i}, {boxes[i].tolist()}, which {why}; expected x1, y1, x2, y2"
            raise ValueError(message)
        return boxes

    def _scores(self, given: object, n: int) -> Floats:
        scores = self._numbers("scores", given)
        if scores.shape != (n,):
            message = f"{self._who} gave scores of shape {scores.shape}, expected ({n},): one for each box"
            raise ValueError(message)
        good = (scores >= 0) & (scores <= 1)  # False for NaN
        for i in np.flatnonzero(~good)[:1].tolist():
            message = f"{self._who} gave box {i} the score {scores[i]}, expected a value in [0, 1]"
            raise ValueError(message)
        return scores

    def _numbers(self, what: str, given: object) -> Floats:
        try:
            with np.errstate(over="ignore"):  # overflow gives infinity, which is reported later
                return np.array(given, np.float32)
        except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a torch tensor requiring grad
            message = (
                f"{self._who} gave {what} that are not an array of numbers, but {type(given).__name__}; "
                "return boxes (N, 4), or a tuple (boxes, scores)"
            )
            raise TypeError(message) from error


def resolve_detector(
    spec: str | os.PathLike[str] | Detector | None,
    *,
    color: Literal["bgr", "rgb"] = "bgr",
    cache_dir: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> CheckedDetector | YoloxDetector | None:
    """Resolve a user's ``detector`` argument.

    Args:
        spec: None for no detector (the whole image is one person); a callable, see :class:`Detector`; the
            path of an ONNX file of the YOLOX family, or the name of one in the zoo.
        color: channel order of the images that the detector will get.
        cache_dir: folder for downloaded detectors; None is the user's cache folder.
        threads: CPU threads of a detector that is loaded here; None uses all cores.

    Returns:
        The detector, or None.

    Raises:
        BundleError: there is no such file or name, or the file is not a YOLOX detector.
        TypeError: ``spec`` is none of these.
        ValueError: ``spec`` is a :class:`YoloxDetector` of the other colour order.
    """
    if spec is None:
        return None
    if isinstance(spec, YoloxDetector):
        if spec.color != color:
            message = (
                f"the detector takes {spec.color} images, not {color}: YoloxDetector(..., color={color!r})"
            )
            raise ValueError(message)
        return spec
    if isinstance(spec, str | os.PathLike):
        from lfpose_edge.zoo import detector_path

        path = detector_path(spec, None if cache_dir is None else Path(cache_dir))
        return YoloxDetector(path, color=color, threads=threads)
    if callable(spec):
        return CheckedDetector(spec)
    message = f"a detector is None, a callable, a path or a zoo name, got {type(spec).__name__}"
    raise TypeError(message)


def _is_one_box(part: Any) -> bool:
    """Whether an item of a pair is a single box, rather than all boxes or all scores."""
    try:
        return bool(np.shape(part) == (4,))
    except (TypeError, ValueError):
        return False


def _three_channels(image: NDArray[np.uint8]) -> NDArray[Any]:
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return image if image.shape[2] == 3 else np.ascontiguousarray(image[..., :3])
