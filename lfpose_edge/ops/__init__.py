"""The two kernels around the network: crops in, joints out.

`reference.py` specifies them; the C++ extension `_core` runs them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lfpose_edge import _core
from lfpose_edge.ops.config import DecodeConfig, Method

__all__ = ["DecodeConfig", "Method", "decode", "preprocess"]

Floats = NDArray[np.float32]
Triple = tuple[float, float, float]


def preprocess(
    image: NDArray[np.uint8],
    affines: NDArray[np.float64],
    size: tuple[int, int],
    *,
    swap_rb: bool = False,
    mean: Triple = (0.0, 0.0, 0.0),
    std: Triple = (1.0, 1.0, 1.0),
    border: Triple = (0.0, 0.0, 0.0),
    dtype: Any = np.float32,
    threads: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Cut crops out of an image, sampled bilinearly, normalised and laid out for a network, in one pass.

    Args:
        image: uint8, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), whose fourth channel is ignored; grey is
            repeated to three channels.
        affines: (N, 2, 3) float64, crop to image coordinates (see :mod:`lfpose_edge.geometry`).
        size: crop (height, width).
        swap_rb: whether the crop's channel order is the reverse of the image's.
        mean, std: (value - mean) / std, grey levels, in the crop's channel order; not for uint8 crops.
        border: grey levels outside the image, in the image's channel order.
        dtype: float32, or uint8 (rounded half up).
        threads: crops are shared among so many.
        out: where to write, C-contiguous, of the result's shape and dtype; None makes a new array.

    Returns:
        (N, 3, height, width) of ``dtype``.

    Raises:
        TypeError: an array has another dtype.
        ValueError: a shape or a value is not as said.
    """
    return _core.preprocess(
        np.asarray(image),
        np.asarray(affines),
        (int(size[0]), int(size[1])),
        swap_rb=swap_rb,
        mean=mean,
        std=std,
        border=border,
        dtype=dtype,
        threads=threads,
        out=out,
    )


def decode(
    cams: Floats,
    presence: Floats,
    affines: NDArray[np.float64],
    config: DecodeConfig,
    *,
    flipped: Floats | None = None,
    flip_permutation: ArrayLike | None = None,
    threads: int = 1,
) -> tuple[Floats, Floats, Floats]:
    """Turn class activation maps into joints: virtual upsampling, peak, refinement, inverse crop.

    The result is that of upsampling every map bilinearly by ``config.upsample`` and taking the first
    largest value, refined as ``config.method`` says; the upsampled map is never written.

    Args:
        cams: (N, K, h, w) float32 logits; NaN never wins, infinities are cut to +-1e4.
        presence: (N, K) float32 logits.
        affines: (N, 2, 3) float64, crop to image coordinates.
        config: the constants.
        flipped: (N, K, h, w), the network's maps of the mirrored crops, to be averaged with ``cams``.
        flip_permutation: (K,) each joint's mirror joint; goes with ``flipped``.
        threads: maps are shared among so many.

    Returns:
        keypoints (N, K, 2) float32, image pixels, continuous; scores (N, K) float32, the logistic of the
        peak; presence (N, K) float32, in [0, 1].

    Raises:
        TypeError: an array has another dtype.
        ValueError: a shape or a value is not as said.
    """
    return _core.decode(
        np.asarray(cams),
        np.asarray(presence),
        np.asarray(affines),
        stride=config.stride,
        upsample=config.upsample,
        method=config.method,
        blur_sigma=config.blur_sigma,
        window=config.window,
        flipped=flipped,
        flip_permutation=None if flip_permutation is None else np.asarray(flip_permutation, np.int64),
        threads=threads,
    )
