"""The preprocess kernel against its specification."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfpose_edge import ops
from lfpose_edge.geometry import crop_affines
from lfpose_edge.ops import reference

SIZE = (21, 17)


def _affine(scale_x: float, scale_y: float, x: float, y: float, shear: float = 0.0) -> np.ndarray:
    return np.array([[[scale_x, shear, x], [-shear, scale_y, y]]])


AFFINES = {
    "same scale": _affine(1, 1, 3, 4),
    "half a pixel": _affine(1, 1, 2.5, 1.5),
    "shrinking": _affine(2.7, 3.1, -8, -9),
    "growing": _affine(0.31, 0.27, 10, 12),
    "mirrored": _affine(-1.3, 1.3, 40, -2),
    "upside down": _affine(1.1, -1.1, 2, 30),
    "turned": _affine(0.9, 0.9, 3, 12, shear=0.4),
    "over the edge": _affine(1, 1, -10, -12),
    "wholly outside": _affine(1, 1, 500, 500),
    "far away": _affine(1e9, 1e9, -1e12, 1e12),
    "turned, far away": _affine(1e7, 1e7, 1e9, -1e9, shear=1e7),
    "one point": _affine(0, 0, 11.2, 9.7),
}
IMAGES = {"gray": (37, 41), "gray with an axis": (37, 41, 1), "colour": (37, 41, 3), "alpha": (37, 41, 4)}


def _image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _check(image: np.ndarray, affines: np.ndarray, size: tuple[int, int] = SIZE, **options: Any) -> None:
    got = ops.preprocess(image, affines, size, **options)
    expected = reference.preprocess(image, affines, size, **options)
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("swap_rb", [False, True])
@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("name", AFFINES)
def test_agrees_with_the_reference(name: str, shape: str, swap_rb: bool) -> None:
    _check(_image(IMAGES[shape]), AFFINES[name], swap_rb=swap_rb, border=(10, 120, 250))


@pytest.mark.parametrize("name", AFFINES)
def test_whole_levels_round_half_up(name: str) -> None:
    image, options = _image((37, 41, 3)), {"border": (1, 2, 3)}
    got = ops.preprocess(image, AFFINES[name], SIZE, dtype=np.uint8, **options).astype(int)
    exact = reference.preprocess(image, AFFINES[name], SIZE, **options)
    expected = np.floor(exact + 0.5)
    sure = np.abs(exact - np.floor(exact) - 0.5) > 2e-3
    assert (got[sure] == expected[sure]).all()
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1), (2000, 3, 3), (1, 50, 3), (5, 4, 4)])
def test_small_and_thin_images(shape: tuple[int, ...]) -> None:
    for affine in AFFINES.values():
        _check(_image(shape), affine)


def test_normalisation_is_in_the_order_of_the_crop() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:] = (10, 20, 30)  # blue, green, red
    crop = ops.preprocess(image, _affine(1, 1, 1, 1), (4, 4), swap_rb=True, mean=(30, 20, 10), std=(1, 2, 4))
    np.testing.assert_allclose(crop, 0, atol=1e-5)
    _check(_image((20, 20, 3)), _affine(1.2, 1.2, -3, 1), mean=(3, 5, 9), std=(50, 60, 70), swap_rb=True)


def test_a_fractional_border() -> None:
    _check(_image((9, 9, 3)), _affine(1, 1, -4, -4), border=(0.25, 127.5, 254.75))


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.2, 4),
    st.floats(-180, 180),
    st.booleans(),
    st.tuples(st.floats(60, 240), st.floats(60, 180)),
)
def test_a_ramp_gives_back_its_coordinates(
    scale: float, angle: float, flip: bool, center: tuple[float, float]
) -> None:
    """An image whose grey level is its x (or y) coordinate says where each crop pixel looked."""
    x = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    image = np.dstack([x, x.T, x])
    half = 8 * scale
    box = [[center[0] - half, center[1] - half, center[0] + half, center[1] + half]]
    affines = crop_affines(box, (16, 16), padding=1.0, rotation_deg=angle, flip=flip)
    crop = ops.preprocess(image, affines, (16, 16))[0]
    v, u = np.mgrid[:16, :16] + 0.5
    looked = np.einsum("ij,jyx->iyx", affines[0], np.stack([u, v, np.ones_like(u)])) - 0.5
    inside = ((looked >= 0) & (looked <= 255)).all(axis=0)
    np.testing.assert_allclose(crop[0][inside], looked[0][inside], atol=2e-3)
    np.testing.assert_allclose(crop[1][inside], looked[1][inside], atol=2e-3)


def test_layouts_and_thread_counts_do_not_matter() -> None:
    image = _image((120, 160, 3))
    boxes = np.random.default_rng(1).uniform(0, 100, (9, 2))
    affines = crop_affines(np.hstack([boxes, boxes + 40]), (32, 24))
    expected = ops.preprocess(image, affines, (32, 24))
    views = {
        "rows apart": np.repeat(image, 2, axis=0)[::2],
        "pixels apart": np.repeat(image, 2, axis=1)[:, ::2],
        "reversed twice": np.ascontiguousarray(image[..., ::-1])[..., ::-1],
        "upside down twice": np.ascontiguousarray(image[::-1])[::-1],
        "cut from a larger one": np.pad(image, ((3, 5), (7, 2), (0, 0)))[3:-5, 7:-2],
        "read only": np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
    }
    for name, view in views.items():
        np.testing.assert_array_equal(ops.preprocess(view, affines, (32, 24)), expected, err_msg=name)
    np.testing.assert_array_equal(ops.preprocess(image, affines, (32, 24), threads=4), expected)


def test_a_given_buffer_is_filled() -> None:
    image, out = _image((30, 30, 3)), np.empty((1, 3, *SIZE), np.float32)
    result = ops.preprocess(image, AFFINES["same scale"], SIZE, out=out)
    assert result is out or result.base is out or np.shares_memory(result, out)
    np.testing.assert_array_equal(out, ops.preprocess(image, AFFINES["same scale"], SIZE))


def test_no_crop() -> None:
    assert ops.preprocess(_image((5, 5, 3)), np.zeros((0, 2, 3)), SIZE).shape == (0, 3, *SIZE)


GOOD: dict[str, Any] = {"image": _image((9, 9, 3)), "affines": AFFINES["same scale"], "size": SIZE}
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "float image": (
        {"image": np.zeros((9, 9, 3))},
        TypeError,
        r"image must be uint8, got float64 \(9, 9, 3\)",
    ),
    "two channels": ({"image": _image((9, 9, 2))}, ValueError, r"got uint8 \(9, 9, 2\)"),
    "four axes": ({"image": _image((1, 9, 9, 3))}, ValueError, "image must be"),
    "empty image": ({"image": _image((0, 9, 3))}, ValueError, "not empty"),
    "one affine without axis": ({"affines": AFFINES["turned"][0]}, ValueError, r"\(N, 2, 3\)"),
    "float32 affines": (
        {"affines": AFFINES["turned"].astype(np.float32)},
        TypeError,
        "affines must be float64",
    ),
    "infinite affine": ({"affines": AFFINES["turned"] * np.inf}, ValueError, "affines must be finite"),
    "no size": ({"size": (0, 5)}, ValueError, "size"),
    "no deviation": ({"std": (1, 0, 1)}, ValueError, "std"),
    "NaN mean": ({"mean": (0, np.nan, 0)}, ValueError, "mean"),
    "border beyond white": ({"border": (0, 0, 256)}, ValueError, "border"),
    "half floats": ({"dtype": np.float16}, TypeError, "float32 or uint8, got float16"),
    "normalised levels": ({"dtype": np.uint8, "mean": (1, 1, 1)}, ValueError, "not normalised"),
    "small buffer": ({"out": np.zeros((1, 3, 5, 5), np.float32)}, ValueError, "out must be"),
    "buffer of levels": ({"out": np.zeros((1, 3, *SIZE), np.uint8)}, TypeError, "out must be"),
    "strided buffer": (
        {"out": np.zeros((1, 3, SIZE[0], 2 * SIZE[1]), np.float32)[..., ::2]},
        ValueError,
        "contiguous",
    ),
    "no thread": ({"threads": 0}, ValueError, "threads"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case: str) -> None:
    change, error, words = BAD[case]
    with pytest.raises(error, match=words):
        ops.preprocess(**{**GOOD, **change})
