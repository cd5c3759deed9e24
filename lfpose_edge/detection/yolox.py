"""Person detection by a YOLOX network in ONNX Runtime (Ge et al., "YOLOX: Exceeding YOLO Series in 2021")."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lfpose_edge import ops
from lfpose_edge.arguments import check_count, check_number
from lfpose_edge.backends import onnxruntime
from lfpose_edge.errors import BackendUnavailable, BundleError
from lfpose_edge.geometry import apply_affine, letterbox_affine
from lfpose_edge.opencv import cv2

Floats = NDArray[np.float32]

STRIDES = (8, 16, 32)
_PADDING = (114, 114, 114)  # the grey of YOLOX's training letterbox
_MAX_LOG_EXTENT = 10.0  # e^10 strides: wider than any image, and far from overflow


class YoloxDetector:
    """Finds persons with a YOLOX model in its plain ONNX form (boxes not decoded inside the network).

    Networks may have any size, with COCO's 80 classes or with persons only; the input size and the number of
    classes are read from the file. A network takes BGR, 0 to 255, unnormalised, as YOLOX does since 0.1.1.
    A detector may be called from several threads at once.

    Args:
        model: the ONNX file.
        score_threshold: minimum objectness x class probability of a box.
        iou_threshold: of two boxes that overlap more than this, the one with the lower score is dropped.
        color: channel order of the images.
        threads: CPU threads; None uses all cores.
        person_class: the column of persons among the classes.

    Raises:
        BundleError: the file is not an ONNX model, or not a YOLOX network.
        BackendUnavailable: ONNX Runtime is not installed or does not start.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        score_threshold: float = 0.3,
        iou_threshold: float = 0.5,
        color: Literal["bgr", "rgb"] = "bgr",
        threads: int | None = None,
        person_class: int = 0,
    ) -> None:
        check_number("score_threshold", score_threshold, 0, 1)
        check_number("iou_threshold", iou_threshold, 0, 1)
        if threads is not None:
            check_count("threads", threads)
        if color not in ("bgr", "rgb"):
            message = f"color must be 'bgr' or 'rgb', got {color!r}"
            raise ValueError(message)
        self.color = color
        self._score_threshold = score_threshold
        self._iou_threshold = iou_threshold
        self._path = Path(model)
        self._session = _load(self._path, threads)
        self._input_name, self.input_size = self._read_input()
        self._grid, self._stride = _anchor_grid(self.input_size)

        # The declared output shape may contain names instead of numbers, so run the network to be certain.
        try:
            answer = self._run(np.zeros((1, 3, *self.input_size), np.float32))
        except Exception as error:  # onnxruntime's errors have no public common base class
            message = f"{self._path} is no YOLOX detector: it does not run on one image: {error}"
            raise BundleError(message) from error
        anchors, shape = len(self._grid), answer.shape
        if len(shape) != 3 or shape[:2] != (1, anchors) or shape[2] < 6:
            message = (
                f"{self._path} is no YOLOX detector: for its input of {self.input_size} the output must have "
                f"shape (1, {anchors}, 5 + classes), got {shape}; export with YOLOX's tools/export_onnx.py, "
                "or give a callable as the detector"
            )
            raise BundleError(message)
        if self._is_decoded(answer[0]):
            message = (
                f"{self._path} decodes its boxes itself, as tools/export_onnx.py has it with "
                "--decode_in_inference: export it without"
            )
            raise BundleError(message)
        self.num_classes = shape[2] - 5
        if isinstance(person_class, bool) or person_class not in range(self.num_classes):
            message = (
                f"person_class must be in [0, {self.num_classes - 1}] for {self._path}, got {person_class!r}"
            )
            raise ValueError(message)
        self._person_column = 5 + int(person_class)

    def __call__(self, image: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Find the persons in an image.

        Args:
            image: (H, W, 3) uint8 in the detector's colour order, (H, W) or (H, W, 1) grey, or (H, W, 4)
                with alpha, which is ignored.

        Returns:
            Boxes (N, 4) float32 x1, y1, x2, y2 in pixels, clipped to the image, and their scores (N,)
            float32 in [0, 1], highest first.
        """
        height, width = image.shape[:2]
        affine = letterbox_affine((height, width), self.input_size)
        crop = ops.preprocess(image, affine, self.input_size, swap_rb=self.color == "rgb", border=_PADDING)
        boxes, scores = self._decode(self._run(crop)[0])
        corners = apply_affine(affine[0], boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        clipped = np.clip(corners, 0, (width, height, width, height)).astype(np.float32)
        inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)  # not in the letterbox's padding
        return clipped[inside], scores[inside]

    def _decode(self, raw: Floats) -> tuple[Floats, Floats]:
        """Decode raw rows (A, 5 + C) to boxes (N, 4) in network input pixels and scores (N,), best first.

        A row is the centre's offset from its cell in strides, the logarithm of width and height in
        strides, objectness, and class probabilities (YOLOX, section 2.3 and ``decode_outputs``).
        """
        scores = raw[:, 4] * raw[:, self._person_column]
        chosen = np.flatnonzero(scores >= self._score_threshold)
        if chosen.size == 0:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        rows, scores, stride = raw[chosen], scores[chosen], self._stride[chosen]
        center = (rows[:, :2] + self._grid[chosen]) * stride
        extent = np.exp(np.minimum(rows[:, 2:4], _MAX_LOG_EXTENT)) * stride
        top_left = center - extent / 2
        xywh = np.concatenate([top_left, extent], axis=1)
        kept = np.asarray(cv2.dnn.NMSBoxes(xywh.tolist(), scores.tolist(), 0.0, self._iou_threshold), np.intp)
        return np.concatenate([top_left, top_left + extent], axis=1)[kept], scores[kept]

    def _is_decoded(self, raw: Floats) -> bool:
        """Whether rows hold centres in pixels, which follow the grid, not offsets of a cell or two."""
        center = raw[:, :2]
        return bool(np.median(np.abs(center / self._stride - self._grid)) < np.median(np.abs(center)))

    def _run(self, crop: Floats) -> Floats:
        output: Floats = self._session.run(None, {self._input_name: crop})[0]
        return output

    def _read_input(self) -> tuple[str, tuple[int, int]]:
        inputs = self._session.get_inputs()
        shape = list(inputs[0].shape)
        sound = (
            len(inputs) == 1
            and inputs[0].type == "tensor(float)"
            and len(shape) == 4
            and (shape[0] == 1 or not isinstance(shape[0], int))
            and shape[1] == 3
            and all(isinstance(side, int) and side % STRIDES[-1] == 0 for side in shape[2:])
        )
        if not sound:
            got = ", ".join(f"{given.name} {given.shape} of {given.type}" for given in inputs)
            message = (
                f"{self._path} is no YOLOX detector: it must have one float32 input (1, 3, height, width), "
                f"fixed, in multiples of {STRIDES[-1]}, got {got}; export it so"
            )
            raise BundleError(message)
        return inputs[0].name, (shape[2], shape[3])


def _load(path: Path, threads: int | None) -> Any:
    if reason := onnxruntime.unavailable():
        message = f"a YOLOX detector runs in ONNX Runtime: {reason}"
        raise BackendUnavailable(message)
    runtime = onnxruntime.start()
    if not path.is_file():
        message = f"no detector at {path}: give the path of a YOLOX ONNX file"
        raise BundleError(message)
    options = onnxruntime.session_options(threads)
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no public common base class
        message = f"onnxruntime {runtime.__version__} cannot load {path}: {error}"
        raise BundleError(message) from error


def _anchor_grid(size: tuple[int, int]) -> tuple[Floats, Floats]:
    """(x, y) indices (A, 2) and strides in pixels (A, 1) of all cells, level by level."""
    height, width = size
    cells, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)
