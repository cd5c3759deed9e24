"""INT8 as explicit QuantizeLinear / DequantizeLinear pairs, from one table of ranges in two styles.

No single style serves every engine, so the same ranges are written twice:

- ``cpu``: activations uint8 and asymmetric, biases int32, a pair on every tensor between quantised
  operators. ONNX Runtime and OpenVINO turn this into integer kernels.
- ``trt``: activations int8 and symmetric, biases float, no pair between a convolution and the activation or
  addition that TensorRT fuses into it. TensorRT's parser refuses the int32 biases of the other style.

In both, weights are int8 and symmetric, with one scale per output channel. Quantisation libraries insert one
style or the other, but none derives both from the same ranges, which is why this module exists.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from lfpose_edge.export.graph import Graph, attribute
from lfpose_edge.export.ranges import Calibration
from numpy.typing import NDArray
from onnx import TensorProto, helper

Style = Literal["cpu", "trt"]

_ACTIVATIONS = ("Clip", "Relu")
_GLUE = ("Add", "Concat", "Resize", "MaxPool", "GlobalAveragePool")  # have integer kernels, and no weights
_SAME_GRID = ("Resize", "MaxPool")  # their outputs are values of their inputs


@dataclass(frozen=True)
class Grid:
    """An affine grid of 8-bit integers: value = scale * (integer - zero_point)."""

    scale: np.float32
    zero_point: int
    dtype: Any

    @classmethod
    def over(cls, low: float, high: float, style: Style) -> Grid:
        """The grid of a style that covers ``low`` to ``high``, an interval that contains 0."""
        if style == "trt":
            scale = np.float32(max(-low, high, 1e-8) / 127)
            return cls(scale, 0, np.int8)
        scale = np.float32(max(high - low, 1e-8) / 255)
        return cls(scale, int(np.clip(round(-low / float(scale)), 0, 255)), np.uint8)


def weighted_layers(graph: Graph) -> list[str]:
    """Names of the nodes with weights, in order; each can be quantised or kept in float on its own."""
    return [node.name for node in graph.nodes if _has_weights(node, graph)]


def entry_layers(graph: Graph) -> list[str]:
    """Names of the layers at the input: the first convolution, and the depthwise convolutions on its output.

    INT8 gains nothing there in CPU engines: integer kernels multiply channels in fours, and these layers read
    three or one. In the shipped model no other layers move the joints as far (``report-layers.png``).
    """
    consumers = graph.consumers()
    entry: list[str] = []
    tensors = list(graph.inputs)
    while tensors:
        for node in consumers[tensors.pop()]:
            if node.op_type in _ACTIVATIONS:
                tensors += node.output
            elif node.op_type == "Conv" and (not entry or _is_depthwise(node)) and _has_weights(node, graph):
                entry.append(node.name)
                tensors += node.output
    return entry


def tail_layers(graph: Graph) -> list[str]:
    """Names of the layers that produce the graph's outputs.

    These are the presence head and the CAM head (or, if the CAMs are a similarity, the layers it is computed
    from). If depthwise filters smooth the CAMs, the filters are included instead of the CAM head, since they
    average away the error that INT8 adds to it.
    """
    producers = graph.producers()
    tail: list[str] = []
    tensors = [(name, False) for name in reversed(graph.outputs)]
    while tensors:
        name, smoothed = tensors.pop()
        node = producers.get(name)
        if node is None or node.name in tail:
            continue
        weighted, depthwise = _has_weights(node, graph), _is_depthwise(node)
        if weighted and (depthwise or not smoothed):
            tail.append(node.name)
        if depthwise or not weighted:
            tensors += [(tensor, depthwise) for tensor in node.input]
    return tail


def quantised_tensors(graph: Graph) -> list[str]:
    """Names of the tensors that need a range: those that operators with integer kernels read or write."""
    names: list[str] = []
    for node in graph.nodes:
        if _has_weights(node, graph) or node.op_type in _GLUE:
            names += [name for name in node.input if name and name not in graph.constants]
        if _has_weights(node, graph) or node.op_type in (*_GLUE, *_ACTIVATIONS):
            names += node.output
    kinds = graph.element_types()
    return [name for name in dict.fromkeys(names) if kinds.get(name, TensorProto.FLOAT) == TensorProto.FLOAT]


def quantise(
    model: onnx.ModelProto, calibration: Calibration, style: Style, *, in_float: Collection[str] = ()
) -> onnx.ModelProto:
    """Insert Q/DQ pairs.

    Args:
        model: float32.
        calibration: ranges of :func:`quantised_tensors`.
        style: ``cpu`` or ``trt``.
        in_float: names of layers that stay in float.

    Returns:
        A model with the same inputs and outputs.
    """
    graph = Graph(model)
    grids = _grids(graph, calibration, style, set(in_float))
    writer = _Writer(graph, style)
    new_nodes: list[onnx.NodeProto] = []
    replaced: dict[str, str] = {}
    for name in graph.inputs:
        if name in grids:
            new_nodes += writer.pair(name, grids[name], replaced)
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            node.input[i] = replaced.get(name, name)
        if _has_weights(node, graph) and node.name not in in_float:
            new_nodes += writer.weights(node)
        new_nodes.append(node)
        for name in node.output:
            if name in grids:
                new_nodes += writer.pair(name, grids[name], replaced)
    graph.nodes = new_nodes
    return graph.to_model()


def _grids(graph: Graph, calibration: Calibration, style: Style, in_float: set[str]) -> dict[str, Grid]:
    """The tensors that get a Q/DQ pair, and their grids.

    Every tensor that an integer layer reads gets one. In the ``cpu`` style, so does every tensor that an
    integer layer produces (after its activation, if it has one), since CPU engines compute a layer in
    integers only if its output is quantised. In the ``trt`` style, there is no pair between a convolution and
    the addition that TensorRT fuses it into; if a ResNet's addition has two such inputs, neither has a pair.
    """
    consumers, producers = graph.consumers(), graph.producers()
    layers = {name for name in weighted_layers(graph) if name not in in_float}
    integer = _in_integers(graph, layers)
    grids: dict[str, Grid] = {}
    for name in quantised_tensors(graph):
        readers = {n.name for n in consumers[name] if n.op_type not in _ACTIVATIONS}
        read = bool(readers & integer)
        finished = name not in graph.outputs and not any(n.op_type in _ACTIVATIONS for n in consumers[name])
        made = style == "cpu" and finished and _made_by(layers, name, producers)
        fused = style == "trt" and _fused_into_addition(producers.get(name), consumers[name])
        if fused or not (read or made):
            continue
        source = name
        while source in producers and producers[source].op_type in _SAME_GRID:
            source = producers[source].input[0]
        low, high = calibration.ranges[source]
        grids[name] = Grid.over(low, high, style)
    return grids


def _has_weights(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether a node multiplies by constant weights in a form that INT8 engines support."""
    if node.op_type == "Conv":
        plain = True
    elif node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
        plain = plain and not attribute(node, "transA", 0)
    else:
        return False
    if not plain or any(name not in graph.constants for name in node.input[1:] if name):
        return False
    # In float a bias may have one row per crop, but not in integers.
    biases = [graph.constants[name] for name in node.input[2:] if name]
    return all(bias.shape[:-1] in ((), (1,)) for bias in biases)


def _is_depthwise(node: onnx.NodeProto) -> bool:
    return bool(attribute(node, "group", 1) != 1)


def output_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weights along which its output channels lie."""
    return 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0


def _in_integers(graph: Graph, layers: set[str]) -> set[str]:
    """Names of the nodes that compute in integers: these layers, and the glue and activations after them."""
    producers = graph.producers()
    integer = set(layers)
    for node in graph.nodes:
        makers = (producers[name].name for name in node.input if name in producers)
        if node.op_type in (*_GLUE, *_ACTIVATIONS) and any(maker in integer for maker in makers):
            integer.add(node.name)
    return integer


def _made_by(layers: set[str], name: str, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether one of these layers, or an activation after it, produces a tensor."""
    maker = producers.get(name)
    while maker is not None and maker.op_type in _ACTIVATIONS:
        maker = producers.get(maker.input[0])
    return maker is not None and maker.name in layers


def _fused_into_addition(maker: onnx.NodeProto | None, readers: list[onnx.NodeProto]) -> bool:
    """Whether TensorRT adds a residual inside the convolution that produces this tensor."""
    return maker is not None and maker.op_type == "Conv" and [r.op_type for r in readers] == ["Add"]


class _Writer:
    """Makes Q/DQ nodes and their constants."""

    def __init__(self, graph: Graph, style: Style) -> None:
        self._graph, self._style = graph, style
        self._restored: dict[str, Grid] = {}

    def pair(self, name: str, grid: Grid, replaced: dict[str, str]) -> list[onnx.NodeProto]:
        """Quantise and dequantise a tensor; ``replaced`` gets the name that its readers must use instead."""
        scale, zero = f"{name}/scale", f"{name}/zero_point"
        self._graph.constants[scale] = np.array(grid.scale, np.float32)
        self._graph.constants[zero] = np.array(grid.zero_point, grid.dtype)
        quantised, restored = f"{name}/quantised", f"{name}/restored"
        replaced[name] = restored
        self._restored[restored] = grid
        return [
            helper.make_node("QuantizeLinear", [name, scale, zero], [quantised], name=f"{name}/q"),
            helper.make_node("DequantizeLinear", [quantised, scale, zero], [restored], name=f"{name}/dq"),
        ]

    def weights(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Store a layer's weights, and in the ``cpu`` style its bias, as integers."""
        constants, given = self._graph.constants, self._restored[node.input[0]]
        axis = output_axis(node)
        weight = np.moveaxis(constants[node.input[1]], axis, 0)
        bias: NDArray[Any] | None = None
        if len(node.input) > 2 and node.input[2]:
            bias = np.broadcast_to(constants[node.input[2]].reshape(-1), len(weight))  # a Gemm's: (1, N)
        least: NDArray[np.float64] | float = 0.0
        if self._style == "cpu" and bias is not None:
            # A channel of tiny weights must still have steps coarse enough for its bias to fit into int32.
            least = np.abs(bias.astype(np.float64)) / (2.0**30 * float(given.scale))
        integers, scales = quantise_weights(weight, least)
        name = f"{node.name}/weight"
        constants[f"{name}/quantised"] = np.moveaxis(integers, 0, axis)
        constants[f"{name}/scale"] = scales
        constants[f"{name}/zero_point"] = np.zeros(len(scales), np.int8)
        parts = [f"{name}/quantised", f"{name}/scale", f"{name}/zero_point"]
        nodes = [helper.make_node("DequantizeLinear", parts, [name], name=f"{name}/dq", axis=axis)]
        node.input[1] = name
        if self._style == "cpu" and bias is not None:
            steps = given.scale.astype(np.float64) * scales
            name = f"{node.name}/bias"
            limit = 2**31 - 1
            constants[f"{name}/quantised"] = np.clip(
                np.rint(bias.astype(np.float64) / steps), -limit, limit
            ).astype(np.int32)
            constants[f"{name}/scale"] = steps.astype(np.float32)
            constants[f"{name}/zero_point"] = np.zeros(len(steps), np.int32)
            parts = [f"{name}/quantised", f"{name}/scale", f"{name}/zero_point"]
            nodes.append(helper.make_node("DequantizeLinear", parts, [name], name=f"{name}/dq", axis=0))
            node.input[2] = name
        return nodes


def quantise_weights(
    weight: NDArray[Any], least: NDArray[np.float64] | float = 0.0
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise weights to symmetric int8, with a scale of at least ``least`` per output channel (axis 0)."""
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    scales = np.maximum(np.maximum(largest, 1e-8) / 127, least).astype(np.float32)
    steps = scales.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / steps), -127, 127).astype(np.int8), scales
