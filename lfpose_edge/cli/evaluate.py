"""``lfpose eval``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

from lfpose_edge.coco import coco_tree, read_coco_keypoints, uncounted_persons
from lfpose_edge.console import plain_console
from lfpose_edge.errors import BackendUnavailable, SourceError
from lfpose_edge.estimator import PoseEstimator
from lfpose_edge.files import require_writable, write_json_whole
from lfpose_edge.metrics.accuracy import Accuracy, as_coco, measure, predict_persons
from lfpose_edge.metrics.bootstrap import pck_difference, pck_interval
from lfpose_edge.metrics.oks_ap import CROWD_LEVELS, CrowdAp, crowd_ap
from lfpose_edge.metrics.pck import PckResult
from lfpose_edge.metrics.pckh import MpiiTruth, pckh, read_mpii_truth, truth_of
from lfpose_edge.metrics.reference_lines import centre_of_box, mean_pose
from lfpose_edge.metrics.report import Evaluation, require_drawing, write_evaluation
from lfpose_edge.persons import PersonTable, data_root
from lfpose_edge.skeleton import CROWDPOSE14, MPII16, Skeleton


@dataclass(frozen=True)
class _Predictor:
    """A model to evaluate.

    Attributes:
        skeleton: K joints.
        runs_on: its backend.
        predict: persons to joints (N, K, 2), scores and presence (N, K).
        maps: a table and one of its rows to CAM logits (K, h, w) and the affine (2, 3) of the crop.
        crop_size: height and width.
    """

    skeleton: Skeleton
    runs_on: str
    predict: Callable[[PersonTable], tuple[Any, Any, Any]]
    maps: Callable[[PersonTable, int], tuple[NDArray[np.float32], NDArray[np.float64]]]
    crop_size: tuple[int, int]


def run_eval(
    annotations: Path,
    images: Path,
    model: str,
    backend: str,
    precision: str,
    device: str,
    data: Path | None,
    json_path: Path | None,
    report: Path | None,
    against: Path | None,
    joints: Sequence[str] = (),
    mpii_truth: Path | None = None,
) -> None:
    """Measure a bundle, through the runtime, or a checkpoint, through torch; print a table."""
    root = data_root(data)
    names = _file_names(joints)
    other = None if against is None else (against, _read_result(against))
    if json_path is not None and json_path.resolve() == (root / annotations).resolve():
        message = f"--json {json_path} is the annotation file: give another path"
        raise SourceError(message)
    if json_path is not None:
        require_writable(json_path)
    if report is not None:
        require_drawing()
        require_writable(report / "index.html")
    with ExitStack() as stack:
        if model.endswith(".pt"):
            if (backend, precision) != ("auto", "auto"):
                message = "a checkpoint runs on torch alone; export it to measure a backend or a precision"
                raise BackendUnavailable(message)
            predictor = _of_checkpoint(Path(model), device)
        else:
            estimator = stack.enter_context(
                PoseEstimator(model, backend=backend, precision=precision, device=device)
            )
            predictor = _of_estimator(estimator)
        persons = read_coco_keypoints(root / annotations, root / images, predictor.skeleton, names=names)
        if other is not None:
            _require_same_persons(persons, *other)
        truth = None if mpii_truth is None else _truth_of(persons, root / mpii_truth)
        if not persons.labelled.any():
            message = f"{root / annotations}: no person has a joint of {predictor.skeleton.name}"
            raise SourceError(message)
        uncounted = uncounted_persons(root / annotations)
        keypoints, scores, presence = predictor.predict(persons)
        has_oks = find_spec("pycocotools") is not None
        accuracy = measure(keypoints, persons, scores if has_oks else None, presence, uncounted=uncounted)
        console = plain_console()
        title = f"{model} on {annotations}: {len(persons)} persons, own boxes, {predictor.runs_on}"
        console.print(_joint_table(title, accuracy))
        lines = {
            "mean pose of these persons": measure(mean_pose(persons), persons),
            "centre of the box": measure(centre_of_box(persons), persons),
        }
        console.print(_line_table({model: accuracy, **lines}))
        found = pck_interval(accuracy.pck_box.per_person)
        console.print(f"drawing persons anew: {found.low:.3f} to {found.high:.3f} in 95 of 100 draws")
        crowd = None
        if accuracy.oks is not None:
            oks = accuracy.oks
            console.print(f"OKS AP {oks.ap:.3f}  AP50 {oks.ap50:.3f}  AP75 {oks.ap75:.3f}")
            if predictor.skeleton == CROWDPOSE14:
                coco = as_coco(keypoints, scores, persons, uncounted)
                crowd = _crowd_ap(root / annotations, persons, *coco)
            if crowd is not None:
                levels = "  ".join(f"{name} {getattr(crowd, name):.3f}" for name in CROWD_LEVELS)
                console.print(f"CrowdPose AP {crowd.ap:.3f}  {levels}")
        else:
            console.print("OKS AP: not measured, it needs pycocotools (pip install pycocotools)")
        heads = {}
        if truth is not None:
            heads = {f"pckh@{part}": pckh(keypoints, truth, part) for part in (0.5, 0.1)}
            console.print("MPII's " + "  ".join(f"{name} {found.mean:.3f}" for name, found in heads.items()))
        if json_path is not None:
            row = {
                "model": model,
                "annotations": str(annotations),
                "runs_on": predictor.runs_on,
                **_plain(accuracy),
                **{name: {"mean": found.mean, "per_joint": found.per_joint} for name, found in heads.items()},
                **({} if crowd is None else {"crowdpose": asdict(crowd)}),
                "lines": {name: _plain(line) for name, line in lines.items()},
                "who": _names(persons),
                "per_person": accuracy.pck_box.per_person,
            }
            write_json_whole(json_path, row)
            console.print(f"wrote {json_path}")
        if report is not None:
            evaluation = Evaluation(
                model=model,
                annotations=str(annotations),
                runs_on=predictor.runs_on,
                persons=persons,
                keypoints=keypoints,
                accuracy=accuracy,
                maps=lambda row: predictor.maps(persons, row),
                crop_size=predictor.crop_size,
            )
            console.print(f"wrote {write_evaluation(report, evaluation)}")
        if other is not None:  # last, so that an error in it loses no results
            console.print(f"against {against}: {_difference(accuracy.pck_box, *other)}")


def _file_names(joints: Sequence[str]) -> dict[str, str | None]:
    """Parse ``neck=thorax`` (the file has another name for a joint) and ``neck=`` (it lacks the joint)."""
    pairs = [text.split("=") for text in joints]
    for text, pair in zip(joints, pairs, strict=True):
        if len(pair) != 2 or not pair[0]:
            message = f"--joint {text!r} must look like neck=thorax, or neck= where the file has none"
            raise SourceError(message)
    return {ours: theirs or None for ours, theirs in pairs}


def _truth_of(persons: PersonTable, file: Path) -> MpiiTruth:
    """The ground truth for PCKh; raises SourceError if PCKh cannot be measured."""
    if persons.skeleton != MPII16:
        message = f"PCKh is of MPII's 16 joints, and the model has those of {persons.skeleton.name}"
        raise SourceError(message)
    return truth_of(persons, read_mpii_truth(file))


def _crowd_ap(
    annotations: Path, persons: PersonTable, truth: dict[str, Any], predictions: list[dict[str, Any]]
) -> CrowdAp | None:
    """CrowdPose's own measures; None if the file lacks the crowd indices."""
    tree = coco_tree(annotations)  # its joints may differ from the truth's, or be in another order
    index = {image["id"]: image.get("crowdIndex") for image in tree["images"]}
    for image in truth["images"]:
        image["crowdIndex"] = index[image["id"]]
        if not isinstance(image["crowdIndex"], (int, float)) or not math.isfinite(image["crowdIndex"]):
            return None
    visible = {a["id"]: a["num_keypoints"] for a in tree["annotations"] if "num_keypoints" in a}
    for person, number in zip(truth["annotations"], persons.annotation_ids.tolist(), strict=False):
        person["num_keypoints"] = visible.get(number, person["num_keypoints"])
    return crowd_ap(truth, predictions, CROWDPOSE14)


def _plain(accuracy: Accuracy) -> dict[str, Any]:
    """The measures as plain data, without the counts of every person."""
    tree = asdict(accuracy)
    for measured in tree.values():
        if isinstance(measured, dict):
            measured.pop("per_person", None)
    return tree


def _read_result(path: Path) -> Any:
    """Read a result that ``--json`` wrote."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        tree["per_person"]
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise SourceError(message) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"--against {path} is not a result: give a file that lfpose eval --json has written"
        raise SourceError(message) from error
    return tree


def _names(persons: PersonTable) -> list[list[Any]]:
    """What identifies the persons: image name and annotation id."""
    return [
        [path.name, number]
        for path, number in zip(persons.images, persons.annotation_ids.tolist(), strict=True)
    ]


def _require_same_persons(persons: PersonTable, against: Path, other: dict[str, Any]) -> None:
    """Raise SourceError if a result names other persons; those of earlier versions name none."""
    names = _names(persons)
    if other.get("who", names) != names:
        message = f"--against {against} was measured on other persons"
        raise SourceError(message)


def _difference(ours: PckResult, against: Path, other: dict[str, Any]) -> str:
    try:
        found = pck_difference(ours.per_person, other["per_person"])
    except (ValueError, TypeError) as error:
        message = f"--against {against} was not measured on these persons: {error}"
        raise SourceError(message) from error
    points = (100 * value for value in (found.value, found.low, found.high))
    return "{:+.1f} points, {:+.1f} to {:+.1f} in 95 of 100 draws".format(*points)


def _joint_table(title: str, accuracy: Any) -> Table:
    auc = accuracy.presence_auc
    table = Table(title=title)
    table.add_column("joint")
    columns = {
        "PCK@0.1 box": (accuracy.pck_box_all.per_joint, accuracy.pck_box_all.mean),
        "PCK@0.2 torso": (accuracy.pck_torso.per_joint, accuracy.pck_torso.mean),
        "presence AUC": (auc, math.nan),
    }
    for name in columns:
        table.add_column(name, justify="right")
    for joint in accuracy.pck_box_all.per_joint:
        table.add_row(joint, *(_number(values[joint]) for values, _ in columns.values()))
    table.add_section()
    table.add_row("all", *(_number(mean) for _, mean in columns.values()))
    return table


def _line_table(lines: dict[str, Any]) -> Table:
    """A table of a model and, below it, the baselines that do not look at the picture."""
    table = Table()
    table.add_column("12 limb joints, PCK@0.1 box")
    for name in ("", "either side"):
        table.add_column(name, justify="right")
    for name, line in lines.items():
        table.add_row(name, _number(line.pck_box.mean), _number(line.pck_either_side.mean))
    return table


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _of_estimator(estimator: PoseEstimator) -> _Predictor:
    def maps(persons: PersonTable, row: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        found = estimator.activation_maps(persons.image(row), persons.boxes[row])
        return found.cams[0], found.affines[0]

    about = estimator.describe()
    return _Predictor(
        estimator.skeleton,
        about["backend"],
        lambda persons: predict_persons(estimator, persons, progress=_progress),
        maps,
        tuple(about["input_size"]),
    )


def _of_checkpoint(checkpoint: Path, device: str) -> _Predictor:
    from lfpose_edge.cli import training  # (says what to install if torch is missing)
    from lfpose_edge.train.evaluate import predict_maps, predict_persons
    from lfpose_edge.train.start import trained_network

    place = training.require_device(device)
    network, recipe = trained_network(checkpoint, place)
    size, padding = recipe.input_size, recipe.data.padding

    def maps(persons: PersonTable, row: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        cams, _, affines = predict_maps(network, persons.chosen([row]), size, padding)
        return cams[0], affines[0]

    return _Predictor(
        recipe.joints,
        f"torch {place}",
        lambda persons: predict_persons(network, persons, size, padding),
        maps,
        size,
    )


def _progress(items: Any) -> Any:
    console = plain_console(stderr=True)
    return track(items, "persons", console=console, transient=True, disable=not console.is_terminal)
