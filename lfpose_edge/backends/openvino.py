"""OpenVINO on the CPU: the faster engine on x86, if it is installed."""

from __future__ import annotations

import locale
import logging
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from lfpose_edge.backends.base import Backend, Closed, Floats, Request, does_not_start
from lfpose_edge.bundle import Bundle, Precision
from lfpose_edge.errors import BackendUnavailable, BundleError
from lfpose_edge.machine import cpu_flags, int8_overflows

logger = logging.getLogger("lfpose_edge")

_PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "bf16": "fp32", "int8": "int8-cpu"}
_COMPILING = threading.Lock()


def unavailable() -> str | None:
    """Why OpenVINO cannot be used here, or None."""
    if find_spec("openvino") is None:
        return "openvino is not installed: pip install openvino"
    return None


@cache
def _core() -> Any:
    """The process's only ``openvino.Core``, kept until the process ends.

    On CPUs with AMX each loaded core sets a signal stack for the thread, and restores the previous one when
    it is destroyed. Two cores destroyed in the order of their creation leave the thread with a signal stack
    in freed memory, and the next signal, even Ctrl-C, kills the process.
    """
    import openvino

    return openvino.Core()


def start() -> tuple[Any, list[str]]:
    """OpenVINO's core, and the optimisation capabilities that it reports for this CPU.

    Raises:
        BackendUnavailable: OpenVINO does not start.
    """
    try:
        core = _core()
        return core, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Exception as error:  # its loader and plugins raise all kinds of errors
        raise BackendUnavailable(does_not_start("openvino", error)) from error


def load(bundle: Bundle, request: Request) -> Backend:
    """Load a bundle's model; bf16 only if the CPU computes in it.

    Precision ``auto`` picks INT8 only if the CPU computes it exactly: without VNNI, OpenVINO's sums saturate.

    Raises:
        BackendUnavailable: the device or the precision is not available, or OpenVINO does not start.
        BundleError: the bundle lacks the precision, or the model cannot be loaded.
    """
    if request.device not in ("auto", "cpu"):
        message = f"backend 'openvino' runs on device 'cpu' here, not {request.device!r}"
        raise BackendUnavailable(message)
    precision = request.precision
    if precision == "auto":
        precision = "int8" if "int8-cpu" in bundle.manifest.models and not int8_overflows() else "fp32"
    if precision not in _PRECISIONS:
        message = f"backend 'openvino' runs precision fp32, bf16 or int8, not {precision!r}"
        raise BackendUnavailable(message)
    if precision == "int8" and int8_overflows():
        logger.warning("OpenVINO's INT8 is not exact on this CPU, which has no VNNI: joints may move")
    core, capabilities = start()
    if precision == "bf16" and "BF16" not in capabilities:
        message = (
            f"this CPU does not compute in bf16 (OpenVINO finds {', '.join(capabilities)}); use fp32 or int8"
        )
        raise BackendUnavailable(message)
    return OpenVinoBackend(core, bundle, precision, request)


class OpenVinoBackend:
    """A bundle's model compiled by OpenVINO; every calling thread has its own inference requests.

    The model is compiled twice, in parallel: for exactly one crop, which is a tenth faster for one person,
    and for any number, so that a second person in the picture does not have to wait for the compiler.

    Its convolutions work on interleaved channels, so it takes the crops that way: reordering them would cost
    3 % of an INT8 network's time, on a single thread however many there are.
    """

    channels_last = True

    def __init__(self, core: Any, bundle: Bundle, precision: str, request: Request) -> None:
        import openvino

        # By default OpenVINO computes fp32 models in bf16 on CPUs that can, which is a different precision.
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # a pinned thread waits for whatever else runs on its core
        }
        if request.threads:
            config["INFERENCE_NUM_THREADS"] = request.threads
        if request.cache_dir:
            config["CACHE_DIR"] = request.cache_dir
        path = bundle.model_file(_PRECISIONS[precision])
        height, width = bundle.manifest.input.size
        problem = f"openvino {openvino.__version__} cannot load {path}"
        try:
            any_number = _channels_last(core.read_model(str(path)))
            if precision == "int8" and "amx_int8" in cpu_flags():
                any_number = _pointwise_by_avx512(core, any_number)
            one = any_number.clone()
            problem = f"{path}: the network does not run on {height}x{width} crops"
            one.reshape({"crops": [1, height, width, 3]})
            with _locale_kept(), ThreadPoolExecutor(2) as beside:
                self._one: Any
                self._any_number: Any
                self._one, self._any_number = beside.map(
                    lambda model: core.compile_model(model, "CPU", config), (one, any_number)
                )
        except RuntimeError as error:
            message = f"{problem}: {error}"
            raise BundleError(message) from error
        self._local = threading.local()
        self.description = f"openvino {openvino.__version__.split('-')[0]} cpu {precision}"

    def infer(self, crops: Floats) -> tuple[Floats, Floats]:
        """See :class:`lfpose_edge.backends.base.Backend`."""
        name = "one" if len(crops) == 1 else "any_number"
        request = getattr(self._local, name, None)
        if request is None:
            request = getattr(self, f"_{name}").create_infer_request()
            setattr(self._local, name, request)
        pixels = np.ascontiguousarray(crops.transpose(0, 2, 3, 1))  # no copy for crops from crop_memory
        request.infer({"crops": pixels}, share_inputs=True, share_outputs=True)
        # The request's own buffers are overwritten by its next call.
        cams, presence = (np.array(request.get_tensor(name).data) for name in ("cams", "presence"))
        return cams, presence

    def close(self) -> None:
        """Free the compiled models and every thread's requests."""
        self._one = self._any_number = Closed()
        self._local = threading.local()


@contextmanager
def _locale_kept() -> Iterator[None]:
    """Restore the process's locale after compiling two models at once.

    OpenVINO sets the locale to "C" while it reads or writes its cache, and then restores the one it found.
    With two models at once, the second may find "C" and leave it set; text files and program output would be
    read as ASCII from then on.
    """
    with _COMPILING:
        found = locale.setlocale(locale.LC_ALL)
        try:
            yield
        finally:
            locale.setlocale(locale.LC_ALL, found)


def _channels_last(model: Any) -> Any:
    """The same model, taking crops (N, H, W, 3) instead of (N, 3, H, W)."""
    from openvino import Layout
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    steps.input("crops").tensor().set_layout(Layout("NHWC"))
    steps.input("crops").model().set_layout(Layout("NCHW"))
    return steps.build()


def _pointwise_by_avx512(core: Any, model: Any) -> Any:
    """The same model with its 1x1 convolutions computed by AVX-512, as on a CPU without AMX.

    OpenVINO uses AMX whenever the CPU has it, but a few crops do not fill its tiles: both take equally long
    on one thread, but AMX hardly gains from a second thread and AVX-512 does. The integer sums are the same.
    OpenVINO accepts such a per-layer setting only in its own file format, so the model is saved and read
    back; if the file cannot be written, the model is returned unchanged.
    """
    from openvino import Tensor, save_model

    try:
        with tempfile.TemporaryDirectory(prefix="lfpose-") as folder:
            file = Path(folder) / "model.xml"
            save_model(model, file, compress_to_fp16=False)
            layers = ElementTree.parse(file).getroot()
            weights = np.fromfile(file.with_suffix(".bin"), np.uint8)
    except (OSError, RuntimeError) as error:
        logger.info("1x1 convolutions stay with AMX: %s", error)
        return model
    for layer in layers.iter("layer"):
        kernel = [dim.text for dim in layer.findall("input/port[2]/dim")][2:]
        if layer.get("type") == "Convolution" and kernel == ["1", "1"]:
            for attributes in layer.findall("data"):
                attributes.set("PrimitivesPriority", "cpu:brgconv_avx512_1x1")
    return core.read_model(ElementTree.tostring(layers, "unicode"), Tensor(weights))
