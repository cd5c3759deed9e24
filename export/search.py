"""Choose ranges, rank layers by the harm INT8 does, and keep the worst in float until the gate holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from lfpose_edge.export.adjust import correct_biases
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.proof import Drop, Floats, Judge, Predictions, Show, session, silent
from lfpose_edge.export.quantize import Style, entry_layers, quantise, tail_layers, weighted_layers
from lfpose_edge.export.ranges import METHODS, Calibration, Observation, RangeMethod, calibration_from

from lfpose_edge.errors import AccuracyGateError, CalibrationError

STYLES: tuple[Style, ...] = ("cpu", "trt")


@dataclass(frozen=True)
class Quantised:
    """INT8 models that passed the gate, and how they were found.

    Attributes:
        models: the INT8 model of each style.
        calibration: the ranges that both styles use.
        in_float: the layers of each style that stayed in float.
        sensitivity: layer to the mean movement of the joints, as a fraction of the box, when only that layer
            is INT8; worst first.
        predictions: what each style's model predicts for the held-out crops.
        drops: what each style loses on the held-out crops.
        judged: how often the held-out crops were used to judge; more than once if a candidate failed on them.
    """

    models: dict[Style, onnx.ModelProto]
    calibration: Calibration
    in_float: dict[Style, list[str]]
    sensitivity: dict[str, float]
    predictions: dict[Style, Predictions]
    drops: dict[Style, Drop]
    judged: int


def quantise_within(
    model: onnx.ModelProto,
    seen: dict[str, Observation],
    *,
    method: RangeMethod | None,
    tuning: Judge,
    held_out: Judge,
    max_drop: float,
    crops: int,
    source_sha256: str,
    correct_with: Floats | None = None,
    show: Show = silent,
) -> Quantised:
    """Quantise a model so that it loses at most ``max_drop`` points on the held-out crops.

    The limit applies to PCK and to presence accuracy, each on its own. The layers that produce the outputs
    stay in float and, for CPU engines, so do those that read the crops. If that is not enough, the layers
    that move the joints most are kept in float too: the worst one, the worst two, four, and so on, up to half
    of all layers. How many are needed is determined on calibration crops; if the held-out crops disagree,
    more are tried, and ``Quantised.judged`` says so.

    Args:
        model: float32.
        seen: what was observed of its tensors on the calibration crops.
        method: how ranges are chosen; None takes the method that moves the joints of ``tuning`` least.
        tuning: judges ranges and layers on calibration crops, so that the held-out crops stay unseen.
        held_out: judges the result.
        max_drop: largest loss allowed, in points.
        crops, source_sha256: number and content hash of the calibration crops, for the record.
        correct_with: crops (N, 3, H, W) to correct biases with; None leaves the biases as they are.
        show: shows progress.

    Raises:
        AccuracyGateError: keeping half of the layers in float is not enough; the message names the worst.
    """
    graph = Graph(model)
    tail, entry = tail_layers(graph), entry_layers(graph)
    original = tuning.predict(session(model))
    if not tuning.sees_joints(original):
        message = (
            "the float model sees no joint in the calibration crops, so INT8 cannot be compared with it; "
            "frames with people in them need --detector"
        )
        raise CalibrationError(message)

    def movement(candidate: onnx.ModelProto) -> float:
        return float(np.nanmean(tuning.moved(tuning.predict(session(candidate)), original)))

    def calibrated(by: RangeMethod) -> Calibration:
        return calibration_from(seen, by, crops=crops, source_sha256=source_sha256)

    always: dict[Style, list[str]] = {"cpu": list(dict.fromkeys([*tail, *entry])), "trt": tail}
    for style in STYLES:
        if not set(weighted_layers(graph)).difference(always[style]):
            message = (
                f"no layer of the model would be INT8 in its int8-{style} file: what can be are convolutions "
                f"and Gemms with constant weights, but for those at its ends"
            )
            raise CalibrationError(message)

    def corrected(style: Style, in_float: list[str]) -> onnx.ModelProto:
        if correct_with is None:
            return model
        return correct_biases(model, calibration, style, correct_with, in_float=in_float, show=show)

    candidates: Sequence[RangeMethod] = [method] if method else METHODS
    scores = {
        by: sum(movement(quantise(model, calibrated(by), style, in_float=always[style])) for style in STYLES)
        for by in (show(candidates, "trying ranges") if len(candidates) > 1 else candidates)
    }
    calibration = calibrated(min(scores, key=lambda by: scores[by]))

    layers = [layer for layer in weighted_layers(graph) if layer not in tail]
    costs = {
        layer: movement(quantise(model, calibration, "cpu", in_float=set(layers + tail) - {layer}))
        for layer in show(layers, "ranking layers")
    }
    sensitivity = dict(sorted(costs.items(), key=lambda pair: -pair[1]))
    worst = {style: [layer for layer in sensitivity if layer not in always[style]] for style in STYLES}

    reference = held_out.predict(session(model))
    held_out.trust(reference)
    held_out.require_points(reference)
    half, judged = len(layers) // 2, 0
    tuning.trust(original)
    for kept in sorted({0, half, *(2**i for i in range(half.bit_length()) if 2**i < half)}):
        in_float = {style: [*always[style], *worst[style][:kept]] for style in STYLES}
        models = {
            style: quantise(corrected(style, layers), calibration, style, in_float=layers)
            for style, layers in in_float.items()
        }
        here = (tuning.drop(tuning.predict(session(m)), original) for m in models.values())
        if kept < half and any(drop.low > max_drop for drop in here):  # too much, even at the low end
            continue
        found = {
            style: held_out.predict(session(models[style]))
            for style in show(STYLES, f"accuracy, {len(in_float['trt'])} layers in float")
        }
        judged += 1
        drops = {style: held_out.drop(prediction, reference) for style, prediction in found.items()}
        if max(drop.worst for drop in drops.values()) <= max_drop:
            return Quantised(models, calibration, in_float, sensitivity, found, drops, judged)
    most = max(drops.values(), key=lambda drop: drop.worst)
    what = "PCK points" if most.pck >= most.presence else "points of presence"
    message = (
        f"INT8 loses {most.worst:.2f} {what} with {len(in_float['trt'])} layers in float, more than "
        f"--max-drop {max_drop:g}; nothing was published. The layers that hurt most: "
        f"{', '.join(list(sensitivity)[:5])}."
    )
    raise AccuracyGateError(message + held_out.by_chance(max_drop))
