"""From a frame and its crop affines to joints: crop, network and decode, on the CPU or on a GPU."""

from __future__ import annotations

from lfpose_edge.backends import Backend
from lfpose_edge.backends.base import DeviceBackend
from lfpose_edge.pipeline.base import Located, Pipeline, Stages, cut
from lfpose_edge.pipeline.host import HostPipeline

__all__ = ["Located", "Pipeline", "Stages", "cut", "open_pipeline"]


def open_pipeline(backend: Backend, stages: Stages) -> Pipeline:
    """Open the pipeline for an engine: on the GPU if the engine runs there, otherwise on the CPU."""
    if isinstance(backend, DeviceBackend):
        from lfpose_edge.pipeline.device import DevicePipeline

        return DevicePipeline(backend, stages)
    return HostPipeline(backend, stages)
