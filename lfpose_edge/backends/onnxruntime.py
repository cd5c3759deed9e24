"""ONNX Runtime: on the CPU the backend that every installation has; on a GPU where it was built for one."""

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
    """The package; BackendUnavailable when it is installed, and its import fails."""
    try:
        import onnxruntime
    except Exception as error:  # a library of another version raises kinds of its own
        raise BackendUnavailable(does_not_start("onnxruntime", error)) from error
    return onnxruntime


def without_cuda() -> str | None:
    """Why the ONNX Runtime that is installed runs on no GPU, or None; it is imported for the answer."""
    if _ON_GPU in start().get_available_providers():
        return None
    return "it was built without CUDA: pip uninstall onnxruntime && pip install onnxruntime-gpu"


def load(bundle: Bundle, request: Request) -> Backend:
    """Load a bundle's fp32 or INT8 model; left to choose, INT8 only where the CPU is quick at it.

    It takes a GPU only when told to, by device ``cuda`` or ``cuda:N``, and then in fp32: the crops go up and
    the maps come down, so it is what TensorRT's absence leaves, not its equal.
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
    """Options of an ``onnxruntime.SessionOptions`` that computes INT8 exactly; None takes all cores."""
    options = start().SessionOptions()
    options.log_severity_level = 3  # errors; a warning about a graph is not for the user of a pose
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    # Threads that go on spinning after a run hold the cores that the kernels around the network wait for.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if int8_overflows():
        options.add_session_config_entry("session.x64quantprecision", "1")  # half as fast, and exact
    return options


class OnnxRuntimeBackend:
    """A bundle's model in an ONNX Runtime session.

    Args:
        bundle: the model.
        precision: ``fp32`` or ``int8``.
        threads: of the CPU; None takes all cores.
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
            # To search for the best algorithm, anew for every number of people, would stall the first frames.
            providers = [(_ON_GPU, {"device_id": device, "cudnn_conv_algo_search": "HEURISTIC"})]
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime's errors share no public base class
            message = f"{name} cannot load {path}: {error}"
            kind = BundleError if device is None else BackendUnavailable
            raise kind(message) from error
        # Where its CUDA libraries do not load, it goes on without them, on the CPU.
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
