"""The layers at a network's ends, which INT8 leaves in float."""

from __future__ import annotations

import numpy as np
import onnx
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.quantize import entry_layers, tail_layers
from nets import blob_network


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def test_the_entry_is_what_reads_the_crops() -> None:
    model = blob_network()
    assert entry_layers(Graph(model)) == ["stem", "dw"]
    depthwise = _node(model, "dw")
    for attribute in depthwise.attribute:
        if attribute.name == "group":
            attribute.i = 1
    assert entry_layers(Graph(model)) == ["stem"]
    _node(model, "stem").op_type = "ConvTranspose"  # has no integer kernel in any case
    assert entry_layers(Graph(model)) == []


def test_a_head_before_filters_is_no_tail() -> None:
    model = blob_network()
    head = _node(model, "head")
    head.output[0] = "rough"
    weights = np.full((3, 1, 1, 3), 1 / 3, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "filter.weight"))
    make = onnx.helper.make_node
    names = ["rough", "filter.weight"]
    model.graph.node.append(make("Conv", names, ["cams"], name="filter", group=3, pads=[0, 1, 0, 1]))
    assert tail_layers(Graph(model)) == ["filter", "presence_head"]
    _node(model, "filter").input[0] = "cut"  # what is cut off is not averaged
    model.graph.node.append(make("Clip", ["rough", "low", "high"], ["cut"], name="cut"))
    assert set(tail_layers(Graph(model))) == {"filter", "head", "presence_head"}
