"""TensorRT on an NVIDIA GPU. Engines come from the bundle or the cache, or are built here once."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from lfpose_edge.backends.base import Backend, Closed, Floats, Request
from lfpose_edge.backends.engine_cache import Gpu, open_engine
from lfpose_edge.backends.tensorrt_api import Engine, EngineContext, Flavour, TensorRt
from lfpose_edge.backends.tensorrt_api import unavailable as library_unavailable
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.ops import gpu
from lfpose_edge.zoo import default_cache_dir

if TYPE_CHECKING:
    from lfpose_edge._cuda import DeviceArray, Stream

logger = logging.getLogger("lfpose_edge")

_OLDEST = (7, 5)  # oldest compute capability that the package's kernels are built for
# Supported by TensorRT for RTX: these, and all from the last one on. Version 1.7.1 refuses engines on 9.0,
# and cannot build float32 engines for 7.5.
_RTX = ((8, 0), (8, 6), (8, 9)), (12, 0)
_DEVICE = re.compile(r"^(?:auto|cuda|cuda:(\d+))$")
Precision = Literal["fp32", "fp16", "int8"]


def unavailable(flavour: Flavour = "tensorrt") -> str | None:
    """Why TensorRT cannot be used here, or None."""
    try:
        gpu.require_device()
        from lfpose_edge._cuda import device_count

        with gpu.device_errors():
            unfit = [unfit_gpu(flavour, Gpu.of(device)) for device in range(device_count())]
    except BackendUnavailable as error:
        return str(error)
    return (unfit[0] if all(unfit) else None) or library_unavailable(flavour)


def unfit_gpu(flavour: str, found: Gpu) -> str | None:
    """Why a GPU cannot run engines of TensorRT, or of TensorRT for RTX; None if it can."""
    capability = "{}.{}".format(*found.capability)
    if found.capability < _OLDEST:
        return f"{found.name} is of compute capability {capability}: 7.5 or later is needed"
    some, onwards = _RTX
    if flavour == "tensorrt_rtx" and found.capability not in some and found.capability < onwards:
        return (
            f"TensorRT for RTX runs on GPUs of compute capability 8.0, 8.6, 8.9 and from 12.0 on, and "
            f"{found.name} is of {capability}: use TensorRT"
        )
    return None


def load(bundle: Bundle, request: Request, flavour: Flavour = "tensorrt") -> Backend:
    """Load a bundle's engine; precision ``auto`` is INT8 if the bundle has it, otherwise fp16.

    TensorRT 11 and TensorRT for RTX only run fp16 engines that were built ahead of time; without one,
    ``auto`` falls back to fp32.

    Raises:
        BackendUnavailable: the device or the precision is not available.
        BundleError: the bundle lacks the precision, or TensorRT refuses the model.
    """
    device = device_number(flavour, request.device)
    tensorrt = TensorRt.load(flavour)
    precision = request.precision
    if precision == "auto":
        precision = "int8" if "int8-trt" in bundle.manifest.models else "fp16"
        if precision == "fp16" and tensorrt.types_are_the_files:  # fp16 engines must be built ahead of time
            try:
                return TensorRtBackend(tensorrt, bundle, "fp16", device, request)
            except BackendUnavailable as error:
                logger.info("%s; fp32 is taken", error)
                precision = "fp32"
    if precision not in ("fp32", "fp16", "int8"):
        message = f"backend {flavour!r} runs precision fp32, fp16 or int8, not {precision!r}"
        raise BackendUnavailable(message)
    return TensorRtBackend(tensorrt, bundle, cast(Precision, precision), device, request)


def device_number(backend: str, device: str) -> int:
    """The number of the GPU that a request's device names; BackendUnavailable if it does not name one."""
    given = _DEVICE.match(device)
    if given is None:
        message = f"backend {backend!r} runs on device 'cuda' or 'cuda:0', not {device!r}"
        raise BackendUnavailable(message)
    return int(given[1] or 0)


class TensorRtBackend:
    """A bundle's engine on a GPU; see :class:`lfpose_edge.backends.base.DeviceBackend`."""

    channels_last = False

    def __init__(
        self, tensorrt: TensorRt, bundle: Bundle, precision: Precision, device: int, request: Request
    ) -> None:
        self._stream = gpu.open_device(device)
        cache = Path(request.cache_dir) if request.cache_dir else default_cache_dir()
        with gpu.device_errors():
            found = Gpu.of(device)
            if reason := unfit_gpu(tensorrt.trt.__name__, found):
                raise BackendUnavailable(reason)
            with gpu.current_device(device):
                engine = open_engine(bundle, tensorrt, precision, found, request.max_batch, cache / "engines")
        self._engine: Engine | None = engine
        self.device, self.captures, self._shares = device, tensorrt.captures, tensorrt.shares_profiles
        self.scratch_bytes = engine.scratch_bytes
        self._shared: _Context | None = None
        self._maps = bundle.manifest.cams_shape
        self._own: Any = self.new_context()
        self._lock = threading.Lock()
        self.description = f"{tensorrt.name} cuda:{device} ({found.name}) {precision}"

    def new_context(self, scratch: DeviceArray | None = None) -> _Context:
        """See :class:`lfpose_edge.backends.base.DeviceBackend`."""
        if self._engine is None:
            message = "this backend is closed"
            raise RuntimeError(message)
        if self._shared is not None:
            return self._shared
        with gpu.current_device(self.device):
            address = None if scratch is None else _address(scratch)
            context = _Context(self._engine.new_context(address), self.device)
        if not self._shares:  # a second context could not run a variable number of crops
            self._shared = context
        return context

    def infer(self, crops: Floats) -> tuple[Floats, Floats]:
        """See :class:`lfpose_edge.backends.base.Backend`; uploads the crops and downloads the maps."""
        from lfpose_edge._cuda import DeviceArray

        shapes = ((len(crops), *self._maps), (len(crops), self._maps[0]))
        kind = np.dtype(np.float32)
        with self._lock, gpu.device_errors():
            cams, presence = (DeviceArray.empty(shape, kind, self._stream) for shape in shapes)
            sent = gpu.on_device(crops, self._stream)
            self._own.enqueue(sent, cams, presence, self._stream)
            return cams.numpy(), presence.numpy()  # "sent" must stay alive until here

    def close(self) -> None:
        """Free the engine, in the CUDA context that it was made in."""
        with gpu.where_made(self.device):
            self._engine = self._shared = None
            self._own = Closed()


class _Context:
    """See :class:`lfpose_edge.backends.base.Context`. On a change of stream it waits for the last one."""

    def __init__(self, context: EngineContext, device: int) -> None:
        self._context, self._device = context, device
        self._stream: Stream | None = None
        self._lock = threading.Lock()

    def enqueue(self, crops: DeviceArray, cams: DeviceArray, presence: DeviceArray, stream: Stream) -> None:
        """See :class:`lfpose_edge.backends.base.Context`."""
        arrays = {"crops": crops, "cams": cams, "presence": presence}
        addresses = {name: _address(array) for name, array in arrays.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        with self._lock, gpu.current_device(self._device):
            if self._stream is not None and self._stream is not stream:
                self._stream.synchronize()  # its work uses this context's memory
            self._stream = stream
            self._context.enqueue(shapes, addresses, stream.handle)


def _address(array: DeviceArray) -> int:
    return int(array.__cuda_array_interface__["data"][0])
