from typing import Any

from numpy.typing import NDArray

def preprocess(
    image: NDArray[Any],
    affines: NDArray[Any],
    size: tuple[int, int],
    *,
    swap_rb: bool,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    border: tuple[float, float, float],
    dtype: Any,
    threads: int,
    out: NDArray[Any] | None,
) -> NDArray[Any]: ...
def decode(
    cams: NDArray[Any],
    presence: NDArray[Any],
    affines: NDArray[Any],
    *,
    stride: float,
    upsample: int,
    method: str,
    blur_sigma: float,
    window: int,
    flipped: NDArray[Any] | None,
    flip_permutation: NDArray[Any] | None,
    threads: int,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]: ...
def read_once(values: NDArray[Any]) -> float: ...
