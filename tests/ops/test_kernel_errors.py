"""What the kernels refuse, with messages that say what was given and what was expected."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from lfpose_edge import ops

F32, F64, U8 = np.float32, np.float64, np.uint8


def crop_arguments(**changes: Any) -> dict[str, Any]:
    return {"image": np.zeros((4, 5, 3), U8), "affines": np.zeros((2, 2, 3)), "size": (3, 3)} | changes


def decode_arguments(**changes: Any) -> dict[str, Any]:
    given = {
        "cams": np.zeros((2, 3, 4, 5), F32),
        "presence": np.zeros((2, 3), F32),
        "affines": np.zeros((2, 2, 3)),
        "config": ops.DecodeConfig(stride=4),
    }
    return given | changes


def with_nan() -> np.ndarray:
    affines = np.zeros((2, 2, 3))
    affines[1, 0, 2] = np.nan
    return affines


read_only = np.zeros((2, 3, 3, 3), F32)
read_only.flags.writeable = False
unaligned = np.frombuffer(bytearray(2 * 3 * 3 * 3 * 4 + 1), F32, offset=1).reshape(2, 3, 3, 3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": np.zeros((4, 5, 3), F32)}, TypeError, r"image must be uint8 .* got float32 \(4, 5, 3\)"),
        ({"image": [[1]]}, TypeError, "got list"),
        ({"image": None}, TypeError, "got NoneType"),
        ({"image": np.zeros((4, 5, 2), U8)}, ValueError, r"got uint8 \(4, 5, 2\)"),
        ({"image": np.zeros(4, U8)}, ValueError, r"got uint8 \(4,\)"),
        ({"image": np.zeros((1, 4, 5, 3), U8)}, ValueError, r"got uint8 \(1, 4, 5, 3\)"),
        ({"image": np.zeros((0, 5, 3), U8)}, ValueError, r"got uint8 \(0, 5, 3\)"),
        ({"affines": np.zeros((2, 2, 3), F32)}, TypeError, r"affines must be float64 .* got float32"),
        ({"affines": np.zeros((2, 3))}, ValueError, r"affines must be float64 of shape \(N, 2, 3\), got"),
        ({"affines": np.zeros((2, 3, 3))}, ValueError, r"affines must .* \(2, 2, 3\), got \(2, 3, 3\)"),
        ({"affines": with_nan()}, ValueError, "affine 1 is not"),
        ({"affines": np.full((1, 2, 3), np.inf)}, ValueError, "affine 0 is not"),
        ({"size": (0, 3)}, ValueError, "size must be"),
        ({"size": (3, -1)}, ValueError, "size must be"),
        ({"std": (1, 0, 1)}, ValueError, "std must not be zero"),
        ({"std": (1, 1)}, ValueError, "std must be three finite numbers"),
        ({"mean": (1, np.nan, 1)}, ValueError, "mean must be three finite numbers"),
        ({"mean": 3}, ValueError, "mean must be three finite numbers"),
        ({"border": (1, "a", 1)}, ValueError, "border must be three finite numbers"),
        ({"dtype": np.float64}, TypeError, "dtype must be float32 or uint8, got float64"),
        ({"dtype": U8, "mean": (1, 1, 1)}, ValueError, "not normalised"),
        ({"dtype": U8, "std": (2, 2, 2)}, ValueError, "not normalised"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"out": np.zeros((2, 3, 3, 3))}, TypeError, r"out must be float32, got float64 \(2, 3, 3, 3\)"),
        ({"out": np.zeros((2, 3, 3, 4), F32)}, ValueError, r"out must have shape \(2, 3, 3, 3\)"),
        ({"out": np.zeros((2, 3, 3, 6), F32)[..., ::2]}, ValueError, "C-contiguous"),
        ({"out": np.zeros((2, 3, 3, 4), F32)[..., :3].transpose(0, 3, 1, 2)}, ValueError, "or channels-last"),
        ({"out": read_only}, ValueError, "writeable"),
        ({"out": unaligned}, ValueError, "aligned"),
        (
            {"size": (2_000_000, 1)},
            ValueError,
            r"size must be \(height, width\) in 1..1048576, got \(2000000, 1\)",
        ),
    ],
)
def test_preprocess_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = crop_arguments(**changes)
    with pytest.raises(error, match=message):
        ops.preprocess(**arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"cams": np.zeros((3, 4))},
            TypeError,
            r"cams must be float32 of shape \(N, K, h, w\), got float64 \(3, 4\)",
        ),
        ({"cams": np.zeros((3, 4), F32)}, ValueError, r"cams must be .* got float32 \(3, 4\)"),
        ({"cams": np.zeros((2, 3, 4, 5), np.float16)}, TypeError, "got float16"),
        ({"cams": np.zeros((2, 3, 4, 5), ">f4")}, TypeError, "got >f4"),
        ({"cams": None}, TypeError, "got NoneType"),
        ({"cams": np.zeros((2, 3, 0, 5), F32)}, ValueError, "cams must be maps with sides in"),
        ({"presence": np.zeros((2, 3))}, TypeError, "presence must be float32"),
        ({"presence": np.zeros((2, 4), F32)}, ValueError, r"presence must have shape \(2, 3\), got \(2, 4\)"),
        ({"presence": np.zeros(6, F32)}, ValueError, r"presence must be .* got float32 \(6,\)"),
        ({"affines": np.zeros((1, 2, 3))}, ValueError, r"must have shape \(2, 2, 3\), got \(1, 2, 3\)"),
        ({"affines": with_nan()}, ValueError, "affine 1 is not"),
        ({"flipped": np.zeros((2, 3, 4, 5), F32)}, ValueError, "flip_permutation must hold each of 0..2"),
        (
            {"flipped": np.zeros((2, 3, 5, 4), F32), "flip_permutation": [0, 1, 2]},
            ValueError,
            "must have shape",
        ),
        ({"flipped": np.zeros((2, 3, 4, 5)), "flip_permutation": [0, 1, 2]}, TypeError, "flipped must be"),
        ({"flipped": np.zeros((2, 3, 4, 5), F32), "flip_permutation": [0, 1, 3]}, ValueError, "each of 0..2"),
        ({"flipped": np.zeros((2, 3, 4, 5), F32), "flip_permutation": [0, 1, 1]}, ValueError, "each of 0..2"),
        ({"flipped": np.zeros((2, 3, 4, 5), F32), "flip_permutation": [0, 1]}, ValueError, "each of 0..2"),
        ({"flipped": np.zeros((2, 3, 4, 5), F32), "flip_permutation": "abc"}, ValueError, "each of 0..2"),
        (
            {"flipped": np.zeros((2, 3, 4, 5), F32), "flip_permutation": [0.9, 1.2, 2.7]},
            ValueError,
            "each of",
        ),
        (
            {"flipped": np.zeros((2, 3, 4, 5), F32), "flip_permutation": ["0", "1", "2"]},
            ValueError,
            "each of",
        ),
        ({"threads": -1}, ValueError, "threads must be at least 1"),
    ],
)
def test_decode_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = decode_arguments(**changes)
    with pytest.raises(error, match=message):
        ops.decode(**arguments)


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": 0}, {"stride": -4.0}, {"stride": np.inf}, {"stride": np.nan},
        {"upsample": 0}, {"upsample": 2.5}, {"upsample": 1000},
        {"method": "best"}, {"method": ""},
        {"blur_sigma": 0.0}, {"blur_sigma": np.nan}, {"blur_sigma": 100.0},
        {"window": 0}, {"window": 1.5}, {"window": 100},
    ],
    ids=str,
)  # fmt: skip
def test_config_refuses(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"DecodeConfig.{name}"):
        ops.DecodeConfig(**({"stride": 4.0} | changes))


def test_the_arguments_that_the_tables_change_are_good() -> None:
    assert ops.preprocess(**crop_arguments()).shape == (2, 3, 3, 3)
    assert ops.decode(**decode_arguments())[0].shape == (2, 3, 2)


def test_a_config_that_has_decoded_can_be_copied_and_pickled() -> None:
    config = ops.DecodeConfig(stride=4, method="quarter")
    cams = np.zeros((1, 1, 2, 2), np.float32)
    ops.decode(cams, np.zeros((1, 1), np.float32), np.eye(2, 3)[None], config)
    for again in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert again == config
        ops.decode(cams, np.zeros((1, 1), np.float32), np.eye(2, 3)[None], again)
