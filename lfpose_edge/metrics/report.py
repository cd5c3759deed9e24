"""An evaluation report with pictures: accuracy, joints, what the network looks at, and where it fails."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.errors import LFPoseError
from lfpose_edge.files import whole_file, write_bytes_whole, write_text_whole
from lfpose_edge.geometry import Affines, apply_affine, crop_affines, invert_affine
from lfpose_edge.metrics.accuracy import Accuracy, measure
from lfpose_edge.metrics.pck import LIMB_JOINTS, box_thresholds, joint_distances
from lfpose_edge.metrics.reference_lines import centre_of_box, mean_pose
from lfpose_edge.opencv import cv2
from lfpose_edge.persons import PersonTable

_SHOWN_MAPS, _WORST = 6, 12
_TILE = 168  # pixels
_LARGEST = 0.3  # end of the PCK curve, as a fraction of the box's longer side
_TRUTH_BGR, _GUESS_BGR, _ERROR_BGR = (244, 244, 244), (20, 149, 255), (60, 60, 230)


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        model: the model's name, or the checkpoint's path.
        annotations: name of the data.
        runs_on: the backend.
        persons: N persons with their true joints.
        keypoints: (N, K, 2) predicted joints, image pixels.
        accuracy: accuracy of the predictions.
        maps: given a person's row, returns CAM logits (K, h, w) and the crop-to-image affine (2, 3).
        crop_size: crop height and width.
    """

    model: str
    annotations: str
    runs_on: str
    persons: PersonTable
    keypoints: NDArray[np.float32]
    accuracy: Accuracy
    maps: Callable[[int], tuple[NDArray[np.float32], Affines]]
    crop_size: tuple[int, int]


def require_drawing() -> None:
    """Raise LFPoseError if matplotlib, which draws the curves, is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        message = "an evaluation report needs matplotlib (pip install matplotlib)"
        raise LFPoseError(message) from error


def write_evaluation(folder: Path, evaluation: Evaluation) -> Path:
    """Write ``index.html`` and its pictures into a folder, which is created if needed.

    Returns:
        The path of the page.

    Raises:
        LFPoseError: matplotlib is not installed.
        OSError: the folder cannot be written to.
    """
    require_drawing()
    persons = evaluation.persons
    away = joint_distances(evaluation.keypoints, persons.joints, persons.labelled, persons.skeleton)
    away = away / box_thresholds(persons.boxes, 1.0)[:, None]  # fractions of the box's longer side
    error = np.where(persons.labelled, away, np.nan)
    judged = np.flatnonzero(persons.labelled.any(axis=1))
    mean_error = np.nanmean(error[judged], axis=1)
    worst = judged[np.argsort(-mean_error, kind="stable")[:_WORST]]
    shown = judged[np.linspace(0, len(judged) - 1, min(_SHOWN_MAPS, len(judged))).astype(int)]

    _draw_curves(folder / "pck.png", evaluation)
    _draw_joints(folder / "joints.png", evaluation.accuracy)
    rows = [_tile_row(evaluation, i) for i in dict.fromkeys(shown.tolist())]
    _write_picture(folder / "cams.jpg", np.concatenate(rows))
    _write_picture(folder / "worst.jpg", _grid([_pose_tile(evaluation, int(i)) for i in worst], 6))
    page = folder / "index.html"
    write_text_whole(page, _page(evaluation, error[worst]))
    return page


def pck_curve(
    keypoints: NDArray[np.floating], persons: PersonTable, *, either_side: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """PCK of the twelve limb joints (those that the skeleton has) by allowed distance.

    Returns:
        (T,) distances as fractions of the box's longer side, and (T,) PCK.
    """
    away = joint_distances(
        keypoints, persons.joints, persons.labelled, persons.skeleton, either_side=either_side
    )
    away = away / box_thresholds(persons.boxes, 1.0)[:, None]
    limbs = [k for k, joint in enumerate(persons.skeleton.keypoints) if joint in LIMB_JOINTS]
    counted = np.sort(away[:, limbs][persons.labelled[:, limbs]])
    parts = np.linspace(0, _LARGEST, 61)
    return parts, np.searchsorted(counted, parts, side="right") / max(1, len(counted))


def _draw_curves(path: Path, evaluation: Evaluation) -> None:
    from matplotlib.figure import Figure

    persons = evaluation.persons
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for label, keypoints, either, style in (
        ("model", evaluation.keypoints, False, {"color": "tab:blue", "linewidth": 2.2}),
        ("model, either side", evaluation.keypoints, True, {"color": "tab:blue", "linestyle": "--"}),
        ("mean pose of these persons", mean_pose(persons), False, {"color": "tab:orange"}),
        ("centre of the box", centre_of_box(persons), False, {"color": "tab:gray"}),
    ):
        axes.plot(*pck_curve(keypoints, persons, either_side=either), label=label, **style)
    axes.axvline(0.1, color="0.8", linewidth=0.8, zorder=0)
    axes.set(xlim=(0, _LARGEST), ylim=(0, 1), ylabel="PCK, twelve limb joints")
    axes.set_xlabel("allowed distance, part of the box's longer side")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")
    _save_figure(path, figure)


def _draw_joints(path: Path, accuracy: Accuracy) -> None:
    from matplotlib.figure import Figure

    joints = list(accuracy.pck_box_all.per_joint)
    figure = Figure(figsize=(7, 0.3 * len(joints) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh(joints, list(accuracy.pck_box_all.per_joint.values()), color="tab:blue")
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="PCK at 0.1 of the box's longer side")
    axes.grid(axis="x", alpha=0.25)
    _save_figure(path, figure)


def _save_figure(path: Path, figure: object) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})  # type: ignore[attr-defined]


def _tile_row(evaluation: Evaluation, row: int) -> NDArray[np.uint8]:
    """A person's crop with both poses, followed by the crop overlaid with each joint's CAM."""
    cams, affine = evaluation.maps(row)
    crop = _crop(evaluation, row, affine)
    size = (crop.shape[1], crop.shape[0])
    tiles = [_with_poses(evaluation, row, affine)]
    for joint, cam in zip(evaluation.persons.skeleton.keypoints, cams, strict=True):
        peak = float(np.nanmax(cam))
        heat = np.exp(np.clip(cam - peak, -20, 0))  # scaled so that the peak is 1, however low its logit
        heat = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        colors = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
        tile = np.clip(0.45 * crop + 0.75 * colors, 0, 255).astype(np.uint8)
        cv2.putText(tile, joint, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA)
        tiles.append(tile)
    return np.concatenate(tiles, axis=1)


def _pose_tile(evaluation: Evaluation, row: int) -> NDArray[np.uint8]:
    affine = crop_affines(evaluation.persons.boxes[row], (_TILE, _TILE), padding=1.25)[0]
    return _with_poses(evaluation, row, affine, (_TILE, _TILE))


def _with_poses(
    evaluation: Evaluation, row: int, affine: Affines, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """A crop with the true skeleton in white, the predicted one in orange, and red lines between them."""
    persons = evaluation.persons
    size = size or evaluation.crop_size
    tile = _crop(evaluation, row, affine, size)
    scale = tile.shape[0] / size[0]
    inverse = invert_affine(affine)
    truth = apply_affine(inverse, persons.joints[row]) * scale
    guess = apply_affine(inverse, evaluation.keypoints[row].astype(np.float64)) * scale
    labelled = persons.labelled[row]

    def line(a: NDArray[np.float64], b: NDArray[np.float64], color: tuple[int, int, int], width: int) -> None:
        start, end = (np.clip(np.round(p), -9999, 9999).astype(int).tolist() for p in (a, b))
        cv2.line(tile, start, end, color, width, cv2.LINE_AA)

    for k in np.flatnonzero(labelled):
        line(truth[k], guess[k], _ERROR_BGR, 1)
    for points, color in ((truth, _TRUTH_BGR), (guess, _GUESS_BGR)):
        for a, b in persons.skeleton.edge_indices.tolist():
            if labelled[a] and labelled[b]:
                line(points[a], points[b], color, 2)
    return tile


def _crop(
    evaluation: Evaluation, row: int, affine: Affines, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """A person's crop, BGR, for a crop-to-image affine, scaled to the height of a tile."""
    height, width = size or evaluation.crop_size
    scale = _TILE / height
    # OpenCV's origin is the first pixel's centre, the affine's is its corner.
    to_crop = invert_affine(affine) * scale
    to_crop[:, 2] += to_crop[:, :2] @ (0.5, 0.5) - 0.5
    image = evaluation.persons.image(row)
    tile = cv2.warpAffine(image, to_crop, (round(width * scale), _TILE), flags=cv2.INTER_LINEAR)
    return np.asarray(tile, np.uint8)


def _grid(tiles: list[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    blank = np.zeros_like(tiles[0])
    tiles = tiles + [blank] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def _write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    write_bytes_whole(path, cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())


def _page(evaluation: Evaluation, worst: NDArray[np.float64]) -> str:
    accuracy, persons = evaluation.accuracy, evaluation.persons
    lines = {
        "<b>model</b>": accuracy,
        "mean pose of these persons": measure(mean_pose(persons), persons),
        "centre of the box": measure(centre_of_box(persons), persons),
    }
    numbers = "\n".join(
        _row(name, a.pck_box.mean, a.pck_either_side.mean, a.pck_torso.mean) for name, a in lines.items()
    )
    auc = accuracy.presence_auc or {}
    joints = "\n".join(
        _row(html.escape(joint), value, accuracy.pck_torso.per_joint[joint], auc.get(joint, float("nan")))
        for joint, value in accuracy.pck_box_all.per_joint.items()
    )
    median = float(np.median(np.nanmean(worst, axis=1)))
    title = html.escape(f"{evaluation.model} on {evaluation.annotations}")
    return f"""<!doctype html>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }} td, th {{ padding: .15rem .9rem .15rem 0; text-align: left }}
td + td, th + th {{ text-align: right; font-variant-numeric: tabular-nums }}
img {{ max-width: 100% }} .wide {{ overflow-x: auto }} .wide img {{ max-width: none }}
</style>
<h1>{title}</h1>
<p>{accuracy.persons} persons in their own boxes, {html.escape(evaluation.runs_on)}.</p>
<table>
<tr><th></th><th>PCK@0.1 box</th><th>either side</th><th>PCK@0.2 torso</th></tr>
{numbers}
</table>
<p>PCK@0.1 box: the twelve limb joints, within a tenth of the box's longer side. Either side: where left and
right need not be told apart. The two lines below the model look at no picture.</p>
<p><img src="pck.png" alt="PCK against the allowed distance"></p>
<h2>Joints</h2>
<p><img src="joints.png" alt="PCK of every joint"></p>
<table>
<tr><th>joint</th><th>PCK@0.1 box</th><th>PCK@0.2 torso</th><th>presence AUC</th></tr>
{joints}
</table>
<h2>What the network looks at</h2>
<p>A few persons, evenly picked: truth in white, prediction in orange, then the class activation map of every
joint, each scaled to its own peak.</p>
<div class="wide"><img src="cams.jpg" alt="class activation maps over crops"></div>
<h2>Worst cases</h2>
<p>The persons with the largest mean error; half of them are off by more than {median:.2f} of the box.</p>
<p><img src="worst.jpg" alt="the persons with the largest errors"></p>
"""


def _row(name: str, *values: float) -> str:
    cells = "".join(f"<td>{_number(value)}</td>" for value in values)
    return f"<tr><td>{name}</td>{cells}</tr>"


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"
