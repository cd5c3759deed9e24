"""Float16 ONNX models for engines that compute in the types of their file (TensorRT 11, TensorRT for RTX)."""

from __future__ import annotations

import numpy as np
import onnx
from lfpose_edge.export.graph import Graph
from onnx import TensorProto, helper

# Inputs that ONNX defines as float32 whatever the data's type is, by operator.
_STAYS_FLOAT = {"Resize": (1, 2)}


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute in float16 between float32 inputs and outputs.

    Every float constant becomes float16, except those that ONNX requires to be float32. Weights beyond
    float16's largest value are clipped to it.
    """
    graph = Graph(model)
    largest = float(np.finfo(np.float16).max)
    kept = {
        node.input[i]
        for node in graph.nodes
        for i in _STAYS_FLOAT.get(node.op_type, ())
        if i < len(node.input) and node.input[i]
    }
    for name, array in graph.constants.items():
        if array.dtype == np.float32 and name not in kept:
            graph.constants[name] = np.clip(array, -largest, largest).astype(np.float16)

    inside = {name: f"{name}/half" for name in (*graph.inputs, *graph.outputs)}
    for node in graph.nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = inside.get(name, name)
    enter = [
        helper.make_node("Cast", [name], [inside[name]], name=f"{name}/to_half", to=TensorProto.FLOAT16)
        for name in graph.inputs
    ]
    leave = [
        helper.make_node("Cast", [inside[name]], [name], name=f"{name}/to_float", to=TensorProto.FLOAT)
        for name in graph.outputs
    ]
    graph.nodes = [*enter, *graph.nodes, *leave]
    return graph.to_model()
