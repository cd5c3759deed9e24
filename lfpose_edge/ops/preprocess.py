"""Crop, resample, normalise and transpose in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lfpose_edge import _core


def preprocess(
    image: NDArray[np.uint8],
    affines: NDArray[np.float64],
    size: tuple[int, int],
    *,
    swap_rb: bool = False,
    mean: Sequence[float] = (0, 0, 0),
    std: Sequence[float] = (1, 1, 1),
    border: Sequence[float] = (0, 0, 0),
    dtype: DTypeLike = np.float32,
    threads: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Cut crops out of an image, each the network's input for one person.

    Sampling is bilinear, without antialiasing. Crop pixel (x, y) is the image at
    ``A @ (x + 0.5, y + 0.5, 1)``, in the continuous coordinates of :mod:`lfpose_edge.geometry`.

    Args:
        image: uint8, (H, W) or (H, W, 1) grey, (H, W, 3), or (H, W, 4) whose last channel is ignored. Any
            row stride is read without a copy. Grey is repeated to three channels.
        affines: (N, 2, 3) float64, crop to image coordinates.
        size: crop ``(height, width)``.
        swap_rb: reverse the order of the channels, BGR to RGB or back.
        mean: grey levels to subtract, in the *output's* channel order.
        std: grey levels to divide by, in the output's channel order.
        border: grey levels outside the image, in the *image's* channel order.
        dtype: float32, or uint8 for rounded crops that are not normalised.
        threads: number of crops made at once.
        out: array to write to, of the result's shape and dtype: C-contiguous, or channels-last, that is a
            C-contiguous (N, height, width, 3) array viewed through ``.transpose(0, 3, 1, 2)``.

    Returns:
        (N, 3, height, width) of ``dtype``; ``out`` if it was given.

    Raises:
        TypeError: an argument is not an array, or has the wrong dtype.
        ValueError: a shape is wrong, an affine is not finite, or a std is zero.
    """
    return _core.preprocess(image, affines, size, swap_rb, mean, std, border, dtype, threads, out)
