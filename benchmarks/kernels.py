"""How long a crop and a decode take, beside the specification in NumPy and the usual way with OpenCV.

    python benchmarks/kernels.py

One thread. Ours and a competitor take turns in one process, on inputs that rotate: frames, boxes and a ring
of CAMs larger than a core's cache. Ratios are medians of the times of the same round, so background load
touches both. Every competitor has its own rounds with ours, so ours is listed once beside each: after
milliseconds of OpenCV a core is cold for the others, and only the one whose turn comes next would pay for it.
Writes benchmarks/results/kernels.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from recording import interleave, percentiles, print_table, write

from lfpose_edge import _core, ops
from lfpose_edge.geometry import apply_affine, crop_affines
from lfpose_edge.ops import reference

Array = NDArray[Any]
RESULTS = Path(__file__).parent / "results" / "kernels.json"
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
RING_BYTES = 16 << 20
FACTOR = 4


def crop_opencv(frame: Array, affine: Array, size: tuple[int, int]) -> Array:
    """The usual crop: warp, normalise, transpose."""
    crop = cv2.warpAffine(frame, affine, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    crop = cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)
    normal = (crop.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def pixel_centres_at_integers(affine: Array) -> Array:
    """The same affine in OpenCV's convention."""
    moved = affine.copy()
    moved[:, 2] += affine[:, :2] @ (0.5, 0.5) - 0.5
    return moved


def decode_opencv(cams: Array, presence: Array, affines: Array, stride: int) -> tuple[Array, Array, Array]:
    """The usual decode: resize to input resolution, argmax, and DARK on the blurred, resized map."""
    n, k, h, w = cams.shape
    points = np.empty((n, k, 2))
    peaks = np.empty((n, k), np.float32)
    for i in range(n):
        resized = cv2.resize(
            cams[i].transpose(1, 2, 0), (w * FACTOR, h * FACTOR), interpolation=cv2.INTER_LINEAR
        )
        maps = np.ascontiguousarray(resized.transpose(2, 0, 1))
        for j in range(k):
            row, column = divmod(int(maps[j].argmax()), maps.shape[2])
            peaks[i, j] = maps[j, row, column]
            points[i, j] = np.array([column, row]) + 0.5 + dark_opencv(maps[j], row, column)
    keypoints = apply_affine(affines, points * (stride / FACTOR)).astype(np.float32)
    return keypoints, 1 / (1 + np.exp(-peaks)), 1 / (1 + np.exp(-presence))


def dark_opencv(logits: Array, row: int, column: int) -> Array:
    """One Newton step on the log of the blurred probabilities, with arms of one cell."""
    f = FACTOR
    if not (f <= column < logits.shape[1] - f and f <= row < logits.shape[0] - f):
        return np.zeros(2)
    blurred = cv2.GaussianBlur(
        1 / (1 + np.exp(-logits)), (5 * f + 1, 5 * f + 1), f, borderType=cv2.BORDER_REPLICATE
    )
    log = np.log(np.maximum(blurred, 1e-10))
    y, x = row, column
    gradient = np.array([log[y, x + f] - log[y, x - f], log[y + f, x] - log[y - f, x]]) / 2
    xx = log[y, x + f] - 2 * log[y, x] + log[y, x - f]
    yy = log[y + f, x] - 2 * log[y, x] + log[y - f, x]
    xy = (log[y + f, x + f] - log[y + f, x - f] - log[y - f, x + f] + log[y - f, x - f]) / 4
    if xx * yy - xy * xy <= 1e-8:
        return np.zeros(2)
    step = -np.linalg.solve(np.array([[xx, xy], [xy, yy]]), gradient)
    return np.clip(step, -1, 1) * f


def crop_case(
    frame_size: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> dict[str, Callable[[], object]]:
    """Competitors of one crop: persons of many sizes and places, in frames that rotate."""
    height, width = frame_size
    frames = [smooth_frame(height, width, rng) for _ in range(12)]
    tall = rng.uniform(0.3, 0.75, 97) * height
    wide = tall * rng.uniform(0.35, 0.8, 97)
    x, y = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
    affines = crop_affines(np.stack([x, y, x + wide, y + tall], 1), size)
    inputs = [(frames[i % 12], affines[i : i + 1]) for i in range(97)]
    # Each starts at a different frame, so that none finds one in the cache that another has just read.
    ours, numpy_way, usual, two_steps = (cycle(inputs[i:] + inputs[:i]) for i in (0, 3, 6, 9))
    moved = {id(a): pixel_centres_at_integers(a[0]) for _, a in inputs}
    out = np.empty((1, 3, *size), np.float32)

    def run_ours() -> object:
        frame, affine = next(ours)
        return ops.preprocess(frame, affine, size, swap_rb=True, mean=MEAN, std=STD, out=out)

    def run_numpy() -> object:
        frame, affine = next(numpy_way)
        return reference.preprocess(frame, affine, size, swap_rb=True, mean=MEAN, std=STD)

    def run_usual() -> object:
        frame, affine = next(usual)
        return crop_opencv(frame, moved[id(affine)], size)

    def run_warp() -> object:
        frame, affine = next(two_steps)
        return cv2.warpAffine(
            frame, moved[id(affine)], size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )

    return {
        "ours": run_ours,
        "opencv + numpy": run_usual,
        "warpAffine alone": run_warp,
        "numpy reference": run_numpy,
    }


def smooth_frame(height: int, width: int, rng: np.random.Generator) -> Array:
    """A frame with large and small structure."""
    coarse = rng.integers(0, 256, (height // 40, width // 40, 3), np.uint8)
    noise = rng.integers(0, 24, (height, width, 3), np.uint8)
    return cv2.add(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), noise)


def decode_case(
    n: int, k: int, side: int, rng: np.random.Generator, method: ops.Method
) -> dict[str, Callable[[], object]]:
    """Competitors of one decode: bumps of logits on noise."""
    count = max(3, RING_BYTES // (4 * n * k * side * side))
    ring = [bumps(n, k, side, rng) for _ in range(count)]
    presence = rng.normal(size=(n, k)).astype(np.float32)
    affines = np.tile(np.array([[1.3, 0.0, 40.0], [0.0, 1.3, 20.0]]), (n, 1, 1))
    config = ops.DecodeConfig(stride=FACTOR, upsample=FACTOR, method=method)
    # Each starts at a different place, so that none finds inputs in the cache that another has just read.
    once, ours, usual, numpy_way = (cycle(ring[i * count // 4 :] + ring[: i * count // 4]) for i in range(4))
    return {
        "ours": lambda: ops.decode(next(ours), presence, affines, config),
        "read once": lambda: _core._read_once(next(once)),
        "opencv + numpy": lambda: decode_opencv(next(usual), presence, affines, FACTOR),
        "numpy reference": lambda: reference.decode(next(numpy_way), presence, affines, config),
    }


def bumps(n: int, k: int, side: int, rng: np.random.Generator) -> Array:
    """CAMs (n, k, side, side) float32: one Gaussian of logits each, over noise."""
    center = rng.uniform(3, side - 3, (2, n, k, 1, 1))
    y, x = np.mgrid[:side, :side]
    bump = 9 * np.exp(
        -((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * rng.uniform(1.2, 2.2, (n, k, 1, 1)) ** 2)
    )
    return np.asarray(bump - 5 + rng.normal(0, 0.3, bump.shape), np.float32)


def main() -> None:
    """Time, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each pair")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the rows are written")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)

    cases = {
        f"crop {size[0]}x{size[1]} of {frame[1]}x{frame[0]}": crop_case(frame, size, rng)
        for frame in ((480, 640), (1080, 1920))
        for size in ((256, 192), (192, 192))
    }
    cases |= {
        f"decode {n}x{k}x{side}x{side} {method}": decode_case(n, k, side, rng, method)
        for n, k, side, method in (
            (1, 14, 48, "dark"), (1, 17, 48, "dark"), (1, 17, 64, "dark"),
            (8, 14, 48, "dark"), (8, 17, 48, "dark"), (8, 17, 64, "dark"),
            (8, 17, 48, "none"), (8, 17, 48, "softargmax"),
        )
    }  # fmt: skip
    rows = []
    for case, competitors in cases.items():
        others = [name for name in competitors if name != "ours"]
        for other in others:
            pair = {name: competitors[name] for name in ("ours", other)}
            samples, ratios = interleave(pair, seconds=options.seconds)
            for name, beside in (("ours", other), (other, "ours")):
                times = percentiles(samples[name])
                spread = {f"{key}_us": round(value * 1e3, 2) for key, value in times.items()}
                rows.append(
                    {
                        "case": case,
                        "way": name,
                        "beside": beside,
                        **spread,
                        "times_ours": round(ratios[name], 3),
                    }
                )
    print_table(rows)
    write(options.json, rows)


if __name__ == "__main__":
    main()
