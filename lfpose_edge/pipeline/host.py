"""The pipeline on the CPU: C++ kernels around an engine that takes arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from lfpose_edge import ops
from lfpose_edge.backends import Backend
from lfpose_edge.backends.base import crop_memory
from lfpose_edge.pipeline.base import Affines, Floats, Located, Stages, cut
from lfpose_edge.sources import packed


class HostPipeline:
    """See :class:`lfpose_edge.pipeline.base.Pipeline`. ``submit`` does all of the work."""

    ahead = 0
    on_gpu = False

    def __init__(self, backend: Backend, stages: Stages) -> None:
        self._backend, self._stages = backend, stages
        self._buffers = threading.local()

    def submit(self, image: Any, affines: Affines, *, stay: bool = False) -> Callable[[], Located]:
        """See :class:`lfpose_edge.pipeline.base.Pipeline`."""
        assert not stay, "there is no GPU to stay on"
        stages = self._stages
        image = packed(image, stages.color)
        parts, spent = [], np.zeros(3)
        for first in range(0, len(affines), stages.max_batch):
            chunk = affines[first : first + stages.max_batch]
            a = perf_counter()
            crops = cut(image, chunk, stages, self._buffer(len(chunk)))
            b = perf_counter()
            cams, presence = self._backend.infer(crops)
            c = perf_counter()
            parts.append(ops.decode(cams, presence, chunk, stages.decode, threads=stages.threads))
            spent += (b - a, c - b, perf_counter() - c)
        joints = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        located = Located(*joints, *(spent * 1e3).tolist())
        return lambda: located

    def close(self) -> None:
        """See :class:`lfpose_edge.pipeline.base.Pipeline`."""
        self._buffers = threading.local()

    def _buffer(self, n: int) -> Floats:
        """This thread's buffer for n crops; it is reused, so that memory does not grow in a long run."""
        buffer: Floats | None = getattr(self._buffers, "crops", None)
        if buffer is None or len(buffer) < n:
            buffer = crop_memory(n, self._stages.size, channels_last=self._backend.channels_last)
            self._buffers.crops = buffer
        return buffer[:n]
