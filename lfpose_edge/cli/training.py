"""``lfpose train``. Without the ``train`` extra, importing this module fails and says what to install."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path

from lfpose_edge.cli.errors import Stopped
from lfpose_edge.console import plain_console
from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.files import require_writable
from lfpose_edge.persons import data_root

try:
    import torch  # (imported here once, so that the hint is one line)
    import yaml  # noqa: F401
    from lightning import fabric  # noqa: F401
except ImportError as error:
    message = f"{error.name} is missing: training needs the 'train' extra, pip install '.[train]'"
    raise BackendUnavailable(message) from error

logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it reports its precision twice


def run_train(
    recipe: str, overrides: list[str], out: Path | None, data: Path | None, device: str, validate_every: int
) -> None:
    """Train by a recipe and print where the result is and what comes next."""
    from lfpose_edge.train.loop import train
    from lfpose_edge.train.recipe import load_recipe

    plan = load_recipe(recipe, overrides)
    folder = out or Path("runs") / plan.name
    require_writable(folder / "last.pt")
    require_device(device)
    run = train(
        plan, data_root=data_root(data), out=folder, accelerator=device, validate_every=validate_every
    )
    if not run.finished:
        raise Stopped(run.stopped_by)
    if os.environ.get("RANK", "0") != "0":  # only one of several processes reports
        return
    said = "trained" if run.steps else "trained before, and nothing is done anew; another --out trains again"
    following = shlex.join(["lfpose-export", str(run.checkpoint), "--out", f"{plan.name}-bundle"])
    plain_console(stderr=True).print(f"{said}: {run.checkpoint}\nnext: {following}")


def require_device(name: str) -> torch.device:
    """The torch device for ``cpu``, ``cuda`` or ``auto``; raises BackendUnavailable if torch lacks it."""
    here = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available()}
    if not here.get(name, False):
        known = " or ".join(device for device, there in here.items() if there)
        message = f"torch {torch.__version__} has no device {name!r} here; it offers {known}"
        raise BackendUnavailable(message)
    return torch.device(("cuda" if here["cuda"] else "cpu") if name == "auto" else name)
