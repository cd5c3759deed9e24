"""The report of an export: what each precision costs in accuracy and gains in time, with pictures."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from lfpose_edge.export.calibration import CalibrationSet
from lfpose_edge.export.crops import CropSet
from lfpose_edge.export.on_gpu import BuiltEngine
from lfpose_edge.export.proof import Drop, Floats, Judge, Predictions, session, summary, time_interleaved
from lfpose_edge.export.report_text import markdown
from lfpose_edge.export.search import Quantised

from lfpose_edge.backends import ON_GPU, Backend, Request, available, load_backend
from lfpose_edge.backends.base import crop_memory
from lfpose_edge.bundle import REPORT, Bundle
from lfpose_edge.errors import AccuracyGateError, LFPoseError
from lfpose_edge.files import write_json_whole
from lfpose_edge.machine import int8_overflows, machine

logger = logging.getLogger("lfpose_edge")

if TYPE_CHECKING:
    import torch

_SHOWN_LAYERS = 20
ENOUGH_TO_JUDGE = 64  # people


@dataclass(frozen=True)
class Report:
    """What an export found on crops of real persons.

    Attributes:
        held_out: the crops that every model is judged on.
        judge: the judge on these crops.
        model: the float model.
        max_drop: points that a conversion may lose.
        network: the torch network that the float model came from, if it is known.
        calibration: the calibration set of INT8; None for an export without INT8.
        quantised: the INT8 models and how they were found; None likewise.
    """

    held_out: CropSet
    judge: Judge
    model: onnx.ModelProto
    max_drop: float
    network: torch.nn.Module | None = None
    calibration: CalibrationSet | None = None
    quantised: Quantised | None = None


def write_report(folder: Path, report: Report, bundle: Bundle, engines: Sequence[BuiltEngine] = ()) -> None:
    """Judge what was made, and write ``report.json``, ``report.md`` and its pictures into a bundle's folder.

    Args:
        folder: the bundle's folder.
        report: what the export found.
        bundle: the exported bundle.
        engines: the engines built from it; those that can run here are judged too.

    Raises:
        AccuracyGateError: an engine, or the ONNX file, loses more than it may.
    """
    tree = _tree(report, bundle, engines)
    _warn_of_few(report.judge)
    _warn_of_no_gain(tree["latency"])
    write_json_whole(folder / f"{REPORT}.json", tree)
    pictures = _draw(folder, tree)
    (folder / f"{REPORT}.md").write_text(markdown(tree, pictures), encoding="utf-8")


def _tree(report: Report, bundle: Bundle, engines: Sequence[BuiltEngine]) -> dict[str, Any]:
    judge, quantised = report.judge, report.quantised
    original = judge.predict(session(report.model))
    judged: dict[str, Predictions] = {"fp32": original}
    if quantised is not None:
        judged |= {f"int8-{style}": found for style, found in quantised.predictions.items()}
    files = {name: bundle.model_file(name) for name in judged}  # type: ignore[arg-type]
    runnable = {engine.label: engine for engine in engines if engine.infer is not None}
    judged |= {label: judge.predict(engine.infer) for label, engine in runnable.items()}  # type: ignore[arg-type]
    files |= {label: engine.path for label, engine in runnable.items()}
    ahead = next((engine for engine in engines if engine.stand_in is not None), None)  # all compute the same
    if ahead is not None:
        judged["fp16, ONNX Runtime"] = judge.predict(ahead.stand_in)  # type: ignore[arg-type]
        files["fp16, ONNX Runtime"] = ahead.path
    inexact = ""
    if quantised is not None and available()["openvino"] is None:
        # OpenVINO fuses layers between which ONNX Runtime rounds, and is what most CPUs run INT8 in.
        inexact = "int8-cpu, OpenVINO without VNNI" if int8_overflows() else ""
        label = inexact or "int8-cpu, OpenVINO"
        backend = load_backend(bundle, "openvino", Request(precision="int8"))
        judged[label], files[label] = judge.predict(backend.infer), files["int8-cpu"]
        backend.close()
    drops = {name: judge.drop(found, original) for name, found in judged.items()}
    for name, drop in drops.items():
        if name != inexact:  # not the file's fault, and `auto` avoids it on such a CPU
            _require_within(drop.worst, f"{files[name].name} ({name})", report)
    rows = [
        {
            "precision": name,
            "file": files[name].name,
            "megabytes": files[name].stat().st_size / 1e6,
            "pck_points": judge.points(found),
            **_points_lost(drops[name]),
            **{f"moved_{k}": v for k, v in summary(judge.moved(found, original)).items()},
        }
        for name, found in judged.items()
    ]
    steps = {f"fp32 to {name}": judge.pixels(found, original) for name, found in judged.items()}
    del steps["fp32 to fp32"]
    if report.network is not None:
        trained = judge.predict(_in_torch(report.network))
        steps = {"torch to fp32": judge.pixels(original, trained), **steps}
        _require_same(judge.drop(original, trained), files["fp32"].name, report)
    return {
        "model": bundle.manifest.name,
        "version": bundle.manifest.version,
        "held_out": {
            "crops": len(judge),
            "labelled": judge.labelled,
            "points_a_joint": judge.resolution(),
            "asked": quantised.judged if quantised is not None else 1,
            "sha256": report.held_out.sha256,
        },
        "precisions": rows,
        "parity_pixels": steps,
        "per_joint": {precision: judge.per_joint(found) for precision, found in judged.items()},
        **_quantisation(report, bundle),
        "latency": _latency(report, bundle),
        "engine_latency": _engine_latency(report, runnable),
        "engines": [
            {
                "engine": e.label,
                "file": e.path.name,
                "megabytes": e.path.stat().st_size / 1e6,
                "ran": bool(e.infer),
            }
            for e in engines
        ],
        "machine": machine(),
    }


def _quantisation(report: Report, bundle: Bundle) -> dict[str, Any]:
    data, quantised = report.calibration, report.quantised
    if data is None or quantised is None:
        return {}
    made = bundle.manifest.provenance["int8"]
    return {
        "calibration": {
            "set": made["calibration"],
            "crops": len(data.crops),
            "asked": data.asked,
            "sha256": data.crops.sha256,
            "ranges": quantised.calibration.method,
            "equalised_pairs": made["equalised_pairs"],
            "biases_corrected": made["biases_corrected"],
        },
        "in_float": quantised.in_float,
        "sensitivity_percent": {layer: 100 * cost for layer, cost in quantised.sensitivity.items()},
    }


def _require_within(lost: float, what: str, report: Report) -> None:
    if not lost <= report.max_drop:  # NaN fails, too
        message = (
            f"{what} loses {lost:.2f} points, more than --max-drop {report.max_drop:g}; nothing was "
            "published."
        )
        raise AccuracyGateError(message + report.judge.by_chance(report.max_drop))


def _require_same(drop: Drop, file: str, report: Report) -> None:
    """Check the ONNX file against the trained network; one joint crossing a threshold may be chance."""
    apart, allowed = max(abs(drop.pck), abs(drop.presence)), max(report.max_drop, report.judge.resolution())
    if not apart <= allowed:
        message = (
            f"{file} differs from the trained network by {apart:.2f} points on these persons (allowed "
            f"{allowed:.2f}); nothing was published."
        )
        raise AccuracyGateError(message + report.judge.by_chance(report.max_drop))


def _points_lost(drop: Drop) -> dict[str, float]:
    return {
        "drop_points": drop.pck,
        "drop_low": drop.low,
        "drop_high": drop.high,
        "presence_drop_points": drop.presence,
    }


def _in_torch(network: torch.nn.Module) -> Callable[[Floats], tuple[Floats, Floats]]:
    import torch

    def infer(crops: Floats) -> tuple[Floats, Floats]:
        with torch.no_grad():
            cams, presence = network(torch.from_numpy(crops))[:2]
        return cams.numpy(), presence.numpy()

    return infer


def _latency(report: Report, bundle: Bundle) -> list[dict[str, Any]]:
    """Time one crop on every installed CPU engine, fp32 and INT8 taking turns."""
    rows = []
    engines = [name for name, reason in available().items() if reason is None and name not in ON_GPU]
    for threads in sorted({1, min(2, os.cpu_count() or 1)}):
        for engine in engines:
            backends = {}
            for precision in ("fp32", "int8"):
                try:
                    backends[precision] = load_backend(
                        bundle, engine, Request(precision=precision, threads=threads)
                    )
                except (LFPoseError, OSError):
                    continue
            if not backends:
                continue
            timed = time_interleaved({name: _of_one_crop(b, report) for name, b in backends.items()})
            for precision, times in timed.items():
                rows.append({"engine": engine, "threads": threads, "precision": precision, **times})
            for backend in backends.values():
                backend.close()
    return rows


def _warn_of_few(judge: Judge) -> None:
    """Warn if the proof has so few people that a loss could go unseen."""
    if len(judge) < ENOUGH_TO_JUDGE:
        logger.warning(
            "this is proven on %d people, of whom one joint is %.2f points: a loss of thrice that can go "
            "unseen; give %d people or more to prove it on, with more images or --proof",
            len(judge),
            judge.resolution(),
            ENOUGH_TO_JUDGE,
        )


def _warn_of_no_gain(rows: Sequence[dict[str, Any]]) -> None:
    """Warn if INT8 is no faster than float, which can happen with many layers in float."""
    for row in rows:
        if row["precision"] == "int8" and row["threads"] == 1 and row["speedup"] <= 1:
            logger.warning(
                "INT8 is no faster than fp32 on %s here (%.2f times as fast): use --precision fp32 with this "
                "bundle there",
                row["engine"],
                row["speedup"],
            )


def _of_one_crop(backend: Backend, report: Report) -> Callable[[], object]:
    """A call of a backend with one crop, in memory laid out as the crop kernel would leave it."""
    given = report.held_out.crops[:1]
    crop = crop_memory(1, given.shape[2:], channels_last=backend.channels_last)
    crop[:] = given
    return partial(backend.infer, crop)


def _engine_latency(report: Report, engines: dict[str, BuiltEngine]) -> list[dict[str, Any]]:
    """Time GPU engines taking turns, from the crop in host memory to the maps in host memory."""
    if not engines:
        return []
    crop = report.held_out.crops[:1]
    timed = time_interleaved({label: partial(engine.infer, crop) for label, engine in engines.items()})
    return [{"engine": label, **times} for label, times in timed.items()]


_BY_FILES_IN_FLOAT = {
    frozenset[str](): "tab:blue",
    frozenset({"cpu"}): "tab:orange",
    frozenset({"cpu", "trt"}): "tab:red",
}


def _draw(folder: Path, tree: dict[str, Any]) -> list[tuple[str, str]]:
    """Draw the pictures and return (file name, caption) of each; none if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    joints = list(tree["per_joint"]["fp32"])
    figure = Figure(figsize=(8, 0.32 * len(joints) + 1.2), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(tree["per_joint"])
    for i, (precision, points) in enumerate(tree["per_joint"].items()):
        places = [row + i * height for row in range(len(joints))]
        axes.barh(places, [points[j] for j in joints], height, label=precision)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(joints))], joints)
    axes.invert_yaxis()
    axes.set_xlabel("PCK@0.1 box, points" if tree["held_out"]["labelled"] else "joints that stayed, percent")
    axes.legend(loc="lower right")
    figure.savefig(folder / f"{REPORT}-joints.png", dpi=110, metadata={"Software": None})

    drawn = [(f"{REPORT}-joints.png", "Accuracy of every joint")]
    if "in_float" not in tree:
        return drawn
    layers = list(tree["sensitivity_percent"].items())[:_SHOWN_LAYERS]
    figure = Figure(figsize=(8, 0.28 * len(layers) + 1.2), layout="constrained")
    axes = figure.subplots()
    files = [{style for style, kept in tree["in_float"].items() if layer in kept} for layer, _ in layers]
    colors = [_BY_FILES_IN_FLOAT[frozenset(styles)] for styles in files]
    axes.barh([layer for layer, _ in layers], [cost for _, cost in layers], color=colors)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel(
        "joints move, percent of the box, when this layer alone is INT8\n"
        "(orange: in float in int8-cpu, red: in both files)"
    )
    figure.savefig(folder / f"{REPORT}-layers.png", dpi=110, metadata={"Software": None})
    return [*drawn, (f"{REPORT}-layers.png", f"The {len(layers)} layers that INT8 moves most")]
