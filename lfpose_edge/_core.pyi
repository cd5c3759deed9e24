from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

def preprocess(
    image: NDArray[np.uint8],
    affines: NDArray[np.float64],
    size: tuple[int, int],
    swap_rb: bool,
    mean: Sequence[float],
    std: Sequence[float],
    border: Sequence[float],
    dtype: DTypeLike,
    threads: int,
    out: NDArray[Any] | None,
) -> NDArray[Any]: ...

_preprocess_by_points = preprocess
_preprocess_nv12_by_points = preprocess

class DecodeSpec:
    def __init__(self, stride: float, upsample: int, method: str, blur_sigma: float, window: int) -> None: ...

def decode(
    cams: NDArray[np.float32],
    presence: NDArray[np.float32],
    affines: NDArray[np.float64],
    spec: DecodeSpec,
    mirror: tuple[NDArray[np.float32], Sequence[int] | NDArray[np.integer] | None] | None,
    threads: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...

_decode_by_blocks = decode

def cpu_flags() -> list[str]: ...
def instruction_set() -> str: ...
def _read_once(array: NDArray[np.float32]) -> float: ...
