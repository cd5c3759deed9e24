from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

class CudaError(RuntimeError): ...

def device_count() -> int: ...
def enter_device(device: int) -> None:
    """Make a device's primary context this thread's current one, until ``leave_device``."""
    ...

def leave_device() -> None:
    """Restore the context that was current before ``enter_device``."""
    ...

def device_facts(device: int = 0) -> dict[str, Any]:
    """Properties of a device and versions of its software.

    The keys are ``name``, ``compute_capability``, ``memory_bytes``, ``multiprocessors``,
    ``shared_memory_bytes`` (per block), ``driver`` and ``runtime``.
    """
    ...

class Event:
    """A point in a stream's work that the host and other streams can wait for."""

    def __init__(self, device: int = 0, timed: bool = False) -> None: ...
    def record(self, stream: Stream) -> None:
        """Mark the current end of the stream's work."""
        ...
    def synchronize(self) -> None: ...
    def milliseconds_since(self, earlier: Event) -> float: ...

class Stream:
    """A CUDA stream: work that runs in order."""

    def __init__(self, device: int = 0) -> None: ...
    @property
    def handle(self) -> int: ...
    @property
    def device(self) -> int: ...
    def synchronize(self) -> None: ...
    def wait(self, event: Event) -> None:
        """Make later work on this stream wait for the event; the host does not wait."""
        ...
    def begin_capture(self) -> None: ...
    def end_capture(self, *uses: object) -> Graph:
        """The work queued since ``begin_capture``, as a graph that keeps ``uses`` alive."""
        ...

class Graph:
    """Captured work, launched as a whole."""

    def launch(self, stream: Stream) -> None: ...

class DeviceArray:
    """An array in GPU memory, owned or lent by another library; made by ``empty`` or ``lent_by``."""

    @staticmethod
    def empty(shape: Sequence[int], dtype: np.dtype[Any], stream: Stream) -> DeviceArray:
        """Uninitialised memory on the stream's device; its contents are ready when that stream's work is."""
        ...
    @staticmethod
    def lent_by(array: Any, stream: Stream) -> DeviceArray:
        """Wrap an array with ``__dlpack__`` or ``__cuda_array_interface__``, without a copy.

        ``stream`` waits for pending work on the array.
        """
        ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def device(self) -> int: ...
    def head(self, shape: Sequence[int]) -> DeviceArray:
        """A view of the first elements in another shape; it shares this array's memory."""
        ...
    def upload(self, host: NDArray[Any]) -> None:
        """Copy a host array here; returns when the host array may be changed again."""
        ...
    def numpy(self) -> NDArray[Any]:
        """Wait for the array's stream and copy it to the host."""
        ...
    def copy_from(self, host: NDArray[Any], stream: Stream) -> None:
        """Queue a copy from a host array, which must stay alive and unchanged until the stream is done."""
        ...
    def copy_to(self, host: NDArray[Any], stream: Stream) -> None:
        """Queue a copy to a host array, which must stay alive until the stream is done."""
        ...
    def put(self, rows: DeviceArray, first: int, count: int, stream: Stream) -> None:
        """Queue a copy of the first ``count`` rows of ``rows`` to this array, from row ``first`` on."""
        ...
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...
    def __dlpack__(self, stream: int | None = None) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

def pinned_array(shape: Sequence[int], dtype: np.dtype[Any], device: int = 0) -> NDArray[Any]:
    """A host array in pinned memory, for copies that run beside other work."""
    ...

class Decoder:
    """The CAM decoding kernel for one set of constants; see :class:`lfpose_edge.ops.DecodeConfig`."""

    def __init__(
        self, stride: float, upsample: int, method: str, blur_sigma: float, window: int, stream: Stream
    ) -> None: ...
    def shared_bytes(self, height: int, width: int) -> int:
        """Shared memory, in bytes, that a block needs for maps of this many cells."""
        ...
    def decode(
        self,
        cams: DeviceArray,
        presence: DeviceArray,
        affines: DeviceArray,
        keypoints: DeviceArray,
        scores: DeviceArray,
        probabilities: DeviceArray,
        stream: Stream,
        flipped: DeviceArray | None = None,
        flip_permutation: DeviceArray | None = None,
    ) -> None:
        """Queue the decoding of CAMs into joints; see :func:`lfpose_edge.ops.decode`.

        Args:
            cams: (N, K, h, w) float32 or float16 logits.
            presence: (N, K) logits of the same dtype.
            affines: (N, 2, 3) float64, crop to image coordinates.
            keypoints: (N, K, 2) float32, written to.
            scores: (N, K) float32, written to.
            probabilities: (N, K) float32, the presence, written to.
            stream: the stream of all arrays.
            flipped: (N, K, h, w), CAMs of the mirrored crops.
            flip_permutation: (K,) int32; needed with ``flipped``.
        """
        ...

def plan_crops(affines: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Plans (N, bytes) on the host for ``preprocess_crops``, to be uploaded."""
    ...

def preprocess_crops(
    image: DeviceArray,
    plans: DeviceArray,
    out: DeviceArray,
    swap_rb: bool,
    mean: Sequence[float],
    std: Sequence[float],
    border: Sequence[float],
    step: float,
    stream: Stream,
    layout: str = "packed",
) -> None:
    """Queue the cutting of crops; see :func:`lfpose_edge.ops.gpu.preprocess`.

    Args:
        plans: (N, bytes) uint8, from ``plan_crops``.
        out: (N, 3, H, W) float32, float16 or int8, written to.
    """
    ...
