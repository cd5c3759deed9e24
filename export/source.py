"""What is exported: a training checkpoint, a bundle, or an fp32 ONNX file with the facts of a bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.proof import session
from lfpose_edge.export.simplify import simplify
from lfpose_edge.export.to_onnx import OPSET, forget_origin, store_as_half, to_onnx
from lfpose_edge.export.widen import widen_smoothing

from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BundleError
from lfpose_edge.zoo import bundle_path

logger = logging.getLogger("lfpose_edge")

if TYPE_CHECKING:
    import onnx
    import torch

_OLDEST_OPSET = 13


@dataclass(frozen=True)
class Source:
    """A model to export.

    Attributes:
        model: float32 ONNX, weights stored as they will be shipped.
        facts: the manifest's entries except models, files and schema version; the version only if known.
        network: the torch network that ``model`` came from, for the parity check.
        card: the source's own card.
    """

    model: onnx.ModelProto
    facts: dict[str, Any]
    network: torch.nn.Module | None = None
    card: Path | None = None


def open_source(source: str, like: str | None = None) -> Source:
    """Open a checkpoint (``.pt``), an ONNX file, a bundle's folder, or a shipped model by its name.

    Args:
        source: its path, or the shipped model's name.
        like: for an ONNX file, the bundle whose joints, input and decode it shares.

    Raises:
        BundleError: the source cannot be read, or is none of these.
    """
    path = Path(source)
    if path.suffix in (".pth", ".ckpt"):
        message = f"{path}: the name of a checkpoint of lfpose train ends in .pt"
        raise BundleError(message)
    if path.suffix == ".pt":
        return _from_checkpoint(path)
    if path.suffix == ".onnx":
        if like is None:
            message = (
                f"{path}: an ONNX file does not say its joints, input and decode; name a bundle that has "
            )
            raise BundleError(message + "the same with --like")
        bundle = Bundle.open(bundle_path(like))
        given = _load_onnx(path)
        model = _changed(given, lambda model: widen_smoothing(simplify(model, path.name)))
        _require_same(given, model, bundle.manifest.input.size, path)
        facts = _facts_of(bundle, {"onnx": path.name})
        return Source(model, {**facts, "name": path.stem})
    bundle = Bundle.open(bundle_path(source))
    card = bundle.path / "card.md"
    provenance = {key: value for key, value in bundle.manifest.provenance.items() if key != "int8"}
    facts = {**_facts_of(bundle, provenance), "version": bundle.manifest.version}
    left = sorted(set(bundle.manifest.models) - {"fp32"})
    if left:
        logger.warning(
            "%s is exported from its fp32 file; its own %s are not taken over", source, " and ".join(left)
        )
    model = _changed(_load_onnx(bundle.model_file("fp32")), widen_smoothing)
    return Source(model, facts, card=card if card.is_file() else None)


def _require_same(before: onnx.ModelProto, after: onnx.ModelProto, size: tuple[int, int], path: Path) -> None:
    """Raise BundleError if a changed graph computes something else; one that cannot run is refused later."""
    crops = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)
    try:
        expected = session(before)(crops)
    except Exception:  # onnxruntime's errors share no public base class
        return
    for one, other in zip(expected, session(after)(crops), strict=True):
        near = 1e-3 * max(1.0, float(np.abs(one).max()))
        if one.shape != other.shape or np.abs(one - other).max() > near:  # NaN is refused later, too
            message = (
                f"{path} computes something else once it is simplified (onnxsim, which can be uninstalled); "
                "nothing was written"
            )
            raise BundleError(message)


def _from_checkpoint(path: Path) -> Source:
    from lfpose_edge.train.checkpoint import load_checkpoint
    from lfpose_edge.train.evaluate import decode_facts
    from lfpose_edge.train.start import trained_network

    state = load_checkpoint(path)
    lacking = [key for key in ("recipe", "ema", "step") if key not in state]
    if lacking:
        message = f"{path} has no {lacking[0]!r}: it is not a checkpoint of lfpose train"
        raise BundleError(message)
    network, recipe = trained_network(path, state=state)
    network.eval()
    joints = recipe.joints
    facts = {
        "name": recipe.name,
        "joints": {
            "name": joints.name,
            "keypoints": joints.keypoints,
            "edges": joints.edges,
            "sigmas": joints.sigmas,
        },
        "input": {
            "size": recipe.input_size,
            "color": "rgb",
            "mean": network.backbone.pixel_mean,
            "std": network.backbone.pixel_std,
            "padding": recipe.data.padding,
        },
        "decode": decode_facts(network).model_dump(mode="json"),
        "provenance": {
            "recipe": _without_folders(state["recipe"]),
            "steps": state["step"],
            **({"started_from": state["origin"]} if state.get("origin") else {}),
        },
    }
    return Source(to_onnx(network, recipe.input_size), facts, network)


def _without_folders(entry: Any) -> Any:
    """A recipe without facts about the training machine: absolute paths are cut to their file names."""
    if isinstance(entry, dict):
        return {key: _without_folders(value) for key, value in entry.items()}
    if isinstance(entry, (list, tuple)):
        return [_without_folders(value) for value in entry]
    return Path(entry).name if isinstance(entry, str) and Path(entry).is_absolute() else entry


def _facts_of(bundle: Bundle, provenance: dict[str, Any]) -> dict[str, Any]:
    kept = bundle.manifest.model_dump(mode="json", include={"name", "joints", "input", "decode"})
    return {**kept, "provenance": provenance}


def _changed(model: onnx.ModelProto, change: Callable[[onnx.ModelProto], onnx.ModelProto]) -> onnx.ModelProto:
    """Apply a change to the float32 form of a model; weights are stored as before, as float16 or float32."""
    import onnx

    opened = Graph(model).to_model()
    changed = change(opened)
    if changed is opened:
        return model
    forget_origin(changed)  # including the simplifier's notes
    if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer):
        store_as_half(changed)
    return changed


def _modern(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model in an opset that supports per-channel scales (13 or later); older models are converted."""
    import onnx

    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset >= _OLDEST_OPSET:
        return model
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises its own kinds
        message = f"{path} is of opset {opset}, and cannot be converted to {OPSET}; export it anew ({error})"
        raise BundleError(message) from error
    return converted


def _load_onnx(path: Path) -> onnx.ModelProto:
    import onnx

    if not path.is_file():
        message = f"no ONNX file at {path}"
        raise BundleError(message)
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker raise their own kinds
        message = f"{path} is no ONNX model: {str(error).splitlines()[0] if str(error) else error!r}"
        raise BundleError(message) from error
    if {"QuantizeLinear", "DequantizeLinear", "QLinearConv"} & {node.op_type for node in model.graph.node}:
        message = f"{path} is quantised already; export from the float model"
        raise BundleError(message)
    for node in model.graph.node:
        if any(
            entry.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for entry in node.attribute
        ):
            message = (
                f"{path}: node {node.name!r} ({node.op_type}) holds graphs of its own; export the network "
                "without control flow"
            )
            raise BundleError(message)
    model = _modern(model, path)
    forget_origin(model)
    names = Graph(model)
    if names.inputs != ["crops"] or names.outputs != ["cams", "presence"]:
        message = (
            f"{path} has inputs {names.inputs} and outputs {names.outputs}; a pose network takes 'crops' and "
            "gives 'cams' and 'presence'"
        )
        raise BundleError(message)
    return model
