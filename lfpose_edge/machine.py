"""Facts needed to judge a timing: processor, system and versions, but nothing that identifies a user."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = (
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "torch-tensorrt",
    "pycuda",
    "onnx",
    "torch",
)
# Without these, x86 CPUs sum uint8 x int8 products in 16 bits, which may overflow.
_VNNI = {"avx512_vnni", "avx_vnni"}


def machine() -> dict[str, Any]:
    """Processor, cores, system, Python, and versions of installed packages."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the installed packages that a result may depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The processor's name; clouds hide it, so family, model and vector instructions are added."""
    entries = _cpu_entries()
    if not entries:
        return platform.processor() or platform.machine()
    name = entries.get("model name") or entries.get("Model") or platform.machine()
    if "cpu family" in entries:
        name += f" (family {entries['cpu family']}, model {entries.get('model', '?')})"
    flags = cpu_flags()
    vectors = [flag for flag in ("avx512bw", "avx2", "sse4_2") if flag in flags][:1]
    integers = [flag for flag in ("avx512_vnni", "avx_vnni", "amx_int8") if flag in flags]
    return ", ".join([name, *vectors, *integers])


def instruction_set() -> str:
    """The instruction set that the CPU kernels use here: AVX-512, AVX2 or the architecture's baseline."""
    from lfpose_edge import _core

    return _core.instruction_set()


def cpu_flags() -> frozenset[str]:
    """The first processor's features, by their Linux names.

    On other systems only the few features that matter here are queried, from the processor itself.
    """
    if entries := _cpu_entries():
        return frozenset(entries.get("flags", "").split())
    from lfpose_edge import _core

    return frozenset(_core.cpu_flags())


def int8_overflows() -> bool:
    """Whether this CPU's fast INT8 multiplication may overflow, so that exact INT8 is slow."""
    return platform.machine().lower() in ("x86_64", "amd64") and not _VNNI & cpu_flags()


def _cpu_entries() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in fields.items()}
