"""Upsample, find the peak, refine it and map it back to the image, in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lfpose_edge import _core
from lfpose_edge.ops.config import DecodeConfig

Floats = NDArray[np.float32]


def decode(
    cams: Floats,
    presence: Floats,
    affines: NDArray[np.float64],
    config: DecodeConfig,
    *,
    flipped: Floats | None = None,
    flip_permutation: Sequence[int] | NDArray[np.integer] | None = None,
    threads: int = 1,
) -> tuple[Floats, Floats, Floats]:
    """Turn CAMs into joints.

    The result is that of upsampling every CAM bilinearly by ``config.upsample``, taking the first maximum
    and refining it, but the upsampled map is never stored.

    Args:
        cams: (N, K, h, w) float32 logits, one map per joint. NaN counts as the lowest logit.
        presence: (N, K) float32 logits.
        affines: (N, 2, 3) float64, crop to image coordinates; the same as given to ``preprocess``.
        config: stride, upsampling and refinement.
        flipped: (N, K, h, w) float32, the CAMs of the mirrored crops; averaged with ``cams`` before the peak
            is searched.
        flip_permutation: (K,) the joint that joint ``k`` becomes in a mirrored image; required with
            ``flipped`` and unused without it.
        threads: number of maps decoded at once.

    Returns:
        Keypoints (N, K, 2) float32, continuous image pixels; scores (N, K) float32, the sigmoid of the peak;
        presence (N, K) float32, the sigmoid of the logit and 0 for NaN.

    Raises:
        TypeError: an argument is not an array, or has the wrong dtype.
        ValueError: a shape or the permutation is wrong, or an affine is not finite.
    """
    mirror = None if flipped is None else (flipped, flip_permutation)
    return _core.decode(cams, presence, affines, config.spec, mirror, threads)
