"""The decode kernel against its specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kernel_cases import FACTORS, MAP_SHAPES, MAPS, METHODS, UNIT, bump

from lfpose_edge import _core, ops
from lfpose_edge.geometry import apply_affine
from lfpose_edge.ops import reference

TOLERANCE_PX = 1e-4


def decode_by_blocks(
    cams: np.ndarray, presence: np.ndarray, affines: np.ndarray, config: ops.DecodeConfig, **options: Any
) -> tuple[np.ndarray, ...]:
    """What the CUDA kernel does, on the CPU."""
    mirror = (options["flipped"], options["flip_permutation"]) if options else None
    return _core._decode_by_blocks(cams, presence, affines, config.spec, mirror, 1)


KERNELS = {"CPU": ops.decode, "CUDA's, on the CPU": decode_by_blocks}


def assert_same_joints(cams: np.ndarray, config: ops.DecodeConfig, **options: object) -> None:
    """Check agreement with the reference: keypoints exactly for the methods without exponentials."""
    n, k = cams.shape[:2]
    presence = np.linspace(-5, 5, n * k, dtype=np.float32).reshape(n, k)
    affines = np.tile(UNIT, (n, 1, 1))
    arguments = (np.asarray(cams, np.float32), presence, affines, config)
    expected = reference.decode(*arguments, **options)
    for kernel, decode in KERNELS.items():
        actual = decode(*arguments, **options)
        for name, a, b in zip(("keypoints", "scores", "presence"), actual, expected, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype) == ((n, k, 2)[: a.ndim], np.float32)
            tolerance = 0 if name == "keypoints" and config.method in ("none", "quarter") else TOLERANCE_PX
            worst = np.abs(a - b).max(initial=0)
            assert worst <= (tolerance if name == "keypoints" else 1e-6), (kernel, name)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", MAPS)
def test_maps(kind: str, method: ops.Method) -> None:
    for case, shape in enumerate(MAP_SHAPES.values()):
        cams = MAPS[kind](shape, np.random.default_rng(case))
        for factor in FACTORS:
            assert_same_joints(cams, ops.DecodeConfig(stride=factor, upsample=factor, method=method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 3, 48, 48), (1, 2, 64, 64), (2, 2, 64, 48)], ids=str)
def test_sizes_in_use(shape: tuple[int, ...], method: ops.Method) -> None:
    cams = bump(shape, np.random.default_rng(5))
    assert_same_joints(cams, ops.DecodeConfig(stride=4, upsample=4, method=method))


@pytest.mark.parametrize(
    "config",
    [
        ops.DecodeConfig(stride=5.5, upsample=6, method="dark", blur_sigma=0.4),
        ops.DecodeConfig(stride=2, upsample=4, method="dark", blur_sigma=2.3),
        ops.DecodeConfig(stride=8, upsample=16, method="dark"),
        ops.DecodeConfig(stride=1, upsample=1, method="dark", blur_sigma=0.2),
        ops.DecodeConfig(stride=4, upsample=5, method="softargmax", window=1),
        ops.DecodeConfig(stride=4, upsample=4, method="softargmax", window=16),
    ],
    ids=str,
)
def test_constants(config: ops.DecodeConfig) -> None:
    assert_same_joints(bump((2, 3, 20, 18), np.random.default_rng(2)), config)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["bump", "random", "odd values", "constant"])
def test_flipped(kind: str, method: ops.Method) -> None:
    rng = np.random.default_rng(3)
    cams, flipped = (MAPS[kind]((2, 3, 11, 14), rng).astype(np.float32) for _ in range(2))
    config = ops.DecodeConfig(stride=4, upsample=4, method=method)
    assert_same_joints(cams, config, flipped=flipped, flip_permutation=np.array([2, 1, 0]))


def test_a_mirrored_pair_decodes_as_one() -> None:
    cams = bump((1, 3, 12, 12), np.random.default_rng(4)).astype(np.float32)
    order = [1, 0, 2]
    arguments = (np.zeros((1, 3), np.float32), UNIT[None], ops.DecodeConfig(stride=4))
    both = ops.decode(cams, *arguments, flipped=cams[:, order, :, ::-1], flip_permutation=order)
    for a, b in zip(both, ops.decode(cams, *arguments), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "view",
    [
        lambda c: c[:, ::2],
        lambda c: c[..., ::-1],
        lambda c: c.transpose(0, 1, 3, 2),
        lambda c: np.asfortranarray(c),
    ],
    ids=["every other joint", "mirrored", "transposed", "Fortran order"],
)
def test_strides(view: Callable[[np.ndarray], np.ndarray]) -> None:
    cams = bump((2, 4, 10, 13), np.random.default_rng(6)).astype(np.float32)
    assert_same_joints(view(cams), ops.DecodeConfig(stride=4))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8)], ids=["no crops", "no joints"])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    assert_same_joints(np.zeros(shape), ops.DecodeConfig(stride=4))


def test_threads_change_nothing() -> None:
    cams = bump((3, 5, 16, 16), np.random.default_rng(7)).astype(np.float32)
    arguments = (cams, np.zeros((3, 5), np.float32), np.tile(UNIT, (3, 1, 1)), ops.DecodeConfig(stride=4))
    for a, b in zip(ops.decode(*arguments, threads=1), ops.decode(*arguments, threads=4), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("method", METHODS)
def test_a_map_gives_the_same_bits_whatever_was_decoded_before_it(method: ops.Method, factor: int) -> None:
    random = np.random.default_rng(factor)
    cams = random.normal(size=(6, 8, 16, 16)).astype(np.float32)
    presence, affines = np.ones((6, 8), np.float32), np.tile(UNIT, (6, 1, 1))
    config = ops.DecodeConfig(stride=factor, upsample=factor, method=method)
    together = ops.decode(cams, presence, affines, config, threads=1)[0]
    order = random.permutation(6)
    for threads in (1, 2, 3):
        again = ops.decode(cams[order], presence, affines, config, threads=threads)[0]
        np.testing.assert_array_equal(again, together[order])


def test_affines_map_to_the_image() -> None:
    cams = bump((2, 3, 12, 12), np.random.default_rng(8)).astype(np.float32)
    affines = np.array([[[1.5, 0.2, 30], [-0.2, 1.5, 70]], [[-0.5, 0, 9], [0, 0.5, -4]]])
    rest = (np.zeros((2, 3), np.float32), ops.DecodeConfig(stride=4))
    crop_points = ops.decode(cams, rest[0], np.tile(UNIT, (2, 1, 1)), rest[1])[0]
    image_points = ops.decode(cams, rest[0], affines, rest[1])[0]
    np.testing.assert_allclose(image_points, apply_affine(affines, crop_points), atol=1e-4)


@pytest.mark.parametrize(
    ("logit", "expected"), [(np.nan, 0), (-np.inf, 0), (np.inf, 1), (0.0, 0.5), (-200, 0), (200, 1)]
)
def test_presence(logit: float, expected: float) -> None:
    presence = np.full((1, 1), logit, np.float32)
    assert (
        ops.decode(np.zeros((1, 1, 2, 2), np.float32), presence, UNIT[None], ops.DecodeConfig(4))[2]
        == expected
    )


@pytest.mark.parametrize(
    ("method", "tolerance"), [("none", 0.75), ("quarter", 0.75), ("dark", 0.1), ("softargmax", 0.2)]
)
def test_finds_a_known_joint(method: ops.Method, tolerance: float) -> None:
    """Not only the same as the reference, but right: a smooth peak at a known place, in crop pixels."""
    y, x = np.mgrid[:24, :24] + 0.5
    for cx, cy in [(12.0, 12.0), (7.3, 15.8), (10.61, 9.13)]:
        cams = (8 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8) - 4).astype(np.float32)[None, None]
        config = ops.DecodeConfig(stride=4, upsample=4, method=method)
        keypoints = ops.decode(cams, np.zeros((1, 1), np.float32), UNIT[None], config)[0]
        # Two bilinear maps and a blur leave a bias of some tenths of a pixel of 4 per cell.
        np.testing.assert_allclose(keypoints[0, 0], [4 * cx, 4 * cy], atol=4 * tolerance)


@pytest.mark.parametrize("factor", [4, 6, 8])
def test_a_blur_by_half_cells_is_the_blur_by_pixels(factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cams = bump((2, 20, 24, 24), np.random.default_rng(9), noise=0.1).astype(np.float32)
    arguments = (cams, np.zeros((2, 20), np.float32), np.tile(UNIT, (2, 1, 1)))
    config = ops.DecodeConfig(stride=4, upsample=factor, method="dark")
    ours = ops.decode(*arguments, config)[0]
    monkeypatch.setattr(reference, "blur_step", lambda factor: 1)
    distance = np.linalg.norm(ours - reference.decode(*arguments, config)[0], axis=-1)
    assert np.median(distance) < 0.02
    assert distance.max() < 0.1  # crop pixels


@pytest.mark.parametrize(
    ("factor", "spike", "level"), [(2, 16.0, 9.0), (3, 9.0, 9.0), (4, 64.0, 49.0)], ids=["2", "3", "4"]
)
@pytest.mark.parametrize("plateau_first", [True, False])
def test_the_first_of_equal_peaks_wins(factor: int, spike: float, level: float, plateau_first: bool) -> None:
    """A lone spike, sampled off its centre, and a plateau of lower samples reach exactly the same value."""
    cam = np.zeros((20, 20), np.float32)
    cam[2:5, 12:15] = level
    cam[11, 6] = spike
    if not plateau_first:
        cam = cam[::-1]
    assert (reference.upsample_bilinear(cam, factor) == level).sum() > 1
    assert_same_joints(cam[None, None], ops.DecodeConfig(stride=factor, upsample=factor, method="none"))


levels = st.one_of(
    st.floats(-20, 20, width=32), st.sampled_from([0.0, 1.0, -1.0, 5.0]), st.floats(width=32)
)  # many ties, and anything at all


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    cam=st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(
        lambda s: arrays(np.float32, s, elements=levels)
    ),
    factor=st.integers(1, 9),
)
def test_the_peak_is_that_of_the_upsampled_map(cam: np.ndarray, factor: int) -> None:
    """Brute force: upsample, first argmax; the same position and the same bits of value."""
    upsampled = reference.upsample_bilinear(reference.sanitize(cam), factor)
    row, column = divmod(int(upsampled.argmax()), upsampled.shape[1])
    config = ops.DecodeConfig(stride=factor, upsample=factor, method="none")
    keypoints, scores, _ = ops.decode(cam[None, None], np.zeros((1, 1), np.float32), UNIT[None], config)
    assert keypoints[0, 0].tolist() == [column + 0.5, row + 0.5]
    assert scores[0, 0] == np.float32(reference.sigmoid(np.float64(upsampled[row, column])))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 24), st.integers(1, 24)),
    kind=st.sampled_from(sorted(MAPS)),
    factor=st.integers(1, 6),
    method=st.sampled_from(METHODS),
    seed=st.integers(0, 1000),
)
def test_any_map(shape: tuple[int, ...], kind: str, factor: int, method: ops.Method, seed: int) -> None:
    cams = MAPS[kind](shape, np.random.default_rng(seed))
    assert_same_joints(cams, ops.DecodeConfig(stride=factor, upsample=factor, method=method))
