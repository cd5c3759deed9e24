"""The crop kernel against its specification, and both against geometry."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import AFFINES, IMAGE_SHAPES, random_image

from lfpose_edge import _core, ops
from lfpose_edge.geometry import crop_affines
from lfpose_edge.ops import reference

TOLERANCE = 2e-3  # grey levels


def by_points(kernel: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """What the CUDA kernel does, on the CPU, called as ``ops.preprocess``."""
    defaults = dict.fromkeys(("mean", "border"), (0, 0, 0)) | {"std": (1, 1, 1), "swap_rb": False}
    rest = {"dtype": np.float32, "threads": 1, "out": None}
    return lambda image, affines, size, **options: kernel(image, affines, size, **defaults | rest | options)


def channels_last(kernel: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """The kernel, into memory that is (N, H, W, 3)."""

    def into_pixels(
        image: np.ndarray, affines: np.ndarray, size: tuple[int, int], **options: object
    ) -> np.ndarray:
        memory = np.zeros((len(affines), *size, 3), options.get("dtype", np.float32))
        return kernel(image, affines, size, out=memory.transpose(0, 3, 1, 2), **options)

    return into_pixels


KERNELS = {
    "CPU": ops.preprocess,
    "CPU, channels last": channels_last(ops.preprocess),
    "CUDA's, on the CPU": by_points(_core._preprocess_by_points),
    "CUDA's, on the CPU, channels last": channels_last(by_points(_core._preprocess_by_points)),
}


def assert_same_crops(
    image: np.ndarray, affines: object, size: tuple[int, int] = (19, 23), **options: object
) -> None:
    for kernel in KERNELS.values():
        assert_crops_of(kernel, image, image, affines, size, **options)


def assert_crops_of(
    kernel: Callable[..., np.ndarray],
    image: np.ndarray,
    pixels: np.ndarray,
    affines: object,
    size: tuple[int, int] = (19, 23),
    **options: object,
) -> None:
    """Float crops to the tolerance; uint8 crops equal wherever the float is not nearly halfway."""
    matrices = np.asarray(affines, np.float64)
    std = np.reshape(options.get("std", (1, 1, 1)), (3, 1, 1))
    with np.errstate(over="ignore", invalid="ignore"):
        exact = reference.preprocess(pixels, matrices, size, **options)
        crops = kernel(image, matrices, size, **options)
        assert crops.shape == exact.shape == (len(matrices), 3, *size)
        assert crops.dtype == np.float32
        assert np.abs((crops - exact) * std).max(initial=0) <= TOLERANCE

        raw = {key: value for key, value in options.items() if key not in ("mean", "std")}
        level = reference.preprocess(pixels, matrices, size, **raw)
        rounded = reference.preprocess(pixels, matrices, size, dtype=np.uint8, **raw)
        bytes_ = kernel(image, matrices, size, dtype=np.uint8, **raw)
    assert bytes_.dtype == np.uint8
    off = np.abs(bytes_.astype(int) - rounded)
    assert off.max(initial=0) <= 1
    assert not off[np.abs(level % 1 - 0.5) > TOLERANCE].any()


@pytest.mark.parametrize("affines", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("border", [(0, 0, 0), (114.5, 3, 255)], ids=["black border", "coloured border"])
def test_affines(affines: object, border: tuple[float, ...]) -> None:
    assert_same_crops(random_image((27, 33, 3)), affines, border=border)


@pytest.mark.parametrize("shape", IMAGE_SHAPES.values(), ids=IMAGE_SHAPES)
@pytest.mark.parametrize("affine", ["touches every edge", "touches every edge, turned", "grows"])
def test_shapes(shape: tuple[int, ...], affine: str) -> None:
    assert_same_crops(random_image(shape), AFFINES[affine], border=(9, 8, 7), swap_rb=True)


@pytest.mark.parametrize("affines", AFFINES.values(), ids=AFFINES)
def test_nv12(affines: object) -> None:
    """A camera's frame, which the GPU crops as it comes."""
    frame = random_image((42, 34))
    kernel = by_points(_core._preprocess_nv12_by_points)
    assert_crops_of(kernel, frame, reference.nv12_to_bgr(frame), affines, border=(9, 8, 7), swap_rb=True)


def test_nv12_has_the_colours_that_opencv_gives_it() -> None:
    frame = random_image((96, 80))
    ours, theirs = reference.nv12_to_bgr(frame), cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_NV12)
    assert np.abs(ours - theirs).max() <= 1.5


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"swap_rb": True}, (19, 23)),
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, (19, 23)),
        ({"mean": (10, 20, 30), "std": (1, 2, -0.5), "swap_rb": True, "border": (1, 2, 3)}, (19, 23)),
        ({"threads": 3}, (19, 23)),
        ({}, (1, 1)),
        ({}, (1, 65)),
        ({}, (65, 1)),
    ],
    ids=["swapped", "normalised", "all at once", "threads", "one pixel", "one row", "one column"],
)
def test_options(options: dict[str, object], size: tuple[int, int]) -> None:
    assert_same_crops(random_image((27, 33, 3)), AFFINES["several"], size, **options)


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[5:20, 7:30],
        lambda image: image[::-1],
        lambda image: image[::2],
        lambda image: image[:, ::-1],
        lambda image: image[..., ::-1],
        lambda image: np.asfortranarray(image),
        lambda image: np.broadcast_to(image[:1], image.shape),
        lambda image: image[:, :, 1],
    ],
    ids=[
        "slice",
        "rows backwards",
        "every other row",
        "columns backwards",
        "channels backwards",
        "Fortran order",
        "one row repeated",
        "one channel",
    ],
)
@pytest.mark.parametrize("affine", ["several", "touches every edge", "touches every edge, turned"])
def test_strides(view: object, affine: str) -> None:
    assert_same_crops(view(random_image((27, 33, 3))), AFFINES[affine], border=(5, 6, 7))


@pytest.mark.skipif(sys.platform != "linux", reason="guards a page with mprotect")
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("step", [1, -1], ids=["down", "up"])
def test_never_reads_past_the_image(channels: int, step: int) -> None:
    """The image ends where readable memory ends: one byte further and the process dies."""
    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    everything = np.frombuffer(pages, np.uint8)
    guard = ctypes.c_void_p(everything.ctypes.data + mmap.PAGESIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    for height, width in [(1, 1), (1, 2), (5, 1), (3, 2), (7, 9)]:
        size = height * width * channels
        image = everything[mmap.PAGESIZE - size : mmap.PAGESIZE].reshape(height, width, channels)
        image[:] = random_image(image.shape)
        assert libc.mprotect(guard, mmap.PAGESIZE, 0) == 0
        try:
            for affine in ("identity", "touches every edge", "touches every edge, turned", "several"):
                assert_same_crops(image[::step], AFFINES[affine], border=(1, 2, 3))
        finally:
            assert libc.mprotect(guard, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE) == 0


def test_written_into_out() -> None:
    image, affines = random_image((27, 33, 3)), np.array(AFFINES["several"], np.float64)
    out = np.full((3, 3, 19, 23), np.nan, np.float32)
    assert ops.preprocess(image, affines, (19, 23), out=out) is out
    np.testing.assert_array_equal(out, ops.preprocess(image, affines, (19, 23)))


@pytest.mark.parametrize("affines", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_channels_last_are_the_same_bits(affines: object, dtype: type) -> None:
    image, matrices = random_image((27, 33, 3)), np.asarray(affines, np.float64)
    plain = ops.preprocess(image, matrices, (19, 23), border=(9, 8, 7), dtype=dtype)
    moved = channels_last(ops.preprocess)(image, matrices, (19, 23), border=(9, 8, 7), dtype=dtype)
    np.testing.assert_array_equal(plain, moved)


def test_threads_change_nothing() -> None:
    image = random_image((60, 80, 3))
    affines = crop_affines(
        np.random.default_rng(1).uniform(0, 60, (17, 4)).cumsum(1), (32, 24), rotation_deg=5
    )
    one = ops.preprocess(image, affines, (32, 24), threads=1)
    np.testing.assert_array_equal(one, ops.preprocess(image, affines, (32, 24), threads=4))


def test_identity_is_the_image() -> None:
    image = random_image((16, 24, 3))
    crop = ops.preprocess(
        image, np.array([[[1.0, 0, 0], [0, 1, 0]]]), (16, 24), swap_rb=True, dtype=np.uint8
    )[0]
    np.testing.assert_array_equal(crop.transpose(1, 2, 0), image[..., ::-1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    center=st.tuples(st.floats(60, 140), st.floats(60, 140)),
    extent=st.tuples(st.floats(5, 60), st.floats(5, 60)),
    angle=st.sampled_from([0.0, 90.0, -37.0, 12.5]),
    flip=st.booleans(),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_ramp_shows_where_every_pixel_came_from(
    center: tuple[float, float], extent: tuple[float, float], angle: float, flip: bool, size: tuple[int, int]
) -> None:
    """An image whose grey level is its own coordinate: bilinear sampling returns the coordinate exactly."""
    y, x = np.mgrid[:200, :200]
    image = np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)
    (cx, cy), (w, h) = center, extent
    affine = crop_affines(
        [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], size, rotation_deg=angle, flip=flip
    )
    crop = ops.preprocess(image, affine, size)[0]
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    at = np.einsum("ij,jhw->ihw", affine[0, :, :2], np.stack([columns, rows])) + affine[0, :, 2, None, None]
    inside = np.all((at >= 0.5) & (at <= 199.5), axis=0)  # pixel centres: beyond them the border begins
    assert np.abs(crop[:2] + 0.5 - at)[:, inside].max(initial=0) <= TOLERANCE


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 3, 4])),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    linear=st.tuples(*[st.floats(-5, 5)] * 4),
    shift=st.tuples(*[st.floats(-40, 40)] * 2),
    turned=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_crop_of_any_image(
    shape: tuple[int, int, int], size: tuple[int, int], linear: tuple[float, ...], shift: tuple[float, ...],
    turned: bool, seed: int,
) -> None:  # fmt: skip
    a, b, c, d = linear
    affine = [[[a, b if turned else 0.0, shift[0]], [c if turned else 0.0, d, shift[1]]]]
    assert_same_crops(random_image(shape, seed), affine, size, border=(200, 100, 50), swap_rb=bool(seed % 2))
