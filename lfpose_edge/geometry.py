"""The crop affine: made once per box, and used both to sample the crop and to map its joints back.

One convention everywhere: coordinates are *continuous*. The pixel in column ``j`` and row ``i``
covers ``[j, j + 1) x [i, i + 1)``, so its centre is ``(j + 0.5, i + 0.5)``, and an image of width
``w`` spans ``[0, w]``. Data sets that store pixel indices add 0.5 when they are read.

An affine is a float64 array of shape (2, 3), or (N, 2, 3) for many, that maps *crop* coordinates to
*image* coordinates: ``image = A[:, :2] @ crop + A[:, 2]``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Affines = NDArray[np.float64]

FAR_PX = 1e7  # beyond any image; float32 joints that far away would lose their precision


def crop_affines(
    boxes: ArrayLike,
    size: tuple[int, int],
    *,
    padding: float = 1.25,
    rotation_deg: ArrayLike = 0.0,
    flip: ArrayLike = False,
) -> Affines:
    """Make the affines that map crop pixels to image pixels for person boxes.

    The crop keeps the aspect ratio: the box is grown about its centre, along its relatively shorter
    side, to the aspect of ``size``, and then by ``padding``.

    Args:
        boxes: (N, 4) ``x1, y1, x2, y2`` in image pixels.
        size: crop ``(height, width)`` in pixels.
        padding: ratio of the crop's size to the box's.
        rotation_deg: () or (N,) counter-clockwise turn of the crop in the image plane, degrees.
        flip: () or (N,) mirror the crop left to right.

    Returns:
        (N, 2, 3) float64.
    """
    xyxy = np.asarray(boxes, np.float64).reshape(-1, 4)
    height, width = size
    center = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    extent = xyxy[:, 2:] - xyxy[:, :2]
    scale = padding * np.maximum(extent[:, 0] / width, extent[:, 1] / height)  # image px per crop px

    n = len(xyxy)
    angle = np.deg2rad(np.broadcast_to(np.asarray(rotation_deg, np.float64), n))
    mirror = np.where(np.broadcast_to(np.asarray(flip, bool), n), -1.0, 1.0)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([mirror * cos, sin], -1), np.stack([-mirror * sin, cos], -1)], 1)
    shift = center - linear @ np.array([width / 2, height / 2])
    return np.concatenate([linear, shift[:, :, None]], axis=2)


def letterbox_affine(image_size: tuple[int, int], size: tuple[int, int]) -> Affines:
    """The (1, 2, 3) affine that fits a whole image into ``size``, anchored at the top left corner.

    Args:
        image_size: image ``(height, width)``.
        size: target ``(height, width)``.
    """
    scale = max(image_size[0] / size[0], image_size[1] / size[1])
    return np.array([[[scale, 0.0, 0.0], [0.0, scale, 0.0]]])


def apply_affine(affine: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Map points, (..., P, 2), by affines, (..., 2, 3); leading shapes broadcast."""
    matrix = np.asarray(affine, np.float64)
    return np.asarray(points, np.float64) @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]


def invert_affine(affine: ArrayLike) -> Affines:
    """The inverse of affines of shape (..., 2, 3): image coordinates to crop coordinates."""
    matrix = np.asarray(affine, np.float64)
    inverse = np.linalg.inv(matrix[..., :2])
    shift = -inverse @ matrix[..., 2:]
    return np.concatenate([inverse, shift], axis=-1)


def inside_image(affine: ArrayLike, size: tuple[int, int], image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of a crop depend on the image alone, (H, W) bool.

    Such a pixel lies entirely inside the image, and so does an image pixel placed at its centre.

    Args:
        affine: (2, 3), crop to image pixels.
        size: crop height and width.
        image_size: image height and width.
    """
    matrix = np.asarray(affine, np.float64)
    rows, columns = (np.arange(extent) + 0.5 for extent in size)
    half = np.maximum(np.abs(matrix[:, :2]).sum(axis=1) / 2, 0.5)
    inside = np.ones(size, bool)
    for (across, down, shift), extent, reach in zip(matrix, image_size[::-1], half, strict=True):
        at = across * columns + (down * rows + shift)[:, None]
        inside &= (at >= reach) & (at <= extent - reach)
    return inside


def clip_boxes(boxes: ArrayLike, image_size: tuple[int, int]) -> NDArray[np.float32]:
    """Clip boxes (N, 4) or (4,) to an image of (height, width); the result is (N, 4) float32.

    Raises:
        ValueError: the shape is wrong, or a box is not finite, reaches beyond ``FAR_PX``, or has no area in
            the image.
    """
    try:
        with np.errstate(over="ignore"):  # overflow gives infinity, which is reported below
            xyxy = np.asarray(boxes, np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a torch tensor requiring grad
        message = f"boxes must be numbers of shape (N, 4) or (4,): {error}"
        raise ValueError(message) from error
    if xyxy.shape == (0,):  # an empty list: no persons
        return np.zeros((0, 4), np.float32)
    if xyxy.ndim == 1:
        xyxy = xyxy[None]
    if xyxy.ndim != 2 or xyxy.shape[1] != 4:
        message = f"boxes must have shape (N, 4) or (4,), x1, y1, x2, y2, got {np.shape(boxes)}"
        raise ValueError(message)
    height, width = image_size
    clipped = np.clip(xyxy, 0, np.array([width, height, width, height], np.float32))
    for index, (box, inside) in enumerate(zip(xyxy.tolist(), clipped.tolist(), strict=True)):
        if not all(map(math.isfinite, box)):
            why = "is not finite"
        elif max(map(abs, box)) > FAR_PX:
            why = f"reaches beyond {FAR_PX:g} pixels"
        elif inside[2] <= inside[0] or inside[3] <= inside[1]:
            why = f"has no area inside the {width}x{height} image"
        else:
            continue
        message = f"box {index}, {box}, {why}; boxes are x1, y1, x2, y2 in pixels"
        raise ValueError(message)
    return clipped
