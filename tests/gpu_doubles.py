"""A GPU made of NumPy: ``_cuda``, as far as the runtime uses it, on arrays of the host.

Streams are lazy: work is done, in order, only when something waits for it. This exposes work that nothing
waits for and memory that is reused too early. The kernels are the reference implementation.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from lfpose_edge.ops import DecodeConfig, reference

STREAMS: dict[int, Stream] = {}
ONE_AT_A_TIME = threading.RLock()  # a waiting thread does all pending work, in order, other threads' too
MEMORY: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()  # by its address


class CudaError(RuntimeError):
    """Like that of ``_cuda``."""


class Stream:
    """Work that is not done until something waits for it."""

    def __init__(self, device: int = 0) -> None:
        self.device, self.handle = device, 1000 + len(STREAMS)
        self.work: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self.refuses_capture = False
        STREAMS[self.handle] = self

    def give(self, work: Callable[[], None]) -> None:
        (self.work if self.captured is None else self.captured).append(work)

    def synchronize(self) -> None:
        if self.captured is not None:
            message = "cannot finish the work on the device: operation not permitted when stream is capturing"
            raise CudaError(message)
        with ONE_AT_A_TIME:
            while self.work:
                self.work.pop(0)()

    def wait(self, event: Event) -> None:
        self.give(event.arrive())

    def begin_capture(self) -> None:
        if self.refuses_capture:
            message = "cannot capture a graph: not supported"
            raise CudaError(message)
        self.captured = []

    def end_capture(self, *uses: object) -> Graph:
        work, self.captured = self.captured, None
        if work is None:
            message = "cannot capture a graph: no capture"
            raise CudaError(message)
        return Graph(work, uses)


class Event:
    """A moment of a stream's work."""

    def __init__(self, device: int = 0, timed: bool = False) -> None:
        self._stream, self._length = None, 0
        self._done: Callable[[], None] = lambda: None

    def record(self, stream: Stream) -> None:
        mark = SimpleNamespace(passed=False)
        stream.give(lambda: setattr(mark, "passed", True))

        def done() -> None:
            with ONE_AT_A_TIME:
                while not mark.passed:
                    stream.work.pop(0)()

        self._done = done

    def arrive(self) -> Callable[[], None]:
        """What waits for the moment that was recorded last, even when another is recorded meanwhile."""
        return self._done

    def synchronize(self) -> None:
        self._done()


class Graph:
    """Captured work."""

    launched = 0

    def __init__(self, work: list[Callable[[], None]], uses: tuple[object, ...]) -> None:
        self._work, self._uses = work, uses

    def launch(self, stream: Stream) -> None:
        Graph.launched += 1
        for work in self._work:
            stream.give(work)


class DeviceArray:
    """Memory that only streams touch; it is its owner's, and goes when that goes."""

    allocations = 0

    def __init__(self, memory: np.ndarray, stream: Stream, owner: object = None) -> None:
        self.memory, self.stream, self.owner = memory, stream, owner
        self.shape, self.dtype, self.device = memory.shape, memory.dtype, stream.device

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: np.dtype, stream: Stream) -> DeviceArray:
        if math.prod(shape) > 1 << 28:
            message = "cannot allocate device memory: out of memory (cudaErrorMemoryAllocation)"
            raise CudaError(message)
        DeviceArray.allocations += 1
        memory = np.full(shape, 77, dtype)
        MEMORY[memory.ctypes.data] = memory
        return DeviceArray(memory, stream)

    @staticmethod
    def lent_by(array: Any, stream: Stream) -> DeviceArray:
        return DeviceArray(array.memory, stream, array)

    def head(self, shape: tuple[int, ...]) -> DeviceArray:
        return DeviceArray(self.memory.reshape(-1)[: math.prod(shape)].reshape(shape), self.stream, self)

    def upload(self, host: np.ndarray) -> None:
        self.copy_from(host, self.stream)
        self.stream.synchronize()

    def copy_from(self, host: np.ndarray, stream: Stream) -> None:
        assert (host.shape, host.dtype) == (self.shape, self.dtype)
        stream.give(lambda: np.copyto(self.memory, host))

    def copy_to(self, host: np.ndarray, stream: Stream) -> None:
        assert (host.shape, host.dtype) == (self.shape, self.dtype)
        stream.give(lambda: np.copyto(host, self.memory))

    def put(self, rows: DeviceArray, first: int, count: int, stream: Stream) -> None:
        assert rows.shape[1:] == self.shape[1:]
        assert first + count <= self.shape[0]
        assert rows.memory.flags.c_contiguous
        stream.give(lambda: np.copyto(self.memory[first : first + count], rows.memory[:count]))

    def numpy(self) -> np.ndarray:
        self.stream.synchronize()
        return self.memory.copy()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        strides = None if self.memory.flags.c_contiguous else self.memory.strides
        return {"data": (self.memory.ctypes.data, False), "strides": strides}


class TorchLike:
    """A tensor of another library, in the GPU's memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.memory, self.shape, self.dtype = array, array.shape, f"torch.{array.dtype}"

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __iter__(self) -> Iterator[TorchLike]:
        return map(TorchLike, self.memory)


class Decoder:
    """The reference's decode."""

    def __init__(
        self, stride: float, upsample: int, method: Any, sigma: float, window: int, stream: Stream
    ) -> None:
        self._config = DecodeConfig(stride, upsample, method, sigma, window)

    def shared_bytes(self, height: int, width: int) -> int:
        return 4 * height * width

    def decode(self, cams: Any, presence: Any, affines: Any, *rest: Any) -> None:
        *joints, stream = rest

        def work() -> None:
            found = reference.decode(cams.memory, presence.memory, affines.memory, self._config)
            for array, values in zip(joints, found, strict=True):
                np.copyto(array.memory, values)

        stream.give(work)


def plan_crops(affines: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    assert np.isfinite(affines).all()
    return np.ascontiguousarray(affines, np.float64).reshape(len(affines), 6).view(np.uint8)


def preprocess_crops(
    image: Any,
    plans: Any,
    out: Any,
    swap_rb: bool,
    mean: Any,
    std: Any,
    border: Any,
    step: float,
    stream: Stream,
    layout: str,
) -> None:
    assert image.stream is stream, "an array of another stream"
    assert image.dtype == np.uint8
    if not image.memory[0].flags.c_contiguous:
        message = "image must be uint8 (H, W, 3) whose rows are packed"
        raise ValueError(message)

    def work() -> None:
        affines = plans.memory.view(np.float64).reshape(-1, 2, 3)
        size = out.shape[2:]
        options = {"swap_rb": swap_rb, "mean": mean, "std": std, "border": border}
        frame = reference.nv12_to_bgr(image.memory) if layout == "nv12" else image.memory
        np.copyto(out.memory, reference.preprocess(frame, affines, size, **options))

    stream.give(work)


def cuda_module(name: str = "Tester 4000") -> ModuleType:
    """The double of ``lfpose_edge._cuda``."""
    module = ModuleType("lfpose_edge._cuda")
    kernels = (CudaError, DeviceArray, Stream, Event, Graph, Decoder, plan_crops, preprocess_crops)
    module.__dict__.update({thing.__name__: thing for thing in kernels})
    module.__dict__.update(
        device_count=lambda: 1,
        enter_device=lambda device: None,
        leave_device=lambda: None,
        device_facts=lambda device: {
            "name": name,
            "compute_capability": (8, 6),
            "multiprocessors": 46,
            "shared_memory_bytes": 101376,
        },
        pinned_array=lambda shape, dtype, device=0: np.full(
            shape, np.nan if dtype.kind == "f" else 55, dtype
        ),
    )
    return module
