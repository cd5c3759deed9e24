"""ONNX Runtime: the CPU backend of every installation; also runs on a GPU if it was built with CUDA."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

from lfpose_edge.backends.base import Backend, Closed, Floats, Request, does_not_start
from lfpose_edge.bundle import Bundle, Precision
from lfpose_edge.errors import BackendUnavailable, BundleError
from lfpose_edge.machine import int8_overflows

_PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "int8": "int8-cpu"}
_DEVICE = re.compile(r"^cuda(?::(\d+))?$")
_ON_GPU = "CUDAExecutionProvider"


def unavailable() -> str | None:
    """Why ONNX Runtime cannot be used here, or None."""
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed: pip install onnxruntime"
    return None


def start() -> Any:
    """Import the package; BackendUnavailable if the import fails."""
    try:
        import onnxruntime
    except Exception as error:  # mismatched libraries raise all kinds of errors
        raise BackendUnavailable(does_not_start("onnxruntime", error)) from error
    return onnxruntime


def without_cuda() -> str | None:
    """Why the installed ONNX Runtime cannot run on a GPU, or None; this imports it."""
    if _ON_GPU in start().get_available_providers():
        return None
    return "it was built without CUDA: pip uninstall onnxruntime && pip install onnxruntime-gpu"


def load(bundle: Bundle, request: Request) -> Backend:
    """Load a bundle's fp32 or INT8 model; precision ``auto`` picks INT8 only if the CPU runs it fast.

    A GPU is used only on request, with device ``cuda`` or ``cuda:N``, and in fp32. The crops are uploaded and
    the maps downloaded, so this is a fallback for machines without TensorRT, not an equal.

    Raises:
        BackendUnavailable: the device or the precision is not available.
        BundleError: the bundle lacks the precision, or the model cannot be loaded.
    """
    on_gpu = _DEVICE.match(request.device)
    if on_gpu is None and request.device not in ("auto", "cpu"):
        message = f"backend 'onnxruntime' runs on device 'cpu', 'cuda' or 'cuda:0', not {request.device!r}"
        raise BackendUnavailable(message)
    precision = request.precision
    if on_gpu is not None:
        if precision not in ("auto", "fp32"):
            message = f"backend 'onnxruntime' runs precision fp32 on a GPU, not {precision!r}"
            raise BackendUnavailable(message)
        return OnnxRuntimeBackend(bundle, "fp32", request.threads, device=int(on_gpu[1] or 0))
    if precision == "auto":
        precision = "int8" if "int8-cpu" in bundle.manifest.models and not int8_overflows() else "fp32"
    if precision not in _PRECISIONS:
        message = f"backend 'onnxruntime' runs precision fp32 or int8, not {precision!r}"
        raise BackendUnavailable(message)
    return OnnxRuntimeBackend(bundle, precision, request.threads)


def session_options(threads: int | None = None) -> Any:
    """An ``onnxruntime.SessionOptions`` that computes INT8 exactly; ``threads`` None uses all cores."""
    options = start().SessionOptions()
    options.log_severity_level = 3  # errors only; warnings about the graph are of no use to users
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    # Threads that keep spinning after a run would occupy cores that the pre- and postprocessing needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if int8_overflows():
        options.add_session_config_entry("session.x64quantprecision", "1")  # exact, at half the speed
    return options


class OnnxRuntimeBackend:
    """A bundle's model in an ONNX Runtime session.

    Args:
        bundle: the model.
        precision: ``fp32`` or ``int8``.
        threads: number of CPU threads; None uses all cores.
        device: a GPU's number; None is the CPU.
    """

    channels_last = False

    def __init__(
        self, bundle: Bundle, precision: str, threads: int | None, device: int | None = None
    ) -> None:
        onnxruntime = start()
        name = f"onnxruntime {onnxruntime.__version__}"
        options = session_options(threads)
        path = bundle.model_file(_PRECISIONS[precision])
        providers: list[Any] = ["CPUExecutionProvider"]
        if device is not None:
            if reason := without_cuda():
                message = f"{name} has no device 'cuda': {reason}"
                raise BackendUnavailable(message)
            # An exhaustive search, repeated for every number of persons, would stall the first frames.
            providers = [(_ON_GPU, {"device_id": device, "cudnn_conv_algo_search": "HEURISTIC"})]
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime's errors have no public common base class
            message = f"{name} cannot load {path}: {error}"
            kind = BundleError if device is None else BackendUnavailable
            raise kind(message) from error
        # If its CUDA libraries fail to load, ONNX Runtime silently falls back to the CPU.
        if device is not None and session.get_providers()[0] != _ON_GPU:
            what = "its CUDA or cuDNN libraries, or the driver, do not load"
            message = f"{name} cannot use cuda:{device}: {what}"
            raise BackendUnavailable(message)
        self._session: Any = session
        self._on_gpu = device is not None
        self.description = f"{name} {'cpu' if device is None else f'cuda:{device}'} {precision}"

    def infer(self, crops: Floats) -> tuple[Floats, Floats]:
        """See :class:`lfpose_edge.backends.base.Backend`."""
        run = self._session.run
        try:
            cams, presence = run(("cams", "presence"), {"crops": crops})
        except Exception as error:
            if not self._on_gpu:
                raise
            message = f"{self.description} fails: {error}"
            raise BackendUnavailable(message) from error
        return cams, presence

    def close(self) -> None:
        """Free the session."""
        self._session = Closed()
