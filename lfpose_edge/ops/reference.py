"""The specification of the kernels, in NumPy: clear, exact and slow.

`_core` and `_cuda` must agree with this module: crops to 2e-3 grey levels, the peak of a map bit for bit,
and joints to 1e-4 pixels, or to 3e-5 cells where ``dark`` refines a nearly flat map and its step is the
quotient of two small numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lfpose_edge.geometry import Affines, apply_affine
from lfpose_edge.ops.config import DecodeConfig

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

LOGIT_LIMIT = np.float32(1e4)
"""Logits are clamped to plus or minus this, and NaN counts as minus this; float16 can represent it."""
DARK_FLOOR = 1e-10
DARK_CURVATURE = 1e-4
DARK_DETERMINANT = 1e-8


def preprocess(
    image: NDArray[np.uint8],
    affines: Affines,
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
    """Cut crops out of an image; see :func:`lfpose_edge.ops.preprocess`. ``threads`` is not used."""
    pixels = np.atleast_3d(image)[..., :3].astype(np.float64)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    height, width = pixels.shape[:2]
    rows, columns = size
    x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)  # continuous crop coordinates
    crops = np.empty((len(affines), 3, rows, columns))
    for crop, affine in zip(crops, affines, strict=True):
        px, py = (
            pixel_index(a * x + b * y + c, n) for (a, b, c), n in zip(affine, (width, height), strict=True)
        )
        x0, y0 = np.floor(px).astype(np.int64), np.floor(py).astype(np.int64)
        value = np.zeros((rows, columns, 3))
        for dy in (0, 1):
            for dx in (0, 1):
                xi, yi = x0 + dx, y0 + dy
                inside = (xi >= 0) & (xi < width) & (yi >= 0) & (yi < height)
                nearest = pixels[np.clip(yi, 0, height - 1), np.clip(xi, 0, width - 1)]
                tap = np.where(inside[..., None], nearest, np.asarray(border, np.float64))
                weight = (1 - np.abs(px - xi)) * (1 - np.abs(py - yi))
                value += weight[..., None] * tap
        crop[:] = value[..., :: -1 if swap_rb else 1].transpose(2, 0, 1)
    if np.dtype(dtype) == np.uint8:
        result: NDArray[Any] = np.clip(np.floor(crops + 0.5), 0, 255).astype(np.uint8)
    else:
        result = ((crops - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))).astype(np.float32)
    if out is None:
        return result
    out[:] = result
    return out


def nv12_to_bgr(frame: NDArray[np.uint8]) -> Doubles:
    """The BGR grey levels (H, W, 3), not rounded, of an NV12 frame (3 H / 2, W) in BT.601's limited range.

    The frame has H rows of luma, then H / 2 rows of interleaved U and V. All pixels of a 2 x 2 block share
    their chroma, and luma below black is black, as in OpenCV.
    """
    height, width = frame.shape[0] * 2 // 3, frame.shape[1]
    chroma = frame[height:].reshape(height // 2, width // 2, 2).astype(np.float64) - 128
    u, v = np.moveaxis(chroma.repeat(2, axis=0).repeat(2, axis=1), 2, 0) * (255 / 224)
    grey = np.maximum(frame[:height].astype(np.float64) - 16, 0) * (255 / 219)
    red, blue = 0.299, 0.114  # their weights in the luma
    green = 2 * (red * (1 - red) * v + blue * (1 - blue) * u) / (1 - red - blue)
    bgr = np.stack([grey + 2 * (1 - blue) * u, grey - green, grey + 2 * (1 - red) * v], axis=-1)
    clipped: Doubles = np.clip(bgr, 0, 255)
    return clipped


def pixel_index(coordinate: Doubles, pixels: int) -> Doubles:
    """Continuous coordinates as pixel indices; any beyond the border, or overflowed, end up just outside."""
    at = coordinate - 0.5
    return np.where(at > -2, np.minimum(at, pixels + 1), -2)


def decode(
    cams: Floats,
    presence: Floats,
    affines: Affines,
    config: DecodeConfig,
    *,
    flipped: Floats | None = None,
    flip_permutation: Sequence[int] | NDArray[np.integer] | None = None,
    threads: int = 1,
) -> tuple[Floats, Floats, Floats]:
    """Turn CAMs into joints; see :func:`lfpose_edge.ops.decode`. ``threads`` is not used."""
    maps = sanitize(cams)
    if flipped is not None:
        maps = np.float32(0.5) * (maps + sanitize(flipped)[:, flip_permutation, :, ::-1])
    n, k = maps.shape[:2]
    crop_points = np.zeros((n, k, 2))
    scores = np.zeros((n, k), np.float32)
    for i in range(n):
        for j in range(k):
            crop_points[i, j], scores[i, j] = decode_map(maps[i, j], config)
    keypoints: Floats = apply_affine(affines, crop_points).astype(np.float32)
    logits = np.where(np.isnan(presence), -np.inf, presence).astype(np.float64)
    return keypoints, scores, sigmoid(logits).astype(np.float32)


def decode_map(cam: Floats, config: DecodeConfig) -> tuple[Doubles, np.float32]:
    """Decode one sanitized map (h, w) to the joint's crop coordinates (2,) and score."""
    factor = config.upsample
    upsampled = upsample_bilinear(cam, factor)
    row, column = divmod(int(upsampled.argmax()), upsampled.shape[1])
    offset = _REFINEMENTS[config.method](upsampled, row, column, config)
    point = (np.array([column, row]) + 0.5 + offset) * config.stride / factor
    limit = np.array([cam.shape[1], cam.shape[0]]) * config.stride
    score = sigmoid(np.float64(upsampled[row, column]))
    return np.clip(point, 0, limit), np.float32(score)


def sanitize(logits: Floats) -> Floats:
    """Replace NaN by the lowest logit, and clamp infinities and large values to the limits."""
    clean = np.where(np.isnan(logits), -LOGIT_LIMIT, logits)
    return np.clip(clean, -LOGIT_LIMIT, LOGIT_LIMIT).astype(np.float32)


def upsample_bilinear(cam: Floats, factor: int) -> Floats:
    """Upsample (h, w) bilinearly by an integer factor, with half-pixel centres and repeated edges.

    Every operation is rounded to float32 and none is fused, in this order: along x, then along y, as
    ``a + w * (b - a)``. Thus every implementation finds the same peak, a flat area stays flat, and no value
    exceeds the largest of its four corners.
    """
    x0, x1, wx = axis_taps(cam.shape[1], factor)
    y0, y1, wy = axis_taps(cam.shape[0], factor)
    along_x = cam[:, x0] + wx * (cam[:, x1] - cam[:, x0])
    return along_x[y0] + wy[:, None] * (along_x[y1] - along_x[y0])


def axis_taps(cells: int, factor: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Lower and upper cell of every upsampled position, and the upper one's weight."""
    # Position X is at (X + 1/2) / factor - 1/2 cells; in units of 1 / (2 factor) that is:
    halves = 2 * np.arange(cells * factor) + 1 - factor
    lower, rest = np.divmod(halves, 2 * factor)
    weight = (rest / (2 * factor)).astype(np.float32)
    return np.clip(lower, 0, cells - 1), np.clip(lower + 1, 0, cells - 1), weight


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)) without overflow."""
    x = np.asarray(x, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1 + small)


def _none(upsampled: Floats, row: int, column: int, config: DecodeConfig) -> Doubles:
    return np.zeros(2)


def _quarter(upsampled: Floats, row: int, column: int, config: DecodeConfig) -> Doubles:
    height, width = upsampled.shape
    offset = np.zeros(2)
    if 0 < column < width - 1:
        offset[0] = 0.25 * np.sign(upsampled[row, column + 1] - upsampled[row, column - 1])
    if 0 < row < height - 1:
        offset[1] = 0.25 * np.sign(upsampled[row + 1, column] - upsampled[row - 1, column])
    return offset


def _softargmax(upsampled: Floats, row: int, column: int, config: DecodeConfig) -> Doubles:
    radius = config.window * config.upsample
    y = np.arange(max(0, row - radius), min(upsampled.shape[0], row + radius + 1))
    x = np.arange(max(0, column - radius), min(upsampled.shape[1], column + radius + 1))
    peak = upsampled[row, column].astype(np.float64)
    weight = np.exp(upsampled[np.ix_(y, x)].astype(np.float64) - peak)
    mass = weight.sum()
    dx = (weight.sum(0) * (x - column)).sum() / mass
    dy = (weight.sum(1) * (y - row)).sum() / mass
    return np.array([dx, dy])


def _dark(upsampled: Floats, row: int, column: int, config: DecodeConfig) -> Doubles:
    step = blur_step(config.upsample)
    arm = config.upsample // step  # the stencil's: one cell
    kernel = gaussian_kernel(config.blur_sigma * arm)
    reach = len(kernel) // 2 + arm
    around = step * np.arange(-reach, reach + 1)
    y = np.clip(row + around, 0, upsampled.shape[0] - 1)
    x = np.clip(column + around, 0, upsampled.shape[1] - 1)
    probability = sigmoid(upsampled[np.ix_(y, x)])
    # The blur is only needed at nine points, so it takes two small matrix products.
    windows = np.stack([np.roll(np.pad(kernel, arm), shift) for shift in (-arm, 0, arm)])  # (3, 2 reach + 1)
    log = np.log(np.maximum(windows @ probability @ windows.T, DARK_FLOOR))  # (3, 3), y by x

    gradient = np.array([log[1, 2] - log[1, 0], log[2, 1] - log[0, 1]]) / 2  # per cell
    xx = log[1, 2] - 2 * log[1, 1] + log[1, 0]
    yy = log[2, 1] - 2 * log[1, 1] + log[0, 1]
    xy = (log[2, 2] - log[2, 0] - log[0, 2] + log[0, 0]) / 4
    determinant = xx * yy - xy * xy
    if xx >= -DARK_CURVATURE or yy >= -DARK_CURVATURE or determinant <= DARK_DETERMINANT:
        return np.zeros(2)
    newton = np.array([yy * gradient[0] - xy * gradient[1], xx * gradient[1] - xy * gradient[0]])
    offset: Doubles = np.clip(-newton / determinant, -1, 1) * config.upsample
    return offset


def blur_step(factor: int) -> int:
    """Upsampled positions per step of the blur's samples: half a cell, or less if that does not divide.

    Summing the blur at half cells matches its integral to some hundredths of a crop pixel, because the map is
    linear between two samples of the CAM.
    """
    return next(step for step in range(max(1, factor // 2), 0, -1) if factor % step == 0)


def gaussian_kernel(sigma: float) -> Doubles:
    """A normalised Gaussian of radius ceil(2.5 sigma); for sigma 2 that is 11 taps, as DARK's authors use."""
    radius = int(np.ceil(2.5 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel: Doubles = weights / weights.sum()
    return kernel


_REFINEMENTS = {"none": _none, "quarter": _quarter, "dark": _dark, "softargmax": _softargmax}
