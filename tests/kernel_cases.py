"""The cases in which every implementation of the kernels is compared with the reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

METHODS = ["none", "quarter", "dark", "softargmax"]
FACTORS = [1, 2, 3, 4, 8]
UNIT = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def bump(shape: tuple[int, ...], rng: np.random.Generator, noise: float = 0.2) -> np.ndarray:
    h, w = shape[-2:]
    y, x = np.mgrid[:h, :w]
    cy, cx = (rng.uniform(-0.5, side, (*shape[:-2], 1, 1)) for side in (h, w))
    return 10 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 5) - 5 + rng.normal(0, noise, shape)


def one_hot(shape: tuple[int, ...], rng: np.random.Generator, value: float = 3.0) -> np.ndarray:
    cams = np.zeros((*shape[:2], shape[2] * shape[3]))
    np.put_along_axis(cams, rng.integers(0, cams.shape[2], (*shape[:2], 1)), value, axis=2)
    return cams.reshape(shape)


def corner_peak(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    cams = rng.normal(size=shape)
    cams[..., -1, -1] = 9
    return cams


def with_odd_values(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0, 1.0, 2.5], shape)


def plateau(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return np.minimum(2 * bump(shape, rng, noise=0.0), 3.0)


MAPS: dict[str, Callable[[tuple[int, ...], np.random.Generator], np.ndarray]] = {
    "bump": bump,
    "smooth bump": lambda shape, rng: bump(shape, rng, noise=0.0),
    "faint": lambda shape, rng: bump(shape, rng) - 24,  # probabilities about the floor of the logarithm
    "random": lambda shape, rng: rng.normal(size=shape),
    "few levels": lambda shape, rng: rng.integers(-2, 3, shape).astype(float),
    "constant": lambda shape, rng: np.full(shape, 0.7),
    "one hot": one_hot,
    "corner peak": corner_peak,
    "plateau": plateau,
    "saturated": lambda shape, rng: np.where(rng.random(shape) < 0.2, 100.0, -100.0),
    "checkerboard": lambda shape, rng: (
        np.where(np.indices(shape[2:]).sum(0) % 2, 5.0, -5.0) + np.zeros(shape)
    ),
    "odd values": with_odd_values,
    "all NaN": lambda shape, rng: np.full(shape, np.nan),
    "all infinite": lambda shape, rng: np.full(shape, np.inf),
    "all beneath the limit": lambda shape, rng: np.full(shape, -1e30),
}
MAP_SHAPES = {
    "square": (2, 3, 12, 12),
    "odd": (1, 2, 13, 7),
    "one lane more": (1, 1, 9, 17),
    "whole lanes": (1, 1, 16, 32),
    "one pixel": (2, 2, 1, 1),
    "one row": (1, 2, 1, 21),
    "one column": (1, 2, 21, 1),
}

AXIS_ALIGNED = [[[0.7, 0, 3.2], [0, 0.9, 2.1]]]
AFFINES = {
    "identity": [[[1, 0, 0], [0, 1, 0]]],
    "shrinks": [[[2.3, 0, -1.7], [0, 1.9, 4.1]]],
    "grows": [[[0.31, 0, 5.2], [0, 0.27, 6.9]]],
    "mirrored": [[[-1.1, 0, 33.3], [0, 1.2, 0.4]]],
    "upside down": [[[1.1, 0, 0.3], [0, -1.2, 30.4]]],
    "turned": [[[0.8, 0.5, -2.0], [-0.5, 0.8, 11.0]]],
    "quarter turn": [[[0, 1, 0], [-1, 0, 27]]],
    "sheared": [[[1, 0.3, 0], [0, 1, 0]]],
    "flat": [[[0, 0, 7.3], [0, 0, 8.4]]],
    "left of the image": [[[1, 0, -1000], [0, 1, 0]]],
    "below the image, turned": [[[0.8, 0.5, 0], [-0.5, 0.8, 5000]]],
    "touches every edge": [[[4, 0, -15], [0, 4, -15]]],
    "touches every edge, turned": [[[3, 2, -20], [-2, 3, 0]]],
    "huge": [[[1e300, 0, -1e300], [0, 1e300, 1e308]]],
    "overflows": [[[1e308, 1e308, -1e308], [1e308, -1e308, 1e308]]],
    "tiny": [[[1e-300, 0, 8], [0, 1e-300, 9]]],
    "several": [*AXIS_ALIGNED, [[0.8, 0.5, -2.0], [-0.5, 0.8, 11.0]], [[-1, 0, 30], [0, 1, 0]]],
    "none": np.zeros((0, 2, 3)),
}
IMAGE_SHAPES = {
    "grey": (27, 33),
    "grey, one channel": (27, 33, 1),
    "three channels": (27, 33, 3),
    "four channels": (27, 33, 4),
    "one pixel": (1, 1, 3),
    "one grey pixel": (1, 1),
    "two pixels": (1, 2, 4),
    "one column": (40, 1, 3),
    "one row": (1, 40, 3),
    "two by two": (2, 2),
    "very tall": (20000, 10, 3),
    "very wide": (10, 20000, 1),
}


def random_image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
