"""The pipeline on a GPU: the frame goes up once, K x 4 floats a person come down.

After a warm-up cut, network and decode are one CUDA graph for every number of crops. Frames that are on the
GPU already lie elsewhere every time: their cut is a launch of its own, and the graph is the rest. The next
frame goes up, and the last one's joints come down, meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.backends.base import Context, DeviceBackend
from lfpose_edge.errors import BackendUnavailable, BundleError
from lfpose_edge.ops import gpu
from lfpose_edge.pipeline.base import Affines, Located, Stages
from lfpose_edge.sources import layout_of, on_gpu

if TYPE_CHECKING:
    from lfpose_edge._cuda import DeviceArray, Graph, Stream

logger = logging.getLogger("lfpose_edge")

AHEAD = 1  # frames that are handed over before the first is waited for
KEPT = 4  # frames on their way whose memory is kept for the next ones
_FLOAT, _DOUBLE, _BYTE = (np.dtype(kind) for kind in (np.float32, np.float64, np.uint8))


class DevicePipeline:
    """See :class:`lfpose_edge.pipeline.base.Pipeline`.

    Three streams: frames and affines go up on the first, crop, network and decode are on the second, joints
    leave on the third. Whoever takes joints over sees the third alone, so that nobody gets into a capture.

    An image may be a GPU array of any library, also a part of a larger one. It is read where it lies, and may
    be changed as soon as it was submitted: that waits until its crops are cut, behind the frames before it.

    Raises:
        BackendUnavailable: the GPU has no memory left, too little for such maps in a block, or fails.
    """

    ahead = AHEAD
    on_gpu = True

    def __init__(self, backend: DeviceBackend, stages: Stages) -> None:
        from lfpose_edge._cuda import Decoder, DeviceArray

        self._backend, self._stages = backend, stages
        self._graphs = backend.captures
        # Reentrant: a stream of results that nobody reads on gives its slots back whenever it is collected.
        self._lock = threading.RLock()
        self._closed = False
        self._free: list[_Slot] = []
        decode = stages.decode
        with gpu.device_errors():
            self._uploads, self._compute, self._leaving = (gpu.open_device(backend.device) for _ in range(3))
            self._scratch = (
                DeviceArray.empty((backend.scratch_bytes,), _BYTE, self._compute)
                if backend.scratch_bytes
                else None
            )
            self._decoder = Decoder(
                decode.stride,
                decode.upsample,
                decode.method,
                decode.blur_sigma,
                decode.window,
                self._compute,
            )
        self._require_shared_memory()

    def submit(self, image: Any, affines: Affines, *, stay: bool = False) -> Callable[[], Located]:
        """See :class:`lfpose_edge.pipeline.base.Pipeline`."""
        started = perf_counter()
        slot = self._take_slot()
        most = self._stages.max_batch
        try:
            with self._lock, gpu.device_errors():
                self._uploads.wait(slot.done)  # joints that stayed on the GPU may still be computed from it
                way = _Stay(len(affines), self._stages.joints, self._leaving) if stay else _Down()
                frame, layout = self._frame_on_gpu(image, slot), layout_of(image, self._stages.color)
                for first in range(0, len(affines), most):
                    if first:
                        way.settle(slot)  # its memory is needed for the next ones
                    batch = self._launch(slot, frame, layout, affines[first : first + most])
                    slot.computed.record(self._compute)
                    self._leaving.wait(slot.computed)
                    way.take(batch, first, self._leaving)
                    slot.done.record(self._leaving)
            if frame is not slot.frame:
                with gpu.device_errors():
                    slot.cut.synchronize()  # it is the caller's again
        except BaseException:
            with suppress(BackendUnavailable), self._lock, gpu.device_errors():
                self._uploads.synchronize()  # nothing reads what the caller and the slot own
                self._compute.synchronize()
            self._give_back(slot)
            raise
        handing_over_ms = (perf_counter() - started) * 1e3

        def wait() -> Located:
            asked = perf_counter()
            try:
                with gpu.device_errors():
                    joints = way.joints(slot)
            finally:
                self._give_back(slot)
            return Located(*joints, handing_over_ms, (perf_counter() - asked) * 1e3, 0.0)

        return wait

    def close(self) -> None:
        """See :class:`lfpose_edge.pipeline.base.Pipeline`."""
        with self._lock, gpu.device_errors():
            self._closed = True
            try:
                for stream in (self._leaving, self._compute, self._uploads):
                    stream.synchronize()
            finally:
                self._free.clear()

    def _require_shared_memory(self) -> None:
        """Before the first frame: a map that no block can hold is a matter of the model."""
        from lfpose_edge._cuda import device_facts

        facts, (rows, columns) = device_facts(self._backend.device), self._stages.cells
        needed, there = self._decoder.shared_bytes(rows, columns), facts["shared_memory_bytes"]
        if needed > there:
            message = (
                f"to decode maps of {rows}x{columns} cells a block needs {needed} bytes of shared memory, "
                f"and {facts['name']} has {there}: take a CPU backend"
            )
            raise BackendUnavailable(message)

    def _take_slot(self) -> _Slot:
        """A slot that is free, or a new one: whoever keeps frames on their way keeps nobody waiting."""
        with self._lock, gpu.device_errors():
            if self._closed:
                message = "this PoseEstimator is closed"
                raise RuntimeError(message)
            return self._free.pop() if self._free else _Slot(self._compute)

    def _give_back(self, slot: _Slot) -> None:
        with self._lock:
            if not self._closed and len(self._free) < KEPT:
                self._free.insert(0, slot)  # the one that has waited longest is the next
                return
        with suppress(BackendUnavailable), gpu.device_errors():  # before its memory goes
            slot.done.synchronize()

    def _frame_on_gpu(self, image: Any, slot: _Slot) -> DeviceArray:
        """The frame in the GPU's memory: the slot's, which it goes up to, or where it is already."""
        if on_gpu(image):
            return gpu.on_device(image, self._compute)
        frame, pinned = slot.frame_of(image.shape)
        np.copyto(pinned, image)
        frame.copy_from(pinned, self._uploads)
        slot.uploaded.record(self._uploads)
        return frame

    def _launch(self, slot: _Slot, frame: DeviceArray, layout: str, affines: Affines) -> _Batch:
        batch = slot.batch_for(len(affines), self._new_batch)
        batch.give(affines, self._uploads)
        slot.uploaded.record(self._uploads)
        self._compute.wait(slot.uploaded)
        cut = partial(self._cut, batch, frame, layout)
        rest = partial(self._rest, batch)
        if frame is batch.whole.source:
            self._run(batch.whole, (cut, rest), batch, frame)
        else:  # the first of its size, or the caller's
            cut()
            slot.cut.record(self._compute)
            self._run(batch.tail, (rest,), batch, batch.crops)
            if frame is slot.frame:
                batch.whole = _Captured(frame)  # all have run on it: they are captured the next time
        return batch

    def _run(
        self, captured: _Captured, stages: Sequence[Callable[[], None]], batch: _Batch, source: DeviceArray
    ) -> None:
        """Queue stages that read ``source``, as one graph from the second time on."""
        if captured.graph is not None and captured.source is source:
            captured.graph.launch(self._compute)
        elif self._graphs and captured.source is source:
            captured.graph = self._capture(stages, (source, *batch.memory))
        else:
            for stage in stages:
                stage()
            captured.source, captured.graph = source, None  # the engine has made itself ready

    def _capture(self, stages: Sequence[Callable[[], None]], memory: Sequence[DeviceArray]) -> Graph | None:
        """Queue stages as a graph of which they are the whole; one by one where none can be had."""
        from lfpose_edge._cuda import CudaError

        compute = self._compute
        try:
            compute.begin_capture()
            try:
                for stage in stages:
                    stage()
            finally:
                graph = compute.end_capture(*memory)
            graph.launch(compute)
        except (CudaError, BundleError, BackendUnavailable) as error:
            self._graphs = False
            logger.warning("no CUDA graph, stages are launched one by one: %s", error)
            for stage in stages:
                stage()
            return None
        return graph

    def _cut(self, batch: _Batch, frame: DeviceArray, layout: str) -> None:
        """Queue the first stage."""
        from lfpose_edge._cuda import preprocess_crops

        stages, compute = self._stages, self._compute
        look = (stages.swap_rb, stages.mean, stages.std, stages.border, 1.0)
        preprocess_crops(frame, batch.plans, batch.crops, *look, compute, layout)

    def _rest(self, batch: _Batch) -> None:
        """Queue network and decode."""
        batch.context.enqueue(batch.crops, batch.cams, batch.presence, self._compute)
        self._decoder.decode(batch.cams, batch.presence, batch.affines, *batch.joints, self._compute)

    def _new_batch(self, crops: int) -> _Batch:
        bucket = min(self._stages.max_batch, 1 << (crops - 1).bit_length())
        context = self._backend.new_context(self._scratch)
        return _Batch(bucket, self._stages, context, self._compute)


class _Down:
    """Joints come down to the host, part by part."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.float32], ...]] = []
        self._coming: _Batch | None = None

    def take(self, batch: _Batch, first: int, stream: Stream) -> None:
        """Queue what brings a part of the joints, those from ``first`` on, to where they go."""
        batch.take(stream)
        self._coming = batch

    def settle(self, slot: _Slot) -> None:
        """Wait until the slot's memory is needed no more."""
        assert self._coming is not None
        slot.settle()
        self._parts.append(self._coming.read())

    def joints(self, slot: _Slot) -> tuple[Any, Any, Any]:
        """Keypoints, scores and presence of all."""
        self.settle(slot)
        keypoints, scores, presence = map(np.concatenate, zip(*self._parts, strict=True))
        return keypoints, scores, presence


class _Stay:
    """Joints stay on the GPU, in memory of their own; the methods are :class:`_Down`'s."""

    def __init__(self, persons: int, joints: int, stream: Stream) -> None:
        from lfpose_edge._cuda import DeviceArray

        def memory(*shape: int) -> DeviceArray:
            return DeviceArray.empty((persons, joints, *shape), _FLOAT, stream)

        self._joints = (memory(2), memory(), memory())

    def take(self, batch: _Batch, first: int, stream: Stream) -> None:
        for kept, found in zip(self._joints, batch.joints, strict=True):
            kept.put(found, first, batch.count, stream)

    def settle(self, slot: _Slot) -> None:
        slot.settle()

    def joints(self, slot: _Slot) -> tuple[Any, Any, Any]:
        slot.uploaded.synchronize()  # the host's side of its memory is free then
        return self._joints


class _Slot:
    """The memory of one frame on its way.

    Attributes:
        frame: the last one that came from the host; of the same size it is the same array again.
        uploaded: what the frame needs is there. Recorded on uploads; compute waits, and the host before it
            writes to its side again while the joints stay.
        cut: a frame that is the caller's is read no more. Recorded on compute; the host waits.
        computed: the joints are there. Recorded on compute; leaving waits.
        done: the joints are where they go. Recorded on leaving; the host waits, and the slot's next uploads.
    """

    def __init__(self, stream: Stream) -> None:
        from lfpose_edge._cuda import Event

        self._stream = stream
        self.uploaded, self.cut, self.computed, self.done = (Event(stream.device) for _ in range(4))
        self.frame: DeviceArray | None = None
        self._memory: tuple[DeviceArray, NDArray[np.uint8]] | None = None
        self._batches: dict[int, _Batch] = {}

    def frame_of(self, shape: tuple[int, ...]) -> tuple[DeviceArray, NDArray[np.uint8]]:
        """Memory of the device and of the host for a frame; it grows, and is never smaller again."""
        from lfpose_edge._cuda import DeviceArray, pinned_array

        size = prod(shape)
        if self._memory is None or self._memory[1].size < size:
            self.settle()
            self.frame = self._memory = None
            for batch in self._batches.values():  # their graphs hold the memory of smaller frames
                batch.whole = _Captured()
            pinned = pinned_array((size,), _BYTE, self._stream.device)
            self._memory = DeviceArray.empty((size,), _BYTE, self._stream), pinned
        on_device, pinned = self._memory
        if self.frame is None or self.frame.shape != shape:
            self.frame = on_device.head(shape)
        return self.frame, pinned[:size].reshape(shape)

    def batch_for(self, crops: int, make: Callable[[int], _Batch]) -> _Batch:
        """The smallest batch that there is memory for and that holds so many crops, but not twice as many."""
        fitting = [size for size in self._batches if crops <= size < 2 * crops]
        if fitting:
            return self._batches[min(fitting)]
        batch = make(crops)
        return self._batches.setdefault(batch.size, batch)

    def settle(self) -> None:
        """Wait for what is running."""
        self.done.synchronize()


@dataclass
class _Captured:
    """Stages on their way to be one launch.

    With no source they are yet to run; with a source and no graph they have run once on it, so that the
    engine has made itself ready, and are captured the next time; with both they are launched.
    """

    source: DeviceArray | None = None
    graph: Graph | None = None


class _Batch:
    """The memory of a number of crops; fewer are filled up with the last one.

    Attributes:
        size: how many crops it holds.
        count: how many there are.
        joints: keypoints, scores and presence on the GPU.
        memory: all that the stages read and write, but for the frame.
        whole: all stages as one launch, of a frame of the host.
        tail: network and decode as one launch, of crops that were cut out of a frame of the GPU.
    """

    def __init__(self, size: int, stages: Stages, context: Context, stream: Stream) -> None:
        from lfpose_edge._cuda import DeviceArray, pinned_array, plan_crops

        def pair(shape: tuple[int, ...], kind: np.dtype[Any]) -> tuple[DeviceArray, NDArray[Any]]:
            return DeviceArray.empty(shape, kind, stream), pinned_array(shape, kind, stream.device)

        joints = (size, stages.joints)
        self.size, self._crop_size = size, stages.size
        plan_bytes = plan_crops(np.eye(2, 3)[None], stages.size).shape[1]
        self.plans, self._plans = pair((size, plan_bytes), _BYTE)
        self.affines, self._affines = pair((size, 2, 3), _DOUBLE)
        self.crops = DeviceArray.empty((size, 3, *stages.size), _FLOAT, stream)
        self.cams = DeviceArray.empty((*joints, *stages.cells), _FLOAT, stream)
        self.presence = DeviceArray.empty(joints, _FLOAT, stream)
        keypoints, scores, presence = (pair(shape, _FLOAT) for shape in ((*joints, 2), joints, joints))
        self.joints = (keypoints[0], scores[0], presence[0])
        self._joints = (keypoints[1], scores[1], presence[1])
        self.context = context
        self.memory = (self.plans, self.affines, self.crops, self.cams, self.presence, *self.joints)
        self.whole, self.tail = _Captured(), _Captured()
        self.count = 0

    def give(self, affines: Affines, stream: Stream) -> None:
        """Send the crops' affines up."""
        from lfpose_edge._cuda import plan_crops

        self.count = len(affines)
        self._affines[: self.count] = affines
        self._affines[self.count :] = affines[-1]
        self._plans[:] = plan_crops(self._affines, self._crop_size)
        self.affines.copy_from(self._affines, stream)
        self.plans.copy_from(self._plans, stream)

    def take(self, stream: Stream) -> None:
        """Send the joints down."""
        for device, host in zip(self.joints, self._joints, strict=True):
            device.copy_to(host, stream)

    def read(self) -> tuple[NDArray[np.float32], ...]:
        """The joints that came down."""
        return tuple(host[: self.count].copy() for host in self._joints)
