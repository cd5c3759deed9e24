"""Runs Torch-TensorRT programs made by ``lfpose-export --engine torch-tensorrt``; needs torch."""

from __future__ import annotations

import hashlib
import logging
import threading
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lfpose_edge.backends.base import Backend, Closed, Floats, Request
from lfpose_edge.backends.engine_cache import Gpu
from lfpose_edge.backends.engine_files import Fingerprint, check_engine, fingerprint_of
from lfpose_edge.backends.tensorrt import device_number
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable, BundleError, EngineMismatch
from lfpose_edge.ops import gpu

if TYPE_CHECKING:
    from lfpose_edge._cuda import DeviceArray, Stream

logger = logging.getLogger("lfpose_edge")

SUFFIX = ".ep"
_HOW = "lfpose-export CHECKPOINT --out BUNDLE --engine torch-tensorrt makes one"


def unavailable() -> str | None:
    """Why Torch-TensorRT cannot be used here, or None."""
    try:
        gpu.require_device()
    except BackendUnavailable as error:
        return str(error)
    reason = library_unavailable()
    if reason is None and not import_module("torch").cuda.is_available():
        return "torch sees no GPU: it was built without CUDA, or for another driver"
    return reason


def library_unavailable() -> str | None:
    """Why torch_tensorrt itself cannot be used, or None."""
    try:
        import_module("torch_tensorrt")
    except ImportError as error:
        return f"torch_tensorrt cannot be imported ({str(error).splitlines()[0]}): pip install torch-tensorrt"
    except Exception as error:  # its loader raises all kinds of errors when a library is missing
        return f"torch_tensorrt is installed but does not load ({error})"
    return None


def load(bundle: Bundle, request: Request) -> Backend:
    """Load a bundle's program that was compiled for this GPU and this version of Torch-TensorRT."""
    device = device_number("torch_tensorrt", request.device)
    if request.precision not in ("auto", "fp16"):
        message = f"backend 'torch_tensorrt' runs precision fp16, not {request.precision!r}"
        raise BackendUnavailable(message)
    return TorchTensorRtBackend(bundle, device, request.max_batch)


class TorchTensorRtBackend:
    """A compiled program on a GPU; see :class:`lfpose_edge.backends.base.DeviceBackend`.

    It is its own only context: torch's modules keep no state between calls, and torch's allocator holds the
    memory.
    """

    channels_last = False
    captures = False  # memory that torch allocates during a call must not be part of our graphs
    scratch_bytes = 0

    def __init__(self, bundle: Bundle, device: int, max_batch: int) -> None:
        torch_tensorrt, self._torch = import_module("torch_tensorrt"), import_module("torch")
        self._stream = gpu.open_device(device)
        with gpu.device_errors():
            found = Gpu.of(device)
        path = _program_for(bundle, torch_tensorrt.__version__, found.label, max_batch)
        with self._torch.cuda.device(device):
            try:
                self._program: Any = torch_tensorrt.load(str(path)).module()
            except Exception as error:  # torch's and TensorRT's errors have no public common base class
                message = f"torch_tensorrt {torch_tensorrt.__version__} cannot load {path}: {error}"
                raise BackendUnavailable(message) from error
        self.device = device
        self._maps = bundle.manifest.cams_shape
        self._lock = threading.Lock()
        self.description = f"torch_tensorrt {torch_tensorrt.__version__} cuda:{device} ({found.name}) fp16"

    def new_context(self, scratch: DeviceArray | None = None) -> TorchTensorRtBackend:
        """See :class:`lfpose_edge.backends.base.DeviceBackend`."""
        return self

    def enqueue(self, crops: DeviceArray, cams: DeviceArray, presence: DeviceArray, stream: Stream) -> None:
        """See :class:`lfpose_edge.backends.base.Context`."""
        torch = self._torch
        theirs = torch.cuda.ExternalStream(stream.handle, device=self.device)
        with self._lock, torch.cuda.stream(theirs), torch.inference_mode():
            try:
                found = self._program(torch.from_dlpack(crops))
            except RuntimeError as error:  # torch's errors, including out of memory
                message = f"{self.description} fails: {error}"
                raise BackendUnavailable(message) from error
            for name, ours, values in zip(("cams", "presence"), (cams, presence), found, strict=True):
                if tuple(values.shape) != tuple(ours.shape):  # copy_ would broadcast
                    message = f"{self.description}: {name} are {tuple(values.shape)}, not {tuple(ours.shape)}"
                    raise BundleError(message)
                torch.from_dlpack(ours).copy_(values)

    def infer(self, crops: Floats) -> tuple[Floats, Floats]:
        """See :class:`lfpose_edge.backends.base.Backend`; uploads the crops and downloads the maps."""
        from lfpose_edge._cuda import DeviceArray

        shapes = ((len(crops), *self._maps), (len(crops), self._maps[0]))
        with gpu.device_errors():
            cams, presence = (DeviceArray.empty(s, np.dtype(np.float32), self._stream) for s in shapes)
            self.enqueue(gpu.on_device(crops, self._stream), cams, presence, self._stream)
            return cams.numpy(), presence.numpy()

    def close(self) -> None:
        """Free the program."""
        self._program = Closed()


def _program_for(bundle: Bundle, version: str, gpu_label: str, max_batch: int) -> Path:
    """The bundle's matching program; otherwise BackendUnavailable says why none matches."""
    wanted = Fingerprint(
        model_sha256=hashlib.sha256(bundle.model_file("fp32").read_bytes()).hexdigest(),
        library="torch_tensorrt",
        version=version,
        gpu=gpu_label,
        precision="fp16",
        batches=(1, min(4, max_batch), max_batch),
        size=bundle.manifest.input.size,
    )
    reasons = []
    for path in sorted((bundle.path / "engines").glob(f"*{SUFFIX}")):
        try:
            facts, _ = check_engine(path)
            found = fingerprint_of(facts, path)
        except EngineMismatch as error:
            reasons.append(str(error))
            continue
        if found.batches[0] == 1 and found.batches[2] >= max_batch:
            found = Fingerprint(**{**vars(found), "batches": wanted.batches})
        if found == wanted:
            return path
        reasons.append(f"{path.name} is for another case ({'; '.join(wanted.differences(found))})")
    why = "; ".join(reasons) or "it has none"
    message = f"bundle {bundle.path} holds no Torch-TensorRT program for this GPU: {why}; {_HOW}"
    raise BackendUnavailable(message)
