"""``lfpose doctor`` and ``lfpose models``: what there is."""

from __future__ import annotations

import os
import platform

from rich.console import Console
from rich.table import Table

from lfpose_edge import __version__, zoo
from lfpose_edge.backends import available
from lfpose_edge.bundle import Bundle
from lfpose_edge.machine import PACKAGES, cpu_model, versions


def run_doctor() -> None:
    """Print the machine, the package versions and every backend with the reason it lacks, if it does."""
    console = Console(highlight=False)
    console.print(f"lfpose-edge {__version__}, Python {platform.python_version()}, {platform.platform()}")
    console.print(f"CPU: {os.cpu_count()} cores, {cpu_model()}")
    installed = versions()
    for name in PACKAGES:
        text = f"{name} {installed[name]}" if name in installed else f"{name}: not installed"
        console.print(f"  {text}", style=None if name in installed else "dim")
    console.print("backends, best first:")
    for name, reason in available().items():
        console.print(f"  {name}: {'ready' if reason is None else reason}")


def run_models() -> None:
    """Print the shipped bundles, checked, and the detectors by name."""
    console = Console(highlight=False)
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
