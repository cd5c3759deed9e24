"""PoseEstimator: images in, poses out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lfpose_edge import ops
from lfpose_edge.arguments import check_choice, check_count, check_number, writable_folder
from lfpose_edge.backends import Backend, Request, load_backend
from lfpose_edge.backends.base import require_maps
from lfpose_edge.bundle import Bundle
from lfpose_edge.detection import Detector, resolve_detector
from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.geometry import clip_boxes, crop_affines
from lfpose_edge.leaving import CALLS
from lfpose_edge.pipeline import Stages, cut, open_pipeline
from lfpose_edge.results import ActivationMaps, DevicePoses, PoseResult, StageTimings
from lfpose_edge.skeleton import Skeleton
from lfpose_edge.sources import (
    Color,
    Frame,
    Image,
    frames,
    image_size,
    load_image,
    on_gpu,
    packed,
    packed_order,
)
from lfpose_edge.streaming import in_turn, without_frames
from lfpose_edge.tracking import PoseTracker
from lfpose_edge.zoo import bundle_path

logger = logging.getLogger("lfpose_edge")

Floats = NDArray[np.float32]


class PoseEstimator:
    """Finds the joints of the people in images.

    >>> pose = PoseEstimator()
    >>> result = pose("photo.jpg")
    >>> result.keypoints.shape
    (1, 14, 2)

    An estimator may be called from several threads at once. It is a context manager; ``close`` frees
    its engine.

    Args:
        model: the name of a shipped model, or the folder of a bundle.
        backend: ``auto`` (the best one available here; the log says which and why), ``tensorrt``,
            ``tensorrt_rtx``, ``openvino``, ``onnxruntime`` or ``torch_tensorrt``, which ``auto`` never picks.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` (INT8 where the bundle has it and the machine runs it fast), ``fp32``, ``bf16``,
            ``fp16`` or ``int8``; each engine supports some of them.
        detector: finds the people when no boxes are given. None treats the whole image as one person; a
            callable takes the image, (H, W, 3) in the order of ``color``, and returns boxes (N, 4)
            x1, y1, x2, y2 or (boxes, scores); a path or a zoo name loads an ONNX detector of the YOLOX
            family.
        color: channel order of the arrays given to the estimator and its detector: ``bgr``, ``rgb``, or
            ``nv12`` for frames (3 H / 2, W) as Jetson cameras deliver them; the detector gets those as BGR.
        max_batch: maximum number of crops that go through the network at once.
        threads: number of CPU threads; None uses all cores.
        presence_threshold: joints with a lower presence count as absent; None uses the model's threshold.
        cache_dir: folder for compiled models and downloaded detectors. With None, downloads and TensorRT
            engines (slow to build: minutes) go to the user's cache folder; others are compiled each time.

    Raises:
        BundleError: the model does not exist, is damaged or inconsistent, or lacks the precision.
        BackendUnavailable: the backend, device or precision is not available here.
        TypeError, ValueError: an argument has the wrong type or is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "lfpose-lite",
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        detector: str | os.PathLike[str] | Detector | None = None,
        color: Color = "bgr",
        max_batch: int = 16,
        threads: int | None = None,
        presence_threshold: float | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        check_choice("color", color, ("bgr", "rgb", "nv12"))
        check_choice("precision", precision, ("auto", "fp32", "bf16", "fp16", "int8"))
        check_count("max_batch", max_batch)
        if threads is not None:
            check_count("threads", threads)
        if presence_threshold is not None:
            check_number("presence_threshold", presence_threshold, 0, 1)
        cache = None if cache_dir is None else writable_folder("cache_dir", cache_dir)

        self._bundle = Bundle.open(bundle_path(model))
        manifest = self._bundle.manifest
        self._input, self._decode = manifest.input, manifest.decode
        self._color: Color = color
        self._swap = packed_order(color) != self._input.color
        joints, rows, columns = manifest.cams_shape
        self._stages = Stages(
            size=self._input.size,
            joints=joints,
            cells=(rows, columns),
            color=color,
            swap_rb=self._swap,
            mean=self._input.mean,
            std=self._input.std,
            border=self._input.border[::-1] if self._swap else self._input.border,
            decode=ops.DecodeConfig.of(self._decode),
            max_batch=max_batch,
            threads=threads or os.cpu_count() or 1,
        )
        self._presence_threshold = (
            self._decode.presence_threshold if presence_threshold is None else presence_threshold
        )
        request = Request(device, precision, threads, cache, max_batch)
        with CALLS:
            self._detector = resolve_detector(
                detector, color=packed_order(color), cache_dir=cache, threads=threads
            )
            self._backend = load_backend(self._bundle, backend, request, self._prepare)
        self._closed = False

    @overload
    def __call__(
        self, image: object, boxes: ArrayLike | None = None, *, to: Literal["host"] = "host"
    ) -> PoseResult: ...

    @overload
    def __call__(
        self, image: object, boxes: ArrayLike | None = None, *, to: Literal["device"]
    ) -> DevicePoses: ...

    def __call__(
        self, image: object, boxes: ArrayLike | None = None, *, to: Literal["host", "device"] = "host"
    ) -> PoseResult | DevicePoses:
        """Find the poses in one image.

        Args:
            image: uint8 array (H, W, 3) in the estimator's colour order, (H, W) or (H, W, 1) grey, or
                (H, W, 4) with alpha, which is ignored; (3 H / 2, W) with the colour ``nv12``; or a path or
                the bytes of an encoded image, which is oriented by its EXIF entry. With a GPU backend,
                an array in GPU memory (torch, CuPy or any other with DLPack) is read in place.
            boxes: (N, 4) or (4,) x1, y1, x2, y2 in pixels, one per person. They are cropped unclipped, as in
                training; the result holds them clipped to the image. None runs the detector, or treats the
                whole image as one person.
            to: ``host``, or ``device`` to leave the poses in GPU memory.

        Returns:
            The poses, as :class:`DevicePoses` with ``to="device"``.

        Raises:
            TypeError: the image is none of these, or an array is not uint8.
            SourceError: the image is missing, empty, truncated or not an image.
            ValueError: a box is not finite, or has no area inside the image; the message gives its index.
            BackendUnavailable: the poses should stay on a GPU, but the backend does not run on one.
        """
        check_choice("to", to, ("host", "device"))
        started = perf_counter()
        array = load_image(image, self._color)
        read_ms = 0.0 if array is image else (perf_counter() - started) * 1e3
        with CALLS:
            result = self._begin(array, boxes, stay=to == "device")()
        return replace(result, timings=replace(result.timings, read_ms=read_ms))

    def predict(
        self, images: Iterable[object], boxes: Iterable[ArrayLike | None] | None = None
    ) -> list[PoseResult]:
        """Find the poses in several images; ``boxes`` has one entry per image, each as in a call.

        Returns:
            One result per image, in order.

        Raises:
            TypeError, SourceError, ValueError: as in a call; ``images`` is one image; the lengths differ.
        """
        if isinstance(images, str | bytes | os.PathLike) or (
            (isinstance(images, np.ndarray) or on_gpu(images)) and len(getattr(images, "shape", ())) < 4
        ):
            message = "predict takes several images, in a list; for one image call the estimator itself"
            raise TypeError(message)
        given = list(images)
        per_image: list[ArrayLike | None] = [None] * len(given) if boxes is None else list(boxes)
        if len(per_image) != len(given):
            message = f"boxes must have one entry for each of the {len(given)} images, got {len(per_image)}"
            raise ValueError(message)
        return [self(image, b) for image, b in zip(given, per_image, strict=True)]

    @overload
    def stream(
        self,
        source: object,
        *,
        latest: bool = False,
        tracker: PoseTracker | None = None,
        with_frames: Literal[False] = False,
    ) -> Iterator[PoseResult]: ...

    @overload
    def stream(
        self,
        source: object,
        *,
        latest: bool = False,
        tracker: PoseTracker | None = None,
        with_frames: Literal[True],
    ) -> Iterator[tuple[Frame, PoseResult]]: ...

    def stream(
        self,
        source: object,
        *,
        latest: bool = False,
        tracker: PoseTracker | None = None,
        with_frames: bool = False,
    ) -> Iterator[PoseResult] | Iterator[tuple[Frame, PoseResult]]:
        """Find the poses in every frame of a source, one result at a time.

        Args:
            source: a video or image file, a folder, a glob pattern, a camera's number, a stream's URL, or
                an iterable of images, as for :func:`lfpose_edge.frames`.
            latest: always process the newest frame of a camera or stream, as for that function.
            tracker: assigns track ids to the persons across frames, and smooths the joints.
            with_frames: yield ``(frame, result)``; the frame holds the image, its name, index and time.

        Raises:
            TypeError, SourceError: as :func:`lfpose_edge.frames`.
            ValueError: the tracker has already seen a later time, for example from another source.
        """
        if tracker is not None and (isinstance(tracker, type) or not callable(tracker)):
            message = f"tracker takes a PoseTracker(), got {tracker!r:.80}"
            raise TypeError(message)
        found = in_turn(
            frames(source, self._color, latest=latest),
            lambda frame: self._begin(frame.image, None, stay=False),
            0 if latest else self._pipeline.ahead,
            tracker,
        )
        return found if with_frames else without_frames(found)

    def activation_maps(self, image: object, boxes: ArrayLike | None = None) -> ActivationMaps:
        """Compute the maps that a call would decode poses from, to inspect them or decode them differently.

        Args:
            image, boxes: as in a call; without boxes the whole image is one person.

        Raises:
            TypeError, SourceError, ValueError: as in a call; the image is in GPU memory.
        """
        self._check_open()
        array = load_image(image, self._color)
        if on_gpu(array):
            message = "activation maps are made of images in the host's memory: give image.cpu()"
            raise TypeError(message)
        height, width = image_size(array, self._color)
        chosen = [0, 0, width, height] if boxes is None else boxes
        clip_boxes(chosen, (height, width))  # only to validate them
        affines = crop_affines(chosen, self._input.size, padding=self._input.padding)
        joints = self._stages.joints
        cams = np.empty((len(affines), joints, *self._stages.cells), np.float32)
        presence = np.empty((len(affines), joints), np.float32)
        for first in range(0, len(affines), self._stages.max_batch):
            part = slice(first, first + self._stages.max_batch)
            with CALLS:
                cams[part], presence[part] = self._backend.infer(cut(array, affines[part], self._stages))
        return ActivationMaps(cams, presence, affines, self._input.size)

    def describe(self) -> dict[str, Any]:
        """Describe the model, the backend with its device and precision, and the main settings."""
        manifest = self._bundle.manifest
        return {
            "model": manifest.name,
            "version": manifest.version,
            "path": str(self._bundle.path),
            "skeleton": self._bundle.skeleton.name,
            "input_size": list(self._input.size),
            "backend": self._backend.description,
            "decode": self._decode.method,
            "threads": self._stages.threads,
            "max_batch": self._stages.max_batch,
        }

    def __repr__(self) -> str:
        model = self._bundle.manifest
        return f"<PoseEstimator: {model.name} {model.version} on {self._backend.description}>"

    @property
    def skeleton(self) -> Skeleton:
        """The joints of the model."""
        return self._bundle.skeleton

    def close(self) -> None:
        """Free the engine and the detector; using the estimator afterwards raises RuntimeError."""
        if not self._closed:
            self._closed = True
            self._detector = None  # a call in progress gets no further than the closed pipeline
            with CALLS:
                try:
                    self._pipeline.close()
                finally:
                    self._backend.close()

    def __enter__(self) -> PoseEstimator:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        try:
            self.close()
        except BackendUnavailable as error:
            if kind is None:
                raise
            logger.warning("closing after %s: %s", kind.__name__, error)  # do not mask the original error
        return False

    def _check_open(self) -> None:
        if self._closed:
            message = "this PoseEstimator is closed"
            raise RuntimeError(message)

    def _prepare(self, backend: Backend) -> None:
        """Run the network once and open the pipeline; if this fails, ``auto`` still tries other backends."""
        require_maps(backend, self._bundle)
        self._pipeline = open_pipeline(backend, self._stages)

    def _begin(
        self, image: Image, given: ArrayLike | None, *, stay: bool
    ) -> Callable[[], PoseResult | DevicePoses]:
        """Start processing an image; the returned function waits for the result and is called once."""
        detector = self._detector
        self._check_open()
        who = self._backend.description
        if stay and not self._pipeline.on_gpu:
            message = f"{who} runs on no GPU where poses could stay: leave out to='device'"
            raise BackendUnavailable(message)
        if on_gpu(image) and not (self._pipeline.on_gpu and (given is not None or not detector)):
            what = "a detector" if self._pipeline.on_gpu else who
            message = (
                f"the image is in a GPU's memory, and {what} reads the host's: give boxes, or image.cpu()"
            )
            raise TypeError(message)
        height, width = image_size(image, self._color)
        t0 = perf_counter()
        if given is not None:
            cut_out, box_scores = given, None
        elif detector is not None:
            cut_out, box_scores = detector(packed(image, self._color))
        else:
            cut_out, box_scores = np.array([[0, 0, width, height]], np.float32), None
        boxes = clip_boxes(cut_out, (height, width))
        if box_scores is None:
            box_scores = np.ones(len(boxes), np.float32)
        detect_ms = (perf_counter() - t0) * 1e3 if given is None else 0.0

        skeleton = self._bundle.skeleton
        common: dict[str, Any] = {
            "backend": self._backend.description,
            "presence_threshold": self._presence_threshold,
        }
        if len(boxes) == 0 and not stay:
            timings = StageTimings(detect_ms=detect_ms)
            empty = PoseResult.empty(skeleton, (height, width), timings=timings, **common)
            return lambda: empty

        # The crops are made from the unclipped boxes: clipping would change their scale.
        affines = crop_affines(cut_out, self._input.size, padding=self._input.padding)
        wait = self._pipeline.submit(image, affines, stay=stay)

        def finish() -> PoseResult | DevicePoses:
            located = wait()
            return (DevicePoses if stay else PoseResult)(
                located.keypoints,
                located.scores,
                located.presence,
                boxes,
                box_scores,
                skeleton,
                (height, width),
                timings=StageTimings(
                    0.0, detect_ms, located.preprocess_ms, located.infer_ms, located.decode_ms
                ),
                **common,
            )

        return finish
