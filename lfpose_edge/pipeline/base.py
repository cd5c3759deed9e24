"""The interface of every pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lfpose_edge import ops
from lfpose_edge.sources import Color, packed

Floats = NDArray[np.float32]
Affines = NDArray[np.float64]


@dataclass(frozen=True)
class Stages:
    """The constants of the three stages.

    Attributes:
        size: crop height and width.
        joints: number of joints K.
        cells: CAM height and width.
        color: colour order of the images.
        swap_rb: whether the network's channel order differs from the (packed) image's.
        mean, std: normalisation, in the network's channel order.
        border: grey levels outside the image, in the image's channel order.
        decode: how joints are found in CAMs.
        max_batch: maximum number of crops that go through the network at once.
        threads: number of CPU threads.
    """

    size: tuple[int, int]
    joints: int
    cells: tuple[int, int]
    color: Color
    swap_rb: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    border: tuple[float, ...]
    decode: ops.DecodeConfig
    max_batch: int
    threads: int


class Located(NamedTuple):
    """The joints of a frame's persons, and the stage timings.

    Attributes:
        keypoints: (N, K, 2) float32, image pixels. If the joints stay on the GPU, this and the next two are
            DeviceArrays.
        scores, presence: (N, K) float32 in [0, 1].
        preprocess_ms, infer_ms, decode_ms: wall-clock milliseconds. On a GPU the stages are one launch: the
            first is the time to submit it, the second the wait for its end, the third 0.
    """

    keypoints: Any
    scores: Any
    presence: Any
    preprocess_ms: float
    infer_ms: float
    decode_ms: float


def cut(image: Any, affines: Affines, stages: Stages, out: Floats | None = None) -> Floats:
    """Cut the crops out of an image on the CPU, as the network takes them: (N, 3, H, W) float32."""
    crops: Floats = ops.preprocess(
        packed(image, stages.color),
        affines,
        stages.size,
        swap_rb=stages.swap_rb,
        mean=stages.mean,
        std=stages.std,
        border=stages.border,
        threads=stages.threads,
        out=out,
    )
    return crops


class Pipeline(Protocol):
    """Turns frames into joints. Its methods may be called from several threads at once.

    Attributes:
        ahead: how many frames should be submitted before the first one is waited for.
        on_gpu: whether images may be in GPU memory, and joints may stay there.
    """

    ahead: int
    on_gpu: bool

    def submit(self, image: Any, affines: Affines, *, stay: bool = False) -> Callable[[], Located]:
        """Start processing a frame.

        Args:
            image: uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or (3 H / 2, W) if the colour is nv12.
            affines: (N, 2, 3) float64, crop to image coordinates; N is 0 only with ``stay``.
            stay: leave the joints on the GPU, without waiting until they are computed.

        Returns:
            A function, to be called once, that waits for the joints. Until then the frame holds memory of
            the pipeline, but the image may already be changed.
        """
        ...

    def close(self) -> None:
        """Free the pipeline's memory, but not the engine."""
        ...
