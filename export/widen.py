"""Pad the smoothing of CAMs to whole blocks of channels, in which CPU engines run depthwise layers fast."""

from __future__ import annotations

import numpy as np
import onnx
from lfpose_edge.export.graph import Graph, attribute
from onnx import helper

_BLOCK = 16  # channels in AVX-512; a multiple of AVX2's 8


def widen_smoothing(model: onnx.ModelProto) -> onnx.ModelProto:
    """Round the channels of the depthwise filters after the CAM head up to a multiple of 16.

    ONNX Runtime's blocked depthwise kernel takes whole blocks only; its kernel for other numbers of channels
    is several times slower. The CAM head produces the additional maps as zeros, and they are cut off at the
    end.

    Args:
        model: float32, weights stored as such.

    Returns:
        A model that computes the same; ``model`` itself if no filter follows a convolution, or the channels
        are whole blocks already.
    """
    graph = Graph(model)
    cams = graph.outputs[0]
    producers, consumers = graph.producers(), graph.consumers()
    filters: list[onnx.NodeProto] = []
    node = producers.get(cams)
    while node is not None and _has_constant_weights(node, graph) and attribute(node, "group", 1) > 1:
        filters.append(node)
        node = producers.get(node.input[0])
    between = [tensor for layer in filters for tensor in layer.input[:1]]
    private = all(len(consumers[tensor]) == 1 and tensor not in graph.outputs for tensor in between)
    if not filters or not private or node is None or not _has_constant_weights(node, graph):
        return model
    joints = len(graph.constants[node.input[1]])
    wide = -(-joints // _BLOCK) * _BLOCK
    if wide == joints or any(attribute(layer, "group") != joints for layer in filters):
        return model
    for layer in (node, *filters):
        for i, name in enumerate(layer.input[1:], 1):
            values = graph.constants[name]
            empty = np.zeros((wide - joints, *values.shape[1:]), values.dtype)
            layer.input[i] = f"{name}.wide"
            graph.constants[f"{name}.wide"] = np.concatenate([values, empty])
        for entry in layer.attribute:
            if entry.name == "group" and entry.i > 1:
                entry.i = wide
    filters[0].output[0] = f"{cams}/wide"
    cut = {f"{cams}/{what}": at for what, at in (("from", 0), ("to", joints), ("axis", 1))}
    graph.constants |= {name: np.array([at], np.int64) for name, at in cut.items()}
    graph.nodes.append(helper.make_node("Slice", [f"{cams}/wide", *cut], [cams], name=f"{cams}/cut"))
    return graph.to_model()


def _has_constant_weights(node: onnx.NodeProto, graph: Graph) -> bool:
    return node.op_type == "Conv" and all(name in graph.constants for name in node.input[1:])
