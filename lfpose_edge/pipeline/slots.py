"""The memory of frames on their way through a GPU, and the launches that are captured on it."""

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
        self._batches: dict[int, Batch] = {}

    def frame_of(self, shape: tuple[int, ...]) -> tuple[DeviceArray, NDArray[np.uint8]]:
        """Memory of the device and of the host for a frame; it grows, and is never smaller again."""
        from lfpose_edge._cuda import DeviceArray, pinned_array

        size = prod(shape)
        if self._memory is None or self._memory[1].size < size:
            self.settle()
            self.frame = self._memory = None
            for batch in self._batches.values():  # their graphs hold the memory of smaller frames
                batch.whole = Captured()
            pinned = pinned_array((size,), BYTE, self._stream.device)
            self._memory = DeviceArray.empty((size,), BYTE, self._stream), pinned
        on_device, pinned = self._memory
        if self.frame is None or self.frame.shape != shape:
            self.frame = on_device.head(shape)
        return self.frame, pinned[:size].reshape(shape)

    def batch_for(self, crops: int, make: Callable[[int], Batch]) -> Batch:
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
class Captured:
    """Stages on their way to be one launch.

    With no source they are yet to run; with a source and no graph they have run once on it, so that the
    engine has made itself ready, and are captured the next time; with both they are launched.
    """

    source: DeviceArray | None = None
    graph: Graph | None = None


class Batch:
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
