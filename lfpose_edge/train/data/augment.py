"""Random changes of a crop: its geometry as one affine, then its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.geometry import Affines, crop_affines
from lfpose_edge.opencv import cv2
from lfpose_edge.train.recipe import Augment

_PARTS = 4  # along each side


def random_crop_affine(
    box: NDArray[np.float64],
    size: tuple[int, int],
    padding: float,
    augment: Augment,
    rng: np.random.Generator,
) -> tuple[Affines, bool]:
    """A randomly rotated, scaled, shifted and possibly mirrored crop of a box; no joint is used.

    Returns:
        (2, 3) affine from crop to image coordinates, and whether it mirrors left and right.
    """
    if augment.zoom and rng.random() < augment.zoom:
        box = random_part(box, rng)
    limit = min(3 * augment.rotation_deg, 180.0)
    rotation = float(np.clip(rng.normal(0.0, augment.rotation_deg), -limit, limit))
    if augment.turn and rng.random() < augment.turn:
        rotation = float(rng.uniform(-180.0, 180.0))
    scale = rng.uniform(1 - augment.scale, 1 + augment.scale)
    flip = bool(rng.random() < augment.flip)
    shift = rng.uniform(-augment.shift, augment.shift, 2) * (size[1], size[0])
    affine = crop_affines(box, size, padding=padding * scale, rotation_deg=rotation, flip=flip)[0]
    affine[:, 2] += affine[:, :2] @ shift
    return affine, flip


def random_part(box: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A part of a box (4,), 40 to 80 % of it along each side."""
    extent = box[2:] - box[:2]
    part = extent * rng.uniform(0.4, 0.8, 2)
    corner = box[:2] + rng.uniform(0, 1, 2) * (extent - part)
    return np.concatenate([corner, corner + part])


def intrude(crop: NDArray[np.uint8], other: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Cover a part of a (3, H, W) crop's left or right side with the middle of another person's crop."""
    _, height, width = crop.shape
    h, w = (int(s * rng.uniform(low, high)) for s, low, high in ((height, 0.5, 1), (width, 0.15, 0.4)))
    y, from_y = (rng.integers(0, height - h + 1) for _ in range(2))
    from_x = rng.integers(width // 5, max(width // 5 + 1, width - width // 5 - w + 1))
    x = rng.choice([0, width - w])
    out = crop.copy()
    out[:, y : y + h, x : x + w] = other[:, from_y : from_y + h, from_x : from_x + w]
    return out


def coarsen(crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Resample a (3, H, W) crop through a quarter to all of its pixels a side, log-uniformly drawn."""
    _, height, width = crop.shape
    fewer = 4 ** -rng.random()
    small = max(1, round(width * fewer)), max(1, round(height * fewer))
    out = np.empty_like(crop)
    for channel, seen in zip(out, crop, strict=True):
        coarse = cv2.resize(seen, small, interpolation=cv2.INTER_AREA)
        cv2.resize(coarse, (width, height), dst=channel, interpolation=cv2.INTER_LINEAR)
    return out


def random_pixels(crop: NDArray[np.uint8], augment: Augment, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change brightness, contrast and channel gains of a (3, H, W) crop, and possibly cover parts of it."""
    gain, contrast = 1 + rng.uniform(-augment.color, augment.color, 2)
    channel_gain = 1 + rng.uniform(-augment.color, augment.color, 3) / 2
    out = np.empty_like(crop)
    levels = np.arange(256, dtype=np.float32)
    mean = float(crop.mean())
    for c in range(3):
        # One table of 256 entries replaces three passes over the pixels.
        table = (mean + (levels - mean) * contrast) * gain * channel_gain[c]
        out[c] = cv2.LUT(crop[c], np.clip(table + 0.5, 0, 255).astype(np.uint8))
    if rng.random() < augment.cutout:
        _, height, width = crop.shape
        h, w = (int(s * rng.uniform(0.1, 0.34)) for s in (height, width))
        y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        out[:, y : y + h, x : x + w] = rng.integers(0, 256, (3, h, w), dtype=np.uint8)
    return hide_parts(out, augment.hide, rng) if augment.hide else out


def hide_parts(crop: NDArray[np.uint8], chance: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Randomly cover each of a (3, H, W) crop's 4x4 parts with the mean colour (hide-and-seek, ICCV 2017).

    The network must then use whatever remains visible, instead of only the most telling part.
    """
    _, height, width = crop.shape
    hidden = rng.random((_PARTS, _PARTS)) < chance
    rows, columns = (np.arange(extent) * _PARTS // extent for extent in (height, width))
    mean = crop.mean(axis=(1, 2), keepdims=True).astype(np.uint8)
    return np.where(hidden[rows[:, None], columns], mean, crop)
