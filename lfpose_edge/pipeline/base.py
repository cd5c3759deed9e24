"""What every pipeline offers."""

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
        joints: K.
        cells: CAM height and width.
        color: of the images.
        swap_rb: whether the network's channel order is not the (packed) image's.
        mean, std: in the network's channel order.
        border: grey levels outside the image, in the image's channel order.
        decode: how joints are found in CAMs.
        max_batch: most crops that go through the network at once.
        threads: of the CPU.
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
    """The joints of a frame's persons, and where the time went.

    Attributes:
        keypoints: (N, K, 2) float32, image pixels; a DeviceArray where the joints were to stay on the GPU, as
            are the other two.
        scores, presence: (N, K) float32 in [0, 1].
        preprocess_ms, infer_ms, decode_ms: wall-clock milliseconds. On a GPU the stages are one launch: the
            first is then the time to hand it over, the second the wait for its end, the third 0.
    """

    keypoints: Any
    scores: Any
    presence: Any
    preprocess_ms: float
    infer_ms: float
    decode_ms: float


def cut(image: Any, affines: Affines, stages: Stages, out: Floats | None = None) -> Floats:
    """The crops of an image, on the CPU, as the network takes them: (N, 3, H, W) float32."""
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
    """The way of a frame. Its methods may be called from several threads at once.

    Attributes:
        ahead: how many frames should be submitted before the first one is waited for.
        on_gpu: whether images may lie in a GPU's memory, and joints stay there.
    """

    ahead: int
    on_gpu: bool

    def submit(self, image: Any, affines: Affines, *, stay: bool = False) -> Callable[[], Located]:
        """Start to work on a frame.

        Args:
            image: uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or (3 H / 2, W) where the colour is nv12.
            affines: (N, 2, 3) float64, crop to image coordinates; N is 0 only with ``stay``.
            stay: leave the joints on the GPU; nothing then waits until they are there.

        Returns:
            A function to be called once, which waits for the joints. Until then the frame holds memory of
            the pipeline; the image may be changed.
        """
        ...

    def close(self) -> None:
        """Free the pipeline's memory, not the engine."""
        ...
