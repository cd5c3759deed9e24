"""The kernels on a CUDA device: the same two functions, for arrays in GPU memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.ops.config import DecodeConfig

if TYPE_CHECKING:
    from lfpose_edge._cuda import DeviceArray, Stream


def require_device(device: int = 0) -> None:
    """Check that there is a CUDA device, without creating anything on it.

    Raises:
        BackendUnavailable: this package was built without the kernels, there is no such device, or there is
            no driver that its CUDA runtime can use.
    """
    try:
        _cuda = import_module("lfpose_edge._cuda")
    except ImportError as error:
        message = (
            "this lfpose-edge was built without its CUDA kernels: install it again where nvcc of CUDA 11.8 "
            "or later is on PATH (--config-settings=cmake.define.LFPOSE_CUDA=ON says what is missing)"
        )
        raise BackendUnavailable(message) from error
    try:
        count = _cuda.device_count()
    except _cuda.CudaError as error:
        message = f"no CUDA device can be used: {error}; install NVIDIA's driver, or a newer one"
        raise BackendUnavailable(message) from error
    if not 0 <= device < count:
        message = f"there is no device cuda:{device}: this machine has {count} (lfpose doctor)"
        raise BackendUnavailable(message)


def open_device(device: int = 0) -> Stream:
    """Make a stream on a CUDA device.

    Raises:
        BackendUnavailable: as :func:`require_device`; the device cannot be used.
    """
    require_device(device)
    from lfpose_edge._cuda import CudaError, Stream

    try:
        return Stream(device)
    except CudaError as error:
        message = f"cuda:{device} cannot be used: {error}"
        raise BackendUnavailable(message) from error


@contextmanager
def device_errors() -> Iterator[None]:
    """Convert CUDA errors to :class:`BackendUnavailable`."""
    from lfpose_edge._cuda import CudaError

    try:
        yield
    except CudaError as error:
        message = f"the GPU fails: {error}"
        raise BackendUnavailable(message) from error


@contextmanager
def current_device(device: int) -> Iterator[None]:
    """Make a device's primary context this thread's current one, for libraries that use the current one."""
    from lfpose_edge._cuda import enter_device, leave_device

    enter_device(device)
    try:
        yield
    finally:
        leave_device()


@contextmanager
def where_made(device: int) -> Iterator[None]:
    """As :func:`current_device`, for freeing resources; if the device fails, the block runs all the same."""
    with ExitStack() as here:
        with suppress(BackendUnavailable), device_errors():
            here.enter_context(current_device(device))
        yield


def on_device(array: Any, stream: Stream) -> DeviceArray:
    """An array on the stream's device: a copy of a NumPy array, or a GPU array used in place.

    Args:
        array: a NumPy array, or one with ``__dlpack__`` or ``__cuda_array_interface__``, such as torch's or
            CuPy's.
        stream: waits for pending work on the array.

    Raises:
        TypeError: it is not such an array, or not in GPU memory.
        ValueError: it is on another device.
    """
    from lfpose_edge._cuda import DeviceArray

    if not isinstance(array, np.ndarray):
        return DeviceArray.lent_by(array, stream)
    copy = DeviceArray.empty(array.shape, array.dtype, stream)
    copy.upload(np.ascontiguousarray(array))
    return copy


def preprocess(
    image: DeviceArray,
    affines: NDArray[np.float64],
    size: tuple[int, int],
    stream: Stream,
    *,
    swap_rb: bool = False,
    mean: Sequence[float] = (0, 0, 0),
    std: Sequence[float] = (1, 1, 1),
    border: Sequence[float] = (0, 0, 0),
    dtype: DTypeLike = np.float32,
    step: float = 1.0,
    layout: Literal["packed", "nv12"] = "packed",
) -> DeviceArray:
    """Cut crops out of an image, all in one launch; see :func:`lfpose_edge.ops.preprocess`.

    Args:
        image: uint8, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) whose rows are packed; or, with the layout
            ``nv12``, (3 H / 2, W): H rows of luma, then H / 2 rows of interleaved U and V, read as BGR.
        affines: (N, 2, 3) float64 on the host, crop to image coordinates.
        size: crop ``(height, width)``.
        stream: the stream to run on; the result is ready when its work is done.
        swap_rb: reverse the order of the channels.
        mean: grey levels to subtract, in the output's channel order.
        std: grey levels to divide by, in the output's channel order.
        border: grey levels outside the image, in the image's channel order.
        dtype: float32, float16, or int8 for a network with quantised input.
        step: the quantisation step, by which normalised values are divided.
        layout: layout of the image.

    Returns:
        (N, 3, height, width) of ``dtype``.
    """
    from lfpose_edge._cuda import DeviceArray, plan_crops, preprocess_crops

    out = DeviceArray.empty((len(affines), 3, *size), np.dtype(dtype), stream)
    plans = on_device(plan_crops(affines, size), stream)
    preprocess_crops(image, plans, out, swap_rb, mean, std, border, step, stream, layout)
    return out


def decode(
    cams: DeviceArray,
    presence: DeviceArray,
    affines: NDArray[np.float64],
    config: DecodeConfig,
    stream: Stream,
    *,
    flipped: DeviceArray | None = None,
    flip_permutation: Sequence[int] | NDArray[np.integer] | None = None,
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """Turn CAMs into joints, all in one launch; see :func:`lfpose_edge.ops.decode`.

    Args:
        cams: (N, K, h, w) float32 or float16 logits.
        presence: (N, K) logits of the same dtype.
        affines: (N, 2, 3) float64 on the host.
        config: stride, upsampling and refinement.
        stream: the stream to run on; the result is ready when its work is done.
        flipped: (N, K, h, w), the CAMs of the mirrored crops.
        flip_permutation: (K,) on the host; required with ``flipped``.

    Returns:
        Keypoints (N, K, 2), scores (N, K) and presence (N, K), float32.

    Raises:
        TypeError, ValueError: an array has the wrong dtype, shape, device or stream; see ``ops.decode``.
        CudaError: the map and its window do not fit into a block's shared memory, or the device fails.
    """
    from lfpose_edge._cuda import Decoder, DeviceArray

    n, k = cams.shape[:2]
    keypoints, scores, probabilities = (
        DeviceArray.empty(shape, np.dtype(np.float32), stream) for shape in ((n, k, 2), (n, k), (n, k))
    )
    if not np.isfinite(affines).all():
        message = "affines must be finite"
        raise ValueError(message)
    order = None
    if flip_permutation is not None:
        if sorted(flip_permutation) != list(range(k)):
            message = f"flip_permutation must hold each of 0..{k - 1} once, got {flip_permutation!r}"
            raise ValueError(message)
        order = on_device(np.asarray(flip_permutation, np.int32), stream)
    Decoder(*config.constants, stream).decode(
        cams,
        presence,
        on_device(affines, stream),
        keypoints,
        scores,
        probabilities,
        stream,
        flipped=flipped,
        flip_permutation=order,
    )
    return keypoints, scores, probabilities
