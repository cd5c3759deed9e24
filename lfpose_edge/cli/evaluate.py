"""``lfpose eval``."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from lfpose_edge.errors import SourceError
from lfpose_edge.estimator import PoseEstimator
from lfpose_edge.files import require_writable, write_json_whole
from lfpose_edge.metrics.accuracy import measure, predict_persons
from lfpose_edge.persons import data_root, read_coco_keypoints


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
    root = data_root(data)
    if json_path is not None and json_path.resolve() == (root / annotations).resolve():
        message = f"--json {json_path} is the annotation file: give another path"
        raise SourceError(message)
    if json_path is not None:
        require_writable(json_path)
    if model.endswith(".pt"):
        keypoints, scores, persons, runs_on = _predict_checkpoint(
            Path(model), root / annotations, root / images
        )
    else:
        with PoseEstimator(model, backend=backend, precision=precision) as estimator:
            persons = read_coco_keypoints(root / annotations, root / images, estimator.skeleton)
            keypoints, scores = predict_persons(estimator, persons, progress=_progress)
            runs_on = estimator.describe()["backend"]
    has_oks = find_spec("pycocotools") is not None
    accuracy = measure(keypoints, persons, scores if has_oks else None)

    console = Console(highlight=False, markup=False)
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
    else:
        console.print("OKS AP: not measured, it needs pycocotools (pip install pycocotools)")
    if json_path is not None:
        row = {"model": model, "annotations": str(annotations), "runs_on": runs_on, **asdict(accuracy)}
        write_json_whole(json_path, row)
        console.print(f"wrote {json_path}")


def _predict_checkpoint(checkpoint: Path, annotations: Path, images: Path) -> tuple[Any, Any, Any, str]:
    from lfpose_edge.cli import training  # noqa: F401  (says what to install where torch is missing)
    from lfpose_edge.train.checkpoint import load_checkpoint
    from lfpose_edge.train.evaluate import predict_persons
    from lfpose_edge.train.loop import load_weights
    from lfpose_edge.train.networks import build_network
    from lfpose_edge.train.recipe import parse_recipe

    state = load_checkpoint(checkpoint)
    recipe = parse_recipe(state["recipe"], where=str(checkpoint))
    network = build_network(recipe.network, recipe.joints, pretrained=False)
    load_weights(network, checkpoint)
    persons = read_coco_keypoints(annotations, images, recipe.joints)
    keypoints, scores, _ = predict_persons(network, persons, recipe.input_size, recipe.data.padding)
    return keypoints, scores, persons, "torch"


def _progress(items: Any) -> Any:
    console = Console(stderr=True, highlight=False, markup=False)
    return track(items, "persons", console=console, transient=True, disable=not console.is_terminal)
