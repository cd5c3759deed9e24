"""A pose network as ONNX: opset 17, dynamic batch, BatchNorm folded, weights stored as float16."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from lfpose_edge.export.simplify import simplify
from lfpose_edge.export.widen import widen_smoothing

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 17
INPUT, OUTPUTS = "crops", ("cams", "presence")
SMALLEST_TO_HALVE = 256  # elements; short biases and scalars stay float32, as they take little space


def to_onnx(network: torch.nn.Module, size: tuple[int, int]) -> onnx.ModelProto:
    """Export a network in inference mode.

    Args:
        network: takes (B, 3, H, W) normalised crops; returns CAM logits and presence logits.
        size: crop height and width.

    Returns:
        A model with input ``crops`` and outputs ``cams`` and ``presence``, float32, dynamic batch size. It
        contains nothing about the machine that made it: the same network gives the same bytes.
    """
    import onnx
    import torch

    network = copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)
    for module in network.modules():
        if getattr(module, "inplace", False):  # would give the same file, in twice the time
            module.inplace = False
        if isinstance(module, torch.nn.Sequential):
            _fold_batch_norms(module)
    example = (torch.zeros(2, 3, *size),)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about the exporter's internals
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            program = torch.onnx.export(
                _plain_tuple(network),
                example,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=18,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        finally:
            logging.disable(level)
    # The exporter supports no opset below 18; for what these networks use, 17 differs in form only.
    model = onnx.version_converter.convert_version(program.model_proto, OPSET)
    for node in model.graph.node:
        if node.op_type.startswith("Reduce"):  # the conversion leaves an attribute of opset 18 behind
            kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
    model = simplify(model, "the network")
    _name_by_layer(model)
    model = widen_smoothing(model)
    forget_origin(model)
    store_as_half(model)
    return model


def _fold_batch_norms(layers: torch.nn.Sequential) -> None:
    """Merge each convolution with the BatchNorm after it, which leaves the exporter a quarter less to trace.

    The exporter itself folds those that are not adjacent in a Sequential.
    """
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for i in range(len(layers) - 1):
        conv, norm = layers[i], layers[i + 1]
        if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
            layers[i], layers[i + 1] = fuse_conv_bn_eval(conv, norm), torch.nn.Identity()


def _plain_tuple(network: torch.nn.Module) -> torch.nn.Module:
    """The network as a module that returns a plain tuple: only for export."""
    import torch

    class Export(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output = self.network(crops)
            return output[0], output[1]

    return Export()


def _name_by_layer(model: onnx.ModelProto) -> None:
    """Name nodes and tensors after the layers, so that a report says ``decoder.top.0.0`` and not a number."""
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    weights = {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    count: dict[str, int] = {}
    taken: set[str] = set()
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        # A linear layer's weight may have been transposed and renamed, its bias never. Equal parameters may
        # have been merged, so a layer's name may be taken.
        kinds = (".weight", ".bias") if node.op_type == "Gemm" else (".weight",)
        parameters = [
            name for kind in kinds for name in node.input if name in weights and name.endswith(kind)
        ]
        layers = [name.removeprefix("network.").rpartition(".")[0] for name in parameters]
        node.name = next((layer for layer in layers if layer not in taken), "")
        if node.name:
            taken.add(node.name)
        else:
            kind = node.op_type.lower()
            count[kind] = count.get(kind, 0) + 1
            node.name = f"{kind}.{count[kind]}"
        for i, name in enumerate(node.output):
            if name not in fixed:
                renamed[name] = node.output[i] = f"{node.name}/out{i or ''}"


def forget_origin(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes for debugging: source paths, stack traces, versions."""
    graph = model.graph
    things: list[Any] = [
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ]
    for thing in things:
        thing.doc_string = ""
        del thing.metadata_props[:]
    del graph.value_info[:]
    graph.name = "lfpose"
    model.producer_name, model.producer_version = "lfpose-export", ""


def store_as_half(model: onnx.ModelProto, *, exactly: bool = False) -> None:
    """Halve the file: large float32 weights become float16 with a Cast that runtimes fold when loading.

    With ``exactly``, weights that this would change stay float32.
    """
    import onnx
    from onnx import numpy_helper

    casts = []
    for initializer in model.graph.initializer:
        if initializer.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(initializer)
        if values.size < SMALLEST_TO_HALVE:
            continue
        name, halved = initializer.name, values.astype(np.float16)
        if exactly and not np.array_equal(halved, values):
            continue
        half = numpy_helper.from_array(halved, f"{name}_half")
        initializer.CopyFrom(half)
        casts.append(
            onnx.helper.make_node("Cast", [half.name], [name], name=f"{name}_cast", to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
