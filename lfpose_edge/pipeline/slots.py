"""The memory of frames in flight on a GPU, and the launches captured on that memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.backends.base import Context
from lfpose_edge.pipeline.base import Affines, Stages

if TYPE_CHECKING:
    from lfpose_edge._cuda import DeviceArray, Graph, Stream

FLOAT, DOUBLE, BYTE = (np.dtype(kind) for kind in (np.float32, np.float64, np.uint8))


class Slot:
    """The memory of one frame in flight, and the events that order the work on it.

    The streams are those of :class:`lfpose_edge.pipeline.device.DevicePipeline`.

    Attributes:
        frame: the last frame uploaded from the host; frames of the same size share one array.
        uploaded: the frame's inputs are on the GPU. Recorded on the upload stream; the compute stream waits
            for it and, when the joints stay on the GPU, so does the host before it rewrites its memory.
        cut: the caller's GPU image is no longer read. Recorded on the compute stream; the host waits for it.
        computed: the joints are computed. Recorded on the compute stream; the leaving stream waits for it.
        done: the joints are at their destination. Recorded on the leaving stream; the host and the slot's
            next uploads wait for it.
    """

    def __init__(self, stream: Stream) -> None:
        from lfpose_edge._cuda import Event

        self._stream = stream
        self.uploaded, self.cut, self.computed, self.done = (Event(stream.device) for _ in range(4))
        self.frame: DeviceArray | None = None
        self._memory: tuple[DeviceArray, NDArray[np.uint8]] | None = None
        self._batches: dict[int, Batch] = {}

    def frame_of(self, shape: tuple[int, ...]) -> tuple[DeviceArray, NDArray[np.uint8]]:
        """Device and pinned host memory for a frame; it grows as needed and never shrinks."""
        from lfpose_edge._cuda import DeviceArray, pinned_array

        size = prod(shape)
        if self._memory is None or self._memory[1].size < size:
            self.settle()
            self.frame = self._memory = None
            for batch in self._batches.values():  # their graphs use the old memory
                batch.whole = Captured()
            pinned = pinned_array((size,), BYTE, self._stream.device)
            self._memory = DeviceArray.empty((size,), BYTE, self._stream), pinned
        on_device, pinned = self._memory
        if self.frame is None or self.frame.shape != shape:
            self.frame = on_device.head(shape)
        return self.frame, pinned[:size].reshape(shape)

    def batch_for(self, crops: int, make: Callable[[int], Batch]) -> Batch:
        """The smallest batch that fits ``crops`` and is less than twice as large; made if there is none."""
        fitting = [size for size in self._batches if crops <= size < 2 * crops]
        if fitting:
            return self._batches[min(fitting)]
        batch = make(crops)
        return self._batches.setdefault(batch.size, batch)

    def settle(self) -> None:
        """Wait for the work in progress."""
        self.done.synchronize()


@dataclass
class Captured:
    """Stages that become a single launch.

    Without a source they have not run yet. With a source but no graph they have run once on that source,
    which warmed up the engine, and are captured the next time. With both, the graph is launched.
    """

    source: DeviceArray | None = None
    graph: Graph | None = None


class Batch:
    """The memory of a batch of crops; a partial batch is padded with copies of its last crop.

    Attributes:
        size: how many crops it holds.
        count: how many of them are in use.
        joints: keypoints, scores and presence on the GPU.
        memory: every array that the stages read or write, except the frame.
        whole: all stages as one launch, for a frame uploaded from the host.
        tail: network and decode as one launch, for crops that were cut in a separate launch.
    """

    def __init__(self, size: int, stages: Stages, context: Context, stream: Stream) -> None:
        from lfpose_edge._cuda import DeviceArray, pinned_array, plan_crops

        def pair(shape: tuple[int, ...], kind: np.dtype[Any]) -> tuple[DeviceArray, NDArray[Any]]:
            return DeviceArray.empty(shape, kind, stream), pinned_array(shape, kind, stream.device)

        joints = (size, stages.joints)
        self.size, self._crop_size = size, stages.size
        plan_bytes = plan_crops(np.eye(2, 3)[None], stages.size).shape[1]
        self.plans, self._plans = pair((size, plan_bytes), BYTE)
        self.affines, self._affines = pair((size, 2, 3), DOUBLE)
        self.crops = DeviceArray.empty((size, 3, *stages.size), FLOAT, stream)
        self.cams = DeviceArray.empty((*joints, *stages.cells), FLOAT, stream)
        self.presence = DeviceArray.empty(joints, FLOAT, stream)
        keypoints, scores, presence = (pair(shape, FLOAT) for shape in ((*joints, 2), joints, joints))
        self.joints = (keypoints[0], scores[0], presence[0])
        self._joints = (keypoints[1], scores[1], presence[1])
        self.context = context
        self.memory = (self.plans, self.affines, self.crops, self.cams, self.presence, *self.joints)
        self.whole, self.tail = Captured(), Captured()
        self.count = 0

    def give(self, affines: Affines, stream: Stream) -> None:
        """Queue the upload of the crops' affines."""
        from lfpose_edge._cuda import plan_crops

        self.count = len(affines)
        self._affines[: self.count] = affines
        self._affines[self.count :] = affines[-1]
        self._plans[:] = plan_crops(self._affines, self._crop_size)
        self.affines.copy_from(self._affines, stream)
        self.plans.copy_from(self._plans, stream)

    def take(self, stream: Stream) -> None:
        """Queue the download of the joints."""
        for device, host in zip(self.joints, self._joints, strict=True):
            device.copy_to(host, stream)

    def read(self) -> tuple[NDArray[np.float32], ...]:
        """A copy of the downloaded joints."""
        return tuple(host[: self.count].copy() for host in self._joints)
