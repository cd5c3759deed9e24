"""``lfpose doctor`` and ``lfpose models``: what is available."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Any

from rich.table import Table

from lfpose_edge import __version__, zoo
from lfpose_edge.backends import available, onnxruntime, openvino
from lfpose_edge.backends.engine_files import check_engine
from lfpose_edge.bundle import Bundle
from lfpose_edge.console import plain_console
from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.machine import PACKAGES, cpu_model, instruction_set, versions

_ENGINES = (".engine", ".ep")
# These count as available if they are installed, which is quick to check; the others are started to check.
_STARTS: dict[str, Callable[[], Any]] = {"openvino": openvino.start, "onnxruntime": onnxruntime.start}


def run_doctor() -> None:
    """Print the machine, the package versions and every backend, with the reason if it is unavailable."""
    console = plain_console()
    console.print(f"lfpose-edge {__version__}, Python {platform.python_version()}, {platform.platform()}")
    console.print(f"CPU: {os.cpu_count()} cores, {cpu_model()}; kernels: {instruction_set()}")
    installed = versions()
    for name in PACKAGES:
        text = f"{name} {installed[name]}" if name in installed else f"{name}: not installed"
        console.print(f"  {text}", style=None if name in installed else "dim")
    console.print("backends, best first:")
    for name, missing in available().items():
        reason = missing or _does_not_start(name)
        console.print(f"  {name}: {'ready' if reason is None else reason}")
        if name == "onnxruntime" and reason is None:
            lacking = onnxruntime.without_cuda()
            console.print(f"    on device cuda: {lacking or 'ready, where its CUDA libraries load'}")


def _does_not_start(backend: str) -> str | None:
    """Why an installed CPU engine cannot be used, or None."""
    try:
        _STARTS.get(backend, lambda: None)()
    except BackendUnavailable as error:
        return str(error)
    return None


def run_inspect(model: str) -> None:
    """Open a bundle, which checks it, and print its facts."""
    bundle = Bundle.open(zoo.bundle_path(model))
    manifest = bundle.manifest
    how, decode = manifest.input, manifest.decode
    console = plain_console()
    console.print(f"{manifest.name} version {manifest.version}, {bundle.path}")
    console.print(f"joints: {manifest.joints.name}, {', '.join(manifest.joints.keypoints)}")
    console.print(
        f"input: {how.size[0]}x{how.size[1]} {how.color}, mean {how.mean}, std {how.std}, "
        f"box grown by {how.padding:g}"
    )
    console.print(
        f"decode: {decode.method}, CAM stride {decode.cam_stride:g}, upsampled {decode.upsample} times, "
        f"absent below presence {decode.presence_threshold:g}"
    )
    table = Table(title="files, all as their checksums say", title_justify="left")
    for column in ("file", "precision", "bytes", "sha256"):
        table.add_column(column, justify="right" if column == "bytes" else "left")
    precisions = {file: precision for precision, file in manifest.models.items()}
    for name, file in manifest.files.items():
        table.add_row(name, precisions.get(name, ""), str(file.bytes), file.sha256[:16])
    console.print(table)
    for path in sorted(p for p in (bundle.path / "engines").glob("*") if p.suffix in _ENGINES):
        facts, _ = check_engine(path)
        label = " ".join(str(facts.get(name, "?")) for name in ("library", "version", "precision", "gpu"))
        console.print(f"engine: {path.name}, {label}, as its checksum says")
    for key, value in manifest.provenance.items():
        shown = (
            {k: v for k, v in value.items() if not isinstance(v, dict)} if isinstance(value, dict) else value
        )
        console.print(f"{key}: {shown}")


def run_models() -> None:
    """Print the shipped bundles, checked, and the detectors by name."""
    console = plain_console()
    table = Table(title="models in the package")
    for column in ("name", "version", "joints", "input", "precisions"):
        table.add_column(column)
    for name in zoo.model_names():
        manifest = Bundle.open(zoo.bundle_path(name)).manifest
        height, width = manifest.input.size
        table.add_row(
            name, manifest.version, manifest.joints.name, f"{height}x{width}", ", ".join(manifest.models)
        )
    console.print(table)
    detectors = Table(title="detectors, fetched when first used")
    for column in ("name", "licence", "from"):
        detectors.add_column(column, overflow="fold")
    for name, source in zoo.DETECTORS.items():
        detectors.add_row(name, source.licence, source.url)
    console.print(detectors)
