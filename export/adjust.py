"""Changes to a float network that make it easier to quantise: equalised channels, corrected biases.

Both are from Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV
2019), sections 4.1 and 4.2; biases are corrected from calibration crops, not from BatchNorm statistics.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from lfpose_edge.export.graph import Graph, attribute
from lfpose_edge.export.proof import Show, onnx_session, silent
from lfpose_edge.export.quantize import Style, output_axis, quantise, weighted_layers
from lfpose_edge.export.ranges import Calibration
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_SMALLEST_SCALE, _LARGEST_SCALE = 0.1, 10.0


def equalise(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Scale channels between two layers so that both layers' weights have similar ranges channel by channel.

    If the first layer makes a channel s times smaller and the second scales it up s times, the network still
    computes the same, provided that nothing but ReLUs lies between them and no other node reads the channel.
    A ReLU6 clips at a fixed value, so nothing is scaled across one.

    Returns:
        The model, float32, and how many pairs of layers were equalised.
    """
    graph = Graph(model)
    pairs = list(_pairs(graph))
    for first, second in pairs:
        outgoing = _by_channel(graph, first, output_axis(first))
        incoming = _by_channel(graph, second, _input_axis(second))
        made, taken = (np.abs(w).max(axis=1) for w in (outgoing, incoming))
        scale = np.sqrt(np.divide(made, taken, out=np.ones_like(made), where=(made > 0) & (taken > 0)))
        scale = np.clip(scale, _SMALLEST_SCALE, _LARGEST_SCALE).astype(np.float32)
        _scale(graph, first.input[1], 1 / scale, output_axis(first))
        if len(first.input) > 2 and first.input[2]:
            _scale(graph, first.input[2], 1 / scale, 0)
        _scale(graph, second.input[1], scale, _input_axis(second))
    return graph.to_model(), len(pairs)


def _pairs(graph: Graph) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Pairs of layers whose channels can be scaled against each other."""
    layers = set(weighted_layers(graph))
    consumers = graph.consumers()
    uses = {
        name: sum(name in node.input for node in graph.nodes) for name in graph.constants
    }  # shared weights cannot be scaled for one reader
    for first in graph.nodes:
        if first.name not in layers:
            continue
        between, name = first, first.output[0]
        while True:
            readers = consumers[name]
            if name in graph.outputs or len(readers) != 1:
                break
            between = readers[0]
            if between.op_type != "Relu":
                break
            name = between.output[0]
        if between is first or between.name not in layers or name in graph.outputs:
            continue
        grouped = attribute(between, "group", 1) not in (1, len(graph.constants[between.input[1]]))
        own = all(uses[tensor] == 1 for node in (first, between) for tensor in node.input[1:] if tensor)
        if own and not grouped:
            yield first, between


def _input_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weights along which its input channels lie; a depthwise layer's is axis 0."""
    if attribute(node, "group", 1) > 1:
        return 0
    return 1 - output_axis(node) if node.op_type == "Gemm" else 1


def _by_channel(graph: Graph, node: onnx.NodeProto, axis: int) -> Floats:
    weight = np.moveaxis(graph.constants[node.input[1]], axis, 0)
    return weight.reshape(len(weight), -1)


def _scale(graph: Graph, name: str, scale: Floats, axis: int) -> None:
    values = graph.constants[name]
    shape = [1] * values.ndim
    shape[axis] = -1
    graph.constants[name] = values * scale.reshape(shape)


def correct_biases(
    model: onnx.ModelProto,
    calibration: Calibration,
    style: Style,
    crops: Floats,
    *,
    in_float: list[str],
    show: Show[str] = silent,
) -> onnx.ModelProto:
    """Subtract from every quantised layer's bias what quantisation adds to its outputs on average.

    Layers are corrected in the network's order, since each layer's error includes that of the layers before.

    Args:
        model: float32.
        calibration, style, in_float: how it will be quantised.
        crops: (N, 3, H, W) calibration crops.
        show: wraps the loop over layers, to show it.

    Returns:
        The float model with corrected biases, to be quantised like ``model``.
    """
    graph = Graph(model)
    layers = [
        node for node in graph.nodes if node.name in weighted_layers(graph) and node.name not in in_float
    ]
    with_bias = [node for node in layers if len(node.input) > 2 and node.input[2]]
    if not with_bias:
        return model
    outputs = [node.output[0] for node in with_bias]
    expected = dict(zip(outputs, _channel_means(graph.to_model(outputs), outputs, crops), strict=True))
    for node in show(with_bias, "correcting biases"):  # type: ignore[arg-type]
        name = node.output[0]
        quantised = Graph(quantise(graph.to_model(), calibration, style, in_float=in_float)).to_model([name])
        (found,) = _channel_means(quantised, [name], crops)
        bias = f"{node.name}/bias.corrected"  # a new constant: two layers may share one
        graph.constants[bias] = graph.constants[node.input[2]] + (expected[name] - found)
        node.input[2] = bias
    return graph.to_model()


def _channel_means(model: onnx.ModelProto, names: list[str], crops: Floats, batch: int = 8) -> list[Floats]:
    """The mean of every channel of some tensors (N, C, ...) over crops."""
    engine = onnx_session(model)
    sums = [0.0] * len(names)
    for first in range(0, len(crops), batch):
        chunk = crops[first : first + batch]
        for i, values in enumerate(engine.run(names, {"crops": chunk})):
            sums[i] = sums[i] + values.reshape(*values.shape[:2], -1).mean(axis=2).sum(axis=0)
    return [np.asarray(total / len(crops), np.float32) for total in sums]
