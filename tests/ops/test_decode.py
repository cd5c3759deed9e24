"""The decode kernel against its specification."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfpose_edge import ops
from lfpose_edge.ops import DecodeConfig, reference

METHODS = ("none", "quarter", "dark", "softargmax")
N, K = 2, 3
PERMUTATION = np.array([0, 2, 1])


def _affines(n: int = N) -> np.ndarray:
    """Crop pixels are image pixels, each crop elsewhere."""
    affines = np.zeros((n, 2, 3))
    affines[:, 0, 0] = affines[:, 1, 1] = 1
    affines[:, 0, 2] = 10 * np.arange(n)
    return affines


def _with_noise(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    return rng.normal(0, 3, (N, K, h, w))


def _bumps(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[:h, :w]
    cx, cy = rng.uniform(0, w, (N, K, 1, 1)), rng.uniform(0, h, (N, K, 1, 1))
    bumps = 9 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8) - 6
    return bumps + rng.normal(0, 0.3, bumps.shape)


def _one_hot(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    maps = np.full((N, K, h, w), -4.0)
    maps.reshape(N * K, -1)[np.arange(N * K), rng.integers(0, h * w, N * K)] = 5
    return maps


def _at_the_border(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    maps = _with_noise(rng, h, w)
    maps[:, 0, 0, 0], maps[:, 1, -1, -1], maps[:, 2, 0, -1] = 20, 20, 20
    return maps


def _holes(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    maps = _with_noise(rng, h, w)
    for value, share in ((np.nan, 0.2), (np.inf, 0.03), (-np.inf, 0.1)):
        maps[rng.random(maps.shape) < share] = value
    return maps


MAPS = {
    "noise": _with_noise,
    "bumps on noise": _bumps,
    "one-hot": _one_hot,
    "constant": lambda rng, h, w: np.full((N, K, h, w), rng.normal()),
    "few levels, many ties": lambda rng, h, w: rng.integers(0, 3, (N, K, h, w)),
    "peaks at the border": _at_the_border,
    "holes": _holes,
    "all NaN": lambda rng, h, w: np.full((N, K, h, w), np.nan),
    "all minus infinity": lambda rng, h, w: np.full((N, K, h, w), -np.inf),
    "saturated": lambda rng, h, w: rng.choice([-100.0, 100.0], (N, K, h, w)),
    "ramp": lambda rng, h, w: np.broadcast_to(np.linspace(-5, 5, h * w).reshape(h, w), (N, K, h, w)),
}
SIZES = ((1, 1), (1, 7), (2, 2), (7, 5), (16, 12), (9, 33))


@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flipped"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MAPS)
def test_agrees_with_the_reference(name: str, method: Any, flip: bool) -> None:
    rng = np.random.default_rng(sum(map(ord, name)))
    for h, w in SIZES:
        for factor in (1, 2, 3, 4, 8):
            cams = np.array(MAPS[name](rng, h, w), np.float32)
            presence = np.array(rng.normal(0, 5, (N, K)), np.float32)
            config = DecodeConfig(stride=float(factor), upsample=factor, method=method)
            mirror = {"flipped": np.array(MAPS[name](rng, h, w), np.float32), "flip_permutation": PERMUTATION}
            options = mirror if flip else {}
            got = ops.decode(cams, presence, _affines(), config, **options)
            expected = reference.decode(cams, presence, _affines(), config, **options)
            where = f"{h}x{w}, factor {factor}"
            np.testing.assert_allclose(got[0], expected[0], atol=1e-4, rtol=0, err_msg=where)
            np.testing.assert_allclose(got[1], expected[1], atol=1e-6, err_msg=where)
            np.testing.assert_allclose(got[2], expected[2], atol=1e-6, err_msg=where)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 24), st.integers(1, 9), st.booleans())
def test_the_peak_is_that_of_the_upsampled_map(seed: int, h: int, w: int, factor: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    cam = rng.normal(0, 2, (h, w)).astype(np.float32)
    if ties:
        cam = np.round(cam)
    upsampled = reference.upsample_bilinear(cam, factor)
    row, column = divmod(int(upsampled.argmax()), w * factor)
    config = DecodeConfig(stride=float(factor), upsample=factor, method="none")
    presence = np.zeros((1, 1), np.float32)
    keypoints, scores, _ = ops.decode(cam[None, None], presence, _affines(1), config)
    assert keypoints[0, 0].tolist() == [column + 0.5, row + 0.5]
    assert scores[0, 0] == pytest.approx(1 / (1 + np.exp(-float(upsampled[row, column]))), abs=1e-6)


def test_upsampling_is_the_half_pixel_one() -> None:
    cv2 = pytest.importorskip("cv2")
    cam = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    theirs = cv2.resize(cam, (20, 28), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(reference.upsample_bilinear(cam, 4), theirs, atol=1e-5)


@pytest.mark.parametrize("method", ["dark", "softargmax"])
def test_refinement_finds_the_centre_of_a_gaussian(method: Any) -> None:
    y, x = np.mgrid[:48, :48] + 0.5
    errors = []
    for cx, cy in np.random.default_rng(1).uniform(8, 40, (50, 2)):
        probability = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 1.5**2)).clip(1e-6, 1 - 1e-3)
        logits = np.log(probability / (1 - probability)).astype(np.float32)
        config = DecodeConfig(stride=4.0, upsample=4, method=method)
        found = ops.decode(logits[None, None], np.zeros((1, 1), np.float32), _affines(1), config)[0][0, 0]
        errors.append(np.abs(found - 4 * np.array([cx, cy])).max())
    assert max(errors) < 0.5  # crop pixels; an unrefined cell is off by up to 2


def test_the_affine_is_applied_and_points_stay_in_the_crop() -> None:
    cams = np.full((1, 1, 4, 6), -5, np.float32)
    cams[0, 0, 3, 5] = 5
    affine = np.array([[[2.0, 0.5, 7.0], [-0.5, 3.0, 1.0]]])
    config = DecodeConfig(stride=8.0, upsample=2, method="none")
    found = ops.decode(cams, np.zeros((1, 1), np.float32), affine, config)[0][0, 0]
    x, y = 5.5 * 8 + 2, 3.5 * 8 + 2  # the outer half of the corner cell, where nothing is mixed in
    np.testing.assert_allclose(found, [2 * x + 0.5 * y + 7, -0.5 * x + 3 * y + 1])


def test_flip_averaging_undoes_the_mirror() -> None:
    rng = np.random.default_rng(0)
    cams = np.asarray(_bumps(rng, 16, 12), np.float32)
    mirrored = cams[:, PERMUTATION, :, ::-1]
    presence = np.zeros((N, K), np.float32)
    config = DecodeConfig(stride=4.0)
    plain = ops.decode(cams, presence, _affines(), config)
    averaged = ops.decode(cams, presence, _affines(), config, flipped=mirrored, flip_permutation=PERMUTATION)
    np.testing.assert_allclose(plain[0], averaged[0], atol=1e-4)


def test_layouts_and_thread_counts_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    cams = np.asarray(rng.normal(0, 2, (16, 14, 24, 24)), np.float32)
    presence = np.asarray(rng.normal(size=(16, 14)), np.float32)
    config = DecodeConfig(stride=4.0)
    expected = ops.decode(cams, presence, _affines(16), config)
    strided = np.repeat(cams, 2, axis=3)[..., ::2]
    transposed = np.ascontiguousarray(cams.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    for variant, threads in ((cams, 4), (strided, 1), (transposed, 2)):
        got = ops.decode(variant, presence, _affines(16), config, threads=threads)
        assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_several_python_threads_at_once() -> None:
    rng = np.random.default_rng(0)
    config = [DecodeConfig(stride=4.0, upsample=f, method=m) for f in (2, 4) for m in METHODS]
    cams = np.asarray(rng.normal(0, 2, (N, K, 20, 20)), np.float32)
    presence = np.zeros((N, K), np.float32)
    expected = [ops.decode(cams, presence, _affines(), c)[0] for c in config]
    wrong = []

    def work(i: int) -> None:
        for _ in range(200):
            if not np.array_equal(ops.decode(cams, presence, _affines(), config[i])[0], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(config))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(("n", "k"), [(0, 3), (2, 0)])
def test_nothing_to_decode(n: int, k: int) -> None:
    cams, presence = np.zeros((n, k, 4, 4), np.float32), np.zeros((n, k), np.float32)
    keypoints, scores, present = ops.decode(cams, presence, _affines(n), DecodeConfig(stride=4.0))
    assert (keypoints.shape, scores.shape, present.shape) == ((n, k, 2), (n, k), (n, k))


def test_a_presence_that_is_not_a_number_is_absence() -> None:
    presence = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    cams = np.zeros((1, 3, 4, 4), np.float32)
    assert ops.decode(cams, presence, _affines(1), DecodeConfig(stride=4.0))[2].tolist() == [[0, 1, 0]]


GOOD: dict[str, Any] = {
    "cams": np.zeros((N, K, 4, 4), np.float32),
    "presence": np.zeros((N, K), np.float32),
    "affines": _affines(),
    "config": DecodeConfig(stride=4.0),
}
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "double cams": (
        {"cams": np.zeros((N, K, 4, 4))},
        TypeError,
        r"cams must be float32 .* got float64 \(2, 3, 4, 4\)",
    ),
    "integer cams": ({"cams": np.zeros((N, K, 4, 4), np.int32)}, TypeError, "got int32"),
    "three axes": (
        {"cams": np.zeros((K, 4, 4), np.float32)},
        ValueError,
        r"\(N, K, h, w\), got float32 \(3, 4, 4\)",
    ),
    "empty maps": ({"cams": np.zeros((N, K, 0, 4), np.float32)}, ValueError, "1..4096 cells"),
    "presence of other persons": ({"presence": np.zeros((1, K), np.float32)}, ValueError, "presence must be"),
    "too few affines": ({"affines": _affines(1)}, ValueError, "affines must be"),
    "float affines": ({"affines": _affines().astype(np.float32)}, TypeError, "affines must be float64"),
    "NaN affine": ({"affines": _affines() * [[[1, 1, np.nan]]]}, ValueError, "affines must be finite"),
    "flipped without permutation": (
        {"flipped": np.zeros((N, K, 4, 4), np.float32)},
        ValueError,
        "go together",
    ),
    "permutation out of range": (
        {"flipped": np.zeros((N, K, 4, 4), np.float32), "flip_permutation": [0, 1, 3]},
        ValueError,
        r"in 0\.\.K-1",
    ),
    "flipped of another size": (
        {"flipped": np.zeros((N, K, 4, 5), np.float32), "flip_permutation": PERMUTATION},
        ValueError,
        "flipped must be",
    ),
    "no thread": ({"threads": 0}, ValueError, "threads"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case: str) -> None:
    change, error, words = BAD[case]
    with pytest.raises(error, match=words):
        ops.decode(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stride": 0}, "stride must be positive"),
        ({"stride": float("nan")}, "stride must be positive"),
        ({"upsample": 0}, r"upsample must be an int in 1\.\.64"),
        ({"upsample": 2.0}, "upsample must be an int"),
        ({"method": "drak"}, "method must be one of none, quarter, dark, softargmax, got 'drak'"),
        ({"blur_sigma": 0}, "blur_sigma"),
        ({"window": 99}, "window"),
    ],
)
def test_bad_constants_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DecodeConfig(**{"stride": 4.0, **change})
