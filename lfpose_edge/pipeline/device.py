"""The pipeline on a GPU: each frame is uploaded once, and K x 4 floats per person are downloaded.

After a warm-up, crop, network and decode run as one CUDA graph per batch size. Frames that are already on the
GPU have a different address every time, so cropping is a launch of its own and the graph holds the rest.
Meanwhile the next frame is uploaded and the last one's joints are downloaded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.backends.base import DeviceBackend
from lfpose_edge.errors import BackendUnavailable, BundleError
from lfpose_edge.ops import gpu
from lfpose_edge.pipeline.base import Affines, Located, Stages
from lfpose_edge.pipeline.slots import BYTE, FLOAT, Batch, Captured, Slot
from lfpose_edge.sources import layout_of, on_gpu

if TYPE_CHECKING:
    from lfpose_edge._cuda import DeviceArray, Graph, Stream

logger = logging.getLogger("lfpose_edge")

AHEAD = 1  # frames submitted before the first one is waited for
KEPT = 4  # free slots whose memory is kept for later frames


class DevicePipeline:
    """See :class:`lfpose_edge.pipeline.base.Pipeline`.

    There are three streams: one uploads frames and affines, one computes crops, network and decode, and one
    takes the joints out. Consumers of the joints only see the third, so they never interfere with a capture.

    An image may be a GPU array of any library, including a view of a larger one. It is read in place and may
    be changed as soon as ``submit`` returns, which waits until the crops are cut, after any earlier frames.

    Raises:
        BackendUnavailable: the GPU is out of memory, has too little shared memory for maps of this size, or
            fails.
    """

    ahead = AHEAD
    on_gpu = True

    def __init__(self, backend: DeviceBackend, stages: Stages) -> None:
        from lfpose_edge._cuda import Decoder, DeviceArray

        self._backend, self._stages = backend, stages
        self._graphs = backend.captures
        # Reentrant: the garbage collector may finish an abandoned stream's frames in a thread that holds it.
        self._lock = threading.RLock()
        self._closed = False
        self._free: list[Slot] = []
        self._last_to_stay: Slot | None = None
        with gpu.device_errors():
            self._uploads, self._compute, self._leaving = (gpu.open_device(backend.device) for _ in range(3))
            self._scratch = (
                DeviceArray.empty((backend.scratch_bytes,), BYTE, self._compute)
                if backend.scratch_bytes
                else None
            )
            self._decoder = Decoder(*stages.decode.constants, self._compute)
        self._require_shared_memory()

    def submit(self, image: Any, affines: Affines, *, stay: bool = False) -> Callable[[], Located]:
        """See :class:`lfpose_edge.pipeline.base.Pipeline`."""
        started = perf_counter()
        slot = self._take_slot(stay=stay)
        most = self._stages.max_batch
        with ExitStack() as undo:
            undo.callback(self._abandon, slot)
            pinned = self._on_host(image, slot)  # no lock needed: the slot belongs to this call alone
            with self._lock, gpu.device_errors():
                self._check_open()  # again: once closed, the contexts' memory is gone
                self._uploads.wait(slot.done)  # the slot may still be in use for joints that stay on the GPU
                self._last_to_stay = slot if stay else None
                way = _Stay(len(affines), self._stages.joints, self._leaving) if stay else _Down()
                frame = self._frame_on_gpu(image, slot, pinned)
                layout = layout_of(image, self._stages.color)
                for first in range(0, len(affines), most):
                    if first:
                        way.settle(slot)  # the next crops need its memory
                    batch = self._launch(slot, frame, layout, affines[first : first + most])
                    slot.computed.record(self._compute)
                    self._leaving.wait(slot.computed)
                    way.take(batch, first, self._leaving)
                    slot.done.record(self._leaving)
            if frame is not slot.frame:
                with gpu.device_errors():
                    slot.cut.synchronize()  # the caller may change the image again
            undo.pop_all()
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

    def _abandon(self, slot: Slot) -> None:
        """Return a slot whose work failed, once the GPU no longer reads its memory or the caller's."""
        with suppress(BackendUnavailable), self._lock, gpu.device_errors():
            self._uploads.synchronize()
            self._compute.synchronize()
        self._give_back(slot)

    def close(self) -> None:
        """See :class:`lfpose_edge.pipeline.base.Pipeline`."""
        with self._lock, gpu.device_errors():
            self._closed = True
            try:
                for stream in (self._leaving, self._compute, self._uploads):
                    stream.synchronize()
            finally:
                with gpu.where_made(self._backend.device):  # where the engine's contexts were made
                    self._free.clear()
                    self._last_to_stay = self._scratch = None

    def _require_shared_memory(self) -> None:
        """Raise BackendUnavailable if the model's maps do not fit into a block's shared memory."""
        from lfpose_edge._cuda import device_facts

        facts, (rows, columns) = device_facts(self._backend.device), self._stages.cells
        needed, there = self._decoder.shared_bytes(rows, columns), facts["shared_memory_bytes"]
        if needed > there:
            message = (
                f"to decode maps of {rows}x{columns} cells a block needs {needed} bytes of shared memory, "
                f"and {facts['name']} has {there}: take a CPU backend"
            )
            raise BackendUnavailable(message)

    def _take_slot(self, *, stay: bool) -> Slot:
        """Take a free slot or make a new one, so that frames in flight never delay other callers.

        With ``stay``, the last slot used so is not taken again at once: its joints may still be in progress
        while the next frame is uploaded.
        """
        with self._lock, gpu.device_errors():
            self._check_open()
            if self._free and not (stay and self._free[-1] is self._last_to_stay):
                return self._free.pop()
            return Slot(self._compute)

    def _check_open(self) -> None:
        if self._closed:
            message = "this PoseEstimator is closed"
            raise RuntimeError(message)

    def _give_back(self, slot: Slot) -> None:
        # No lock: the garbage collector may run this in a thread that holds an engine's lock, while the
        # holder of this pipeline's lock waits for that one.
        if not self._closed and len(self._free) < KEPT:
            self._free.insert(0, slot)  # pop() takes the slot that has been free the longest
            if self._closed:  # closed in the meantime
                self._free.clear()
            return
        with suppress(BackendUnavailable), gpu.device_errors():  # before its memory is freed
            slot.done.synchronize()

    @staticmethod
    def _on_host(image: Any, slot: Slot) -> NDArray[np.uint8] | None:
        """Copy a host frame to the slot's pinned memory, to be uploaded; None if the image is on a GPU."""
        if on_gpu(image):
            return None
        with gpu.device_errors():
            _, pinned = slot.frame_of(image.shape)
        np.copyto(pinned, image)
        return pinned

    def _frame_on_gpu(self, image: Any, slot: Slot, pinned: NDArray[np.uint8] | None) -> DeviceArray:
        """The frame in GPU memory: uploaded to the slot, or used in place if it is already there."""
        if pinned is None:
            return gpu.on_device(image, self._compute)
        frame = slot.frame
        assert frame is not None
        frame.copy_from(pinned, self._uploads)
        slot.uploaded.record(self._uploads)
        return frame

    def _launch(self, slot: Slot, frame: DeviceArray, layout: str, affines: Affines) -> Batch:
        batch = slot.batch_for(len(affines), self._new_batch)
        batch.give(affines, self._uploads)
        slot.uploaded.record(self._uploads)
        self._compute.wait(slot.uploaded)
        cut = partial(self._cut, batch, frame, layout)
        rest = partial(self._rest, batch)
        if frame is batch.whole.source:
            self._run(batch.whole, (cut, rest), batch, frame)
        else:  # the first frame of its size, or the caller's GPU array
            cut()
            slot.cut.record(self._compute)
            self._run(batch.tail, (rest,), batch, batch.crops)
            if frame is slot.frame:
                batch.whole = Captured(frame)  # all stages have run on it: capture them the next time
        return batch

    def _run(
        self, captured: Captured, stages: Sequence[Callable[[], None]], batch: Batch, source: DeviceArray
    ) -> None:
        """Queue stages that read ``source``, as one graph from the second time on."""
        if captured.graph is not None and captured.source is source:
            captured.graph.launch(self._compute)
        elif self._graphs and captured.source is source:
            captured.graph = self._capture(stages, (source, *batch.memory))
        else:
            for stage in stages:
                stage()
            captured.source, captured.graph = source, None  # the engine is warmed up now

    def _capture(self, stages: Sequence[Callable[[], None]], memory: Sequence[DeviceArray]) -> Graph | None:
        """Capture stages as a graph and launch it; queue them one by one if that is not possible."""
        from lfpose_edge._cuda import CudaError

        compute = self._compute
        try:
            try:
                compute.begin_capture()
                for stage in stages:
                    stage()
                graph = compute.end_capture(*memory)
            except BaseException:  # even Ctrl-C: a stream left capturing cannot be used for anything else
                with suppress(CudaError):  # the capture had not begun, or has ended
                    compute.end_capture()
                raise
            graph.launch(compute)
        except (CudaError, BundleError, BackendUnavailable) as error:
            self._graphs = False
            logger.warning("no CUDA graph, stages are launched one by one: %s", error)
            for stage in stages:
                stage()
            return None
        return graph

    def _cut(self, batch: Batch, frame: DeviceArray, layout: str) -> None:
        """Queue the crops."""
        from lfpose_edge._cuda import preprocess_crops

        stages, compute = self._stages, self._compute
        look = (stages.swap_rb, stages.mean, stages.std, stages.border, 1.0)
        preprocess_crops(frame, batch.plans, batch.crops, *look, compute, layout)

    def _rest(self, batch: Batch) -> None:
        """Queue the network and the decode."""
        batch.context.enqueue(batch.crops, batch.cams, batch.presence, self._compute)
        self._decoder.decode(batch.cams, batch.presence, batch.affines, *batch.joints, self._compute)

    def _new_batch(self, crops: int) -> Batch:
        bucket = min(self._stages.max_batch, 1 << (crops - 1).bit_length())
        context = self._backend.new_context(self._scratch)
        return Batch(bucket, self._stages, context, self._compute)


class _Down:
    """Brings the joints to the host, batch by batch."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.float32], ...]] = []
        self._coming: Batch | None = None

    def take(self, batch: Batch, first: int, stream: Stream) -> None:
        """Queue the transfer of a batch's joints, those from person ``first`` on, to their destination."""
        batch.take(stream)
        self._coming = batch

    def settle(self, slot: Slot) -> None:
        """Wait until the slot's memory is no longer needed."""
        assert self._coming is not None
        slot.settle()
        self._parts.append(self._coming.read())

    def joints(self, slot: Slot) -> tuple[Any, Any, Any]:
        """Keypoints, scores and presence of all persons."""
        self.settle(slot)
        keypoints, scores, presence = map(np.concatenate, zip(*self._parts, strict=True))
        return keypoints, scores, presence


class _Stay:
    """Keeps the joints on the GPU, in memory of their own; same methods as :class:`_Down`."""

    def __init__(self, persons: int, joints: int, stream: Stream) -> None:
        from lfpose_edge._cuda import DeviceArray

        def memory(*shape: int) -> DeviceArray:
            return DeviceArray.empty((persons, joints, *shape), FLOAT, stream)

        self._joints = (memory(2), memory(), memory())

    def take(self, batch: Batch, first: int, stream: Stream) -> None:
        for kept, found in zip(self._joints, batch.joints, strict=True):
            kept.put(found, first, batch.count, stream)

    def settle(self, slot: Slot) -> None:
        slot.settle()

    def joints(self, slot: Slot) -> tuple[Any, Any, Any]:
        slot.uploaded.synchronize()  # from here on the slot's pinned memory may be rewritten
        return self._joints
