"""``lfpose train`` and ``lfpose eval``."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from lfpose_edge.cli.errors import Stopped
from lfpose_edge.errors import BackendUnavailable

try:
    import torch  # noqa: F401  (asked for here once, so that the hint is one line)
    import yaml  # noqa: F401
    from lightning import fabric  # noqa: F401
except ImportError as error:
    message = f"{error.name} is missing: training needs the 'train' extra, pip install '.[train]'"
    raise BackendUnavailable(message) from error

logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it says twice which precision it uses


def run_train(
    recipe: str, overrides: list[str], out: Path | None, data: Path | None, device: str, validate_every: int
) -> None:
    """Train by a recipe and say where the result is and what comes next."""
    from lfpose_edge.train.loop import train
    from lfpose_edge.train.recipe import data_root, load_recipe

    plan = load_recipe(recipe, overrides)
    folder = out or Path("runs") / plan.name
    run = train(
        plan, data_root=data_root(data), out=folder, accelerator=device, validate_every=validate_every
    )
    if not run.finished:
        raise Stopped
    Console(stderr=True).print(
        f"trained: {run.checkpoint}\nnext: lfpose-export {run.checkpoint} --out {plan.name}"
    )


def run_eval(
    annotations: Path,
    images: Path,
    model: str,
    backend: str,
    precision: str,
    data: Path | None,
    json_path: Path | None,
) -> None:
    """Measure a bundle, through the runtime, or a checkpoint, through torch; print a table."""
    from lfpose_edge.train.data.coco import read_coco_keypoints
    from lfpose_edge.train.evaluate import measure
    from lfpose_edge.train.recipe import data_root

    root = data_root(data)
    if model.endswith(".pt"):
        keypoints, scores, persons, runs_on = _predict_checkpoint(
            Path(model), root / annotations, root / images
        )
    else:
        from lfpose_edge.estimator import PoseEstimator
        from lfpose_edge.train.evaluate import predict_with_estimator

        with PoseEstimator(model, backend=backend, precision=precision) as estimator:
            persons = read_coco_keypoints(root / annotations, root / images, estimator.skeleton)
            keypoints, scores = predict_with_estimator(estimator, persons, progress=_progress)
            runs_on = estimator.describe()["backend"]
    accuracy = measure(keypoints, persons, scores)

    console = Console(highlight=False)
    table = Table(title=f"{model} on {annotations}: {len(persons)} persons, own boxes, {runs_on}")
    table.add_column("joint")
    columns = {"PCK@0.1 box": accuracy.pck_box_all, "PCK@0.2 torso": accuracy.pck_torso}
    for title in columns:
        table.add_column(title, justify="right")
    for joint in persons.skeleton.keypoints:
        table.add_row(joint, *(f"{c.per_joint[joint]:.3f}" for c in columns.values()))
    table.add_section()
    table.add_row("all", *(f"{c.mean:.3f}" for c in columns.values()))
    table.add_row("12 limb joints", f"{accuracy.pck_box.mean:.3f}", "")
    console.print(table)
    if accuracy.oks is not None:
        console.print(
            f"OKS AP {accuracy.oks.ap:.3f}  AP50 {accuracy.oks.ap50:.3f}  AP75 {accuracy.oks.ap75:.3f}"
        )
    if json_path is not None:
        row = {"model": model, "annotations": str(annotations), "runs_on": runs_on, **asdict(accuracy)}
        _write(json_path, row)
        console.print(f"wrote {json_path}")


def _predict_checkpoint(checkpoint: Path, annotations: Path, images: Path) -> tuple[Any, Any, Any, str]:
    from lfpose_edge.train.checkpoint import load_checkpoint
    from lfpose_edge.train.data.coco import read_coco_keypoints
    from lfpose_edge.train.evaluate import predict_persons
    from lfpose_edge.train.networks import build_network
    from lfpose_edge.train.recipe import parse_recipe

    state = load_checkpoint(checkpoint)
    recipe = parse_recipe(state["recipe"], where=str(checkpoint))
    network = build_network(recipe.network, len(recipe.joints), pretrained=False)
    network.load_state_dict(state["ema"])
    persons = read_coco_keypoints(annotations, images, recipe.joints)
    keypoints, scores, _ = predict_persons(network, persons, recipe.input_size, recipe.data.padding)
    return keypoints, scores, persons, "torch"


def _progress(items: Any) -> Any:
    console = Console(stderr=True)
    return track(items, "persons", console=console, transient=True, disable=not console.is_terminal)


def _write(path: Path, tree: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
