"""An ONNX graph for editing: constants as arrays, and the producer and consumers of every tensor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


class Graph:
    """The graph of a model, opened for editing.

    Weights that are stored as float16 behind a Cast are float32 constants here; the outputs of Constant
    nodes, and Identities of constants, are constants too.

    Attributes:
        nodes: in topological order, so that every tensor is produced before it is read.
        constants: name to array.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.constants: dict[str, NDArray[Any]] = {
            t.name: numpy_helper.to_array(t) for t in model.graph.initializer
        }
        self.nodes: list[onnx.NodeProto] = []
        for node in model.graph.node:
            if node.op_type == "Cast" and node.input[0] in self.constants:
                to = onnx.helper.tensor_dtype_to_np_dtype(attribute(node, "to"))
                self.constants[node.output[0]] = self.constants[node.input[0]].astype(to)
            elif node.op_type == "Identity" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
            elif node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            else:
                copied = onnx.NodeProto()
                copied.CopyFrom(node)
                self.nodes.append(copied)
        names = Counter(node.name for node in self.nodes)
        for i, node in enumerate(self.nodes):
            if not node.name or names[node.name] > 1:  # layers are told apart by name
                node.name = f"{node.name or node.op_type.lower()}.{i}"

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs."""
        return [value.name for value in self._model.graph.input if value.name not in self.constants]

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs."""
        return [value.name for value in self._model.graph.output]

    def producers(self) -> dict[str, onnx.NodeProto]:
        """Tensor name to the node that produces it."""
        return {name: node for node in self.nodes for name in node.output}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Tensor name to the nodes that read it, each once."""
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                if name:
                    readers[name].append(node)
        return readers

    def element_types(self) -> dict[str, int]:
        """Tensor name to ``onnx.TensorProto`` element type, where it can be inferred."""
        inferred = onnx.shape_inference.infer_shapes(self.to_model()).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        return {value.name: value.type.tensor_type.elem_type for value in values}

    def to_model(self, extra_outputs: Iterable[str] = ()) -> onnx.ModelProto:
        """The model with these nodes and constants; unused constants are dropped.

        Args:
            extra_outputs: float32 tensors that become outputs too.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        graph = model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        inputs = [value for value in self._model.graph.input if value.name in self.inputs]
        del graph.input[:]
        graph.input.extend(inputs)
        used = {name for node in self.nodes for name in node.input} | set(self.outputs)
        graph.initializer.extend(
            numpy_helper.from_array(array.copy(order="C"), name)
            for name, array in sorted(self.constants.items())
            if name in used
        )
        graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in extra_outputs
        )
        return model


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default
