"""Use pycuda together with an estimator, in a context that both share.

``pycuda.autoinit`` makes a context of its own, whose memory no other library can read. Here pycuda uses the
device's primary context, as CUDA's runtime, torch and the estimator do:

>>> with primary_context():
...     frame = pycuda.gpuarray.to_gpu(image)
...     poses = estimator(frame, to="device")
...     keypoints = as_gpuarray(poses.keypoints)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.ops import gpu

if TYPE_CHECKING:
    from lfpose_edge._cuda import DeviceArray

_DEFAULT_STREAM = 1  # DLPack's number for the legacy default stream, which pycuda uses by default


@contextmanager
def primary_context(device: int = 0) -> Iterator[Any]:
    """Make a device's primary context this thread's current one for pycuda.

    Args:
        device: the GPU's number.

    Yields:
        The ``pycuda.driver.Context``. It is retained rather than created, and released at the end.

    Raises:
        BackendUnavailable: pycuda is not installed or does not load, or there is no such device.
    """
    gpu.require_device(device)
    driver = _driver()
    driver.init()
    context = driver.Device(device).retain_primary_context()
    context.push()
    try:
        yield context
    finally:
        context.pop()


def as_gpuarray(array: DeviceArray) -> Any:
    """An estimator's array as a ``pycuda.gpuarray.GPUArray``, without a copy.

    Later work on pycuda's default stream waits for the array; the result keeps the array's memory alive.
    """
    holder: Any = _driver().PointerHolderBase

    class Borrowed(holder):  # type: ignore[misc]
        def get_pointer(self) -> int:
            return int(array.__cuda_array_interface__["data"][0])

    array.__dlpack__(stream=_DEFAULT_STREAM)  # makes that stream wait; the capsule is not needed
    gpuarray = import_module("pycuda.gpuarray")
    return gpuarray.GPUArray(array.shape, array.dtype, gpudata=Borrowed(), base=array)


def _driver() -> Any:
    try:
        return import_module("pycuda.driver")
    except ImportError as error:
        message = f"pycuda cannot be imported ({str(error).splitlines()[0]}): pip install '.[tensorrt]'"
        raise BackendUnavailable(message) from error
