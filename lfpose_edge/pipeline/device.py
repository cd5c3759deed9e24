"""The pipeline on a GPU: the frame goes up once, K x 4 floats a person come down.

After a warm-up cut, network and decode are one CUDA graph for every number of crops. Frames that are on the
GPU already lie elsewhere every time: their cut is a launch of its own, and the graph is the rest. The next
frame goes up, and the last one's joints come down, meanwhile.
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

AHEAD = 1  # frames that are handed over before the first is waited for
KEPT = 4  # frames on their way whose memory is kept for the next ones


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
            pinned = self._on_host(image, slot)  # the slot is this call's alone: others may go on meanwhile
            with self._lock, gpu.device_errors():
                self._check_open()  # still: or what contexts work in is gone
                self._uploads.wait(slot.done)  # joints that stayed on the GPU may still be computed from it
                self._last_to_stay = slot if stay else None
                way = _Stay(len(affines), self._stages.joints, self._leaving) if stay else _Down()
                frame = self._frame_on_gpu(image, slot, pinned)
                layout = layout_of(image, self._stages.color)
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
        """Give a slot back whose work failed, once nothing reads what it and the caller own."""
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
                with gpu.where_made(self._backend.device):  # as the engine's contexts were
                    self._free.clear()
                    self._last_to_stay = self._scratch = None

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

    def _take_slot(self, *, stay: bool) -> Slot:
        """A slot that is free, or a new one: whoever keeps frames on their way keeps nobody waiting.

        Nor does who has joints stay: the last may still be computed, and the next frame goes up meanwhile.
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
        # No lock: the collector may come here in a thread that holds an engine's, which another waits for.
        if not self._closed and len(self._free) < KEPT:
            self._free.insert(0, slot)  # the one that has waited longest is the next
            if self._closed:  # meanwhile
                self._free.clear()
            return
        with suppress(BackendUnavailable), gpu.device_errors():  # before its memory goes
            slot.done.synchronize()

    @staticmethod
    def _on_host(image: Any, slot: Slot) -> NDArray[np.uint8] | None:
        """A frame of the host's in the slot's pinned memory, which it goes up from; None: it is on a GPU."""
        if on_gpu(image):
            return None
        with gpu.device_errors():
            _, pinned = slot.frame_of(image.shape)
        np.copyto(pinned, image)
        return pinned

    def _frame_on_gpu(self, image: Any, slot: Slot, pinned: NDArray[np.uint8] | None) -> DeviceArray:
        """The frame in the GPU's memory: the slot's, which it goes up to, or where it is already."""
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
        else:  # the first of its size, or the caller's
            cut()
            slot.cut.record(self._compute)
            self._run(batch.tail, (rest,), batch, batch.crops)
            if frame is slot.frame:
                batch.whole = Captured(frame)  # all have run on it: they are captured the next time
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
            captured.source, captured.graph = source, None  # the engine has made itself ready

    def _capture(self, stages: Sequence[Callable[[], None]], memory: Sequence[DeviceArray]) -> Graph | None:
        """Queue stages as a graph of which they are the whole; one by one where none can be had."""
        from lfpose_edge._cuda import CudaError

        compute = self._compute
        try:
            try:
                compute.begin_capture()
                for stage in stages:
                    stage()
                graph = compute.end_capture(*memory)
            except BaseException:  # a stop among them: a stream that goes on capturing does nothing else
                with suppress(CudaError):  # it had not begun, or has ended
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
        """Queue the first stage."""
        from lfpose_edge._cuda import preprocess_crops

        stages, compute = self._stages, self._compute
        look = (stages.swap_rb, stages.mean, stages.std, stages.border, 1.0)
        preprocess_crops(frame, batch.plans, batch.crops, *look, compute, layout)

    def _rest(self, batch: Batch) -> None:
        """Queue network and decode."""
        batch.context.enqueue(batch.crops, batch.cams, batch.presence, self._compute)
        self._decoder.decode(batch.cams, batch.presence, batch.affines, *batch.joints, self._compute)

    def _new_batch(self, crops: int) -> Batch:
        bucket = min(self._stages.max_batch, 1 << (crops - 1).bit_length())
        context = self._backend.new_context(self._scratch)
        return Batch(bucket, self._stages, context, self._compute)


class _Down:
    """Joints come down to the host, part by part."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.float32], ...]] = []
        self._coming: Batch | None = None

    def take(self, batch: Batch, first: int, stream: Stream) -> None:
        """Queue what brings a part of the joints, those from ``first`` on, to where they go."""
        batch.take(stream)
        self._coming = batch

    def settle(self, slot: Slot) -> None:
        """Wait until the slot's memory is needed no more."""
        assert self._coming is not None
        slot.settle()
        self._parts.append(self._coming.read())

    def joints(self, slot: Slot) -> tuple[Any, Any, Any]:
        """Keypoints, scores and presence of all."""
        self.settle(slot)
        keypoints, scores, presence = map(np.concatenate, zip(*self._parts, strict=True))
        return keypoints, scores, presence


class _Stay:
    """Joints stay on the GPU, in memory of their own; the methods are :class:`_Down`'s."""

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
        slot.uploaded.synchronize()  # the host's side of its memory is free then
        return self._joints
