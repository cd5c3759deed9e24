"""TensorRT for RTX: engines may be built on any machine; the GPU that runs them completes compilation."""

from __future__ import annotations

from lfpose_edge.backends import tensorrt
from lfpose_edge.backends.base import Backend, Request
from lfpose_edge.bundle import Bundle


def unavailable() -> str | None:
    """Why TensorRT for RTX cannot be used here, or None."""
    return tensorrt.unavailable("tensorrt_rtx")


def load(bundle: Bundle, request: Request) -> Backend:
    """Load a bundle's engine; see :func:`lfpose_edge.backends.tensorrt.load`."""
    return tensorrt.load(bundle, request, "tensorrt_rtx")
