"""Starting a training from the weights of a checkpoint or of a bundle.

A bundle has no BatchNorm: export folded each one into the preceding convolution. To continue training, the
two are separated again. Among the many ways to do so, this one resembles a trained network: the running
statistics are those of the first crops, and filters have norm 1, about that of trained and of newly
initialised filters, so that an optimiser step rotates them about as far. The network's output is unchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable, BundleError, LFPoseError, RecipeError
from lfpose_edge.skeleton import Skeleton
from lfpose_edge.train.checkpoint import load_checkpoint
from lfpose_edge.train.networks import CamNetwork, build_network
from lfpose_edge.train.networks.cam_network import Smoothing
from lfpose_edge.train.recipe import Recipe, parse_recipe
from lfpose_edge.zoo import bundle_path

if TYPE_CHECKING:
    import onnx

Origin = dict[str, str]
LEAST_NORM = 1e-6  # a filter with a smaller norm is dead and stays so


def start_from(source: Path, network: CamNetwork, recipe: Recipe, crops: Iterable[Tensor]) -> Origin:
    """Load the starting weights of a training into its network.

    Args:
        source: a checkpoint (``.pt``), whose averaged weights are taken; or a bundle's folder, or the name of
            a shipped one.
        network: the network to fill.
        recipe: the recipe of the training.
        crops: batches (B, 3, H, W) uint8 RGB as they will be trained on; used for a bundle only.

    Returns:
        A record of the source.

    Raises:
        BundleError: the source is missing, damaged, or holds another network or other joints.
        RecipeError: the source was trained on locations, and the recipe uses none.
        BackendUnavailable: a bundle needs the onnx package.
    """
    if _is_checkpoint(source):
        state = load_checkpoint(source)
        theirs = parse_recipe(state["recipe"], where=str(source))
        _require_same_joints(str(source), theirs.joints, recipe.joints)
        if theirs.located and not recipe.located:
            message = f"start_from {source} was trained on locations, and this recipe uses none: leave it out"
            raise RecipeError(message)
        fill(network, state["ema"], source)
        return {"checkpoint": source.name, "sha256": _sha256(source)}
    bundle = Bundle.open(bundle_path(str(source)))
    _require_same_facts(network, bundle, recipe.joints)
    load_bundle_weights(network, bundle)
    unfold_batch_norms(network, crops)
    manifest = bundle.manifest
    weights = manifest.files[manifest.models["fp32"]].sha256
    return {"bundle": manifest.name, "version": manifest.version, "sha256": weights}


def with_network_of_source(recipe: Recipe, kept: Path) -> Recipe:
    """Add the source model's network to a recipe that starts from a model and names no network.

    Args:
        recipe: the recipe as written.
        kept: the checkpoint of the run; if it exists, its network is used instead.

    Raises:
        BundleError: the model does not say which network it is.
    """
    if recipe.start_from is None or "network" in recipe.model_fields_set:
        return recipe
    source = kept if kept.is_file() else recipe.start_from
    if _is_checkpoint(source):
        theirs = load_checkpoint(source)["recipe"]
    else:
        theirs = Bundle.open(bundle_path(str(source))).manifest.provenance.get("recipe", {})
    if "network" not in theirs:
        message = f"{source} does not say which network it is: give the recipe its network"
        raise BundleError(message)
    network = {**theirs["network"], "pretrained": False}
    return parse_recipe({**recipe.model_dump(mode="json"), "network": network}, where=str(source))


def require_same_start(origin: Origin | None, start: Path | None, path: Path) -> None:
    """Raise LFPoseError if ``start`` has changed since the run of checkpoint ``path`` began from it."""
    before = (origin or {}).get("sha256")
    if before is None or start is None or not start.is_file():
        return
    if _sha256(start) != before:
        message = (
            f"{path} began from what {start} held then, and it holds other weights now; use another --out, "
            "or remove it to start anew"
        )
        raise LFPoseError(message)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def trained_network(
    checkpoint: Path, device: torch.device | str = "cpu", state: Mapping[str, Any] | None = None
) -> tuple[CamNetwork, Recipe]:
    """The averaged network of a checkpoint, on a device, and the recipe it was trained with.

    Args:
        checkpoint: the file.
        device: device of the returned network.
        state: the result of :func:`load_checkpoint`, if the file has been read already.

    Raises:
        BundleError, RecipeError: the file is missing, damaged, or of another version of this package.
    """
    state = load_checkpoint(checkpoint) if state is None else state
    recipe = parse_recipe(state["recipe"], where=str(checkpoint))
    network = build_network(recipe.network, recipe.joints, pretrained=False)
    fill(network, state["ema"], checkpoint)
    return network.to(device), recipe


def _is_checkpoint(source: Path) -> bool:
    return source.suffix == ".pt" or source.is_file()


def fill(network: CamNetwork, theirs: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Load a checkpoint's averaged weights; BundleError if they belong to another network."""
    own = network.state_dict()
    shared = own.keys() & theirs.keys()
    wrong = own.keys() ^ theirs.keys() | {name for name in shared if own[name].shape != theirs[name].shape}
    if wrong:
        message = (
            f"{checkpoint} does not hold the network that the recipe describes: {len(wrong)} of "
            f"{len(own.keys() | theirs.keys())} tensors differ, such as {min(wrong)}; without `network` a "
            "recipe takes the model's own"
        )
        raise BundleError(message)
    network.load_state_dict(theirs)


@torch.no_grad()
def take_statistics(network: CamNetwork, crops: Iterable[Tensor]) -> None:
    """Set BatchNorm's running statistics to those of these crops, batches (B, 3, H, W) uint8 RGB.

    All crops weigh the same, whereas in training the last ones weigh most. With crops of a new domain this
    alone is an adaptation (AdaBN: Li et al., 2016).
    """
    was_training = network.training
    norms = [m for m in network.train().modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    network.eval()
    momenta = [norm.momentum for norm in norms]  # frozen layers are left out
    for norm in norms:
        norm.train().reset_running_stats()
    seen = 0
    for batch in crops:
        seen += len(batch)
        for norm in norms:
            norm.momentum = len(batch) / seen
        network(network.normalize(batch))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)


def load_bundle_weights(network: CamNetwork, bundle: Bundle) -> None:
    """Load a bundle's float weights; every BatchNorm is set to only add the folded bias.

    Raises:
        BundleError: the bundle has another network, or one with layers that an ONNX file does not keep by
            name (context encoder, prototypes).
        BackendUnavailable: onnx is not installed.
    """
    file = bundle.model_file("fp32")
    layers = _named_layers(file)
    norms = dict(_normalised(network))
    state: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        weight, bias = layers.pop(name, (None, None))
        own = len(module.weight)
        if weight is not None and bias is not None and not weight[own:].any():
            weight, bias = weight[:own], bias[:own]  # export pads a smoothed head's maps with zeros
        if weight is None or bias is None or weight.shape != module.weight.shape:
            found = "has no such layer" if weight is None else f"holds {tuple(weight.shape)} there"
            message = (
                f"{file} is not the network that the recipe describes: layer {name} has weights "
                f"{tuple(module.weight.shape)}, and the file {found}; without `network` a recipe takes the "
                "model's own"
            )
            raise BundleError(message)
        state[f"{name}.weight"] = torch.from_numpy(weight.copy())
        own_bias = torch.from_numpy(bias.copy())
        norm = norms.get(name)
        if norm is None:
            state[f"{name}.bias"] = own_bias
            continue
        size = len(own_bias)
        state |= {
            f"{norm}.weight": torch.ones(size),
            f"{norm}.bias": own_bias,
            f"{norm}.running_mean": torch.zeros(size),
            f"{norm}.running_var": torch.full((size,), 1 - _module(network, norm).eps),
        }
    if any(name.startswith("smoothing.") for name in layers):  # the file's network smooths: see CamNetwork
        for lifted in {"cam_head.bias", "erasing_head.cam_head.bias"} & state.keys():
            state[lifted] += Smoothing.BACKGROUND
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    missing = network.state_dict().keys() - state.keys() - counters.keys()
    unused = [name for name in layers if not name.startswith("smoothing.")]
    if missing or unused:
        what = f"the file lacks {min(missing)}" if missing else f"the recipe lacks layer {min(unused)}"
        message = (
            f"a training of this network cannot start from {file}: {what}; start from the checkpoint that "
            "the bundle was exported from, or give the recipe the network of the bundle"
        )
        raise BundleError(message)
    network.load_state_dict({**counters, **state})


@torch.no_grad()
def unfold_batch_norms(network: CamNetwork, crops: Iterable[Tensor]) -> None:
    """Give every BatchNorm the statistics of these crops, without changing what the network computes."""
    pairs = [(_module(network, conv), _module(network, norm)) for conv, norm in _normalised(network)]
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for _, norm in pairs}

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        count = x.new_full((x.shape[1],), x.numel() / x.shape[1])
        sums[norm] += torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), count])

    watches = [norm.register_forward_pre_hook(look) for _, norm in pairs]
    was_training = network.training
    network.eval()
    for batch in crops:
        network(network.normalize(batch))
    network.train(was_training)
    for watch in watches:
        watch.remove()

    for conv, norm in pairs:
        total, squares, count = sums[norm]
        mean = total / count
        slope = norm.weight / (norm.running_var + norm.eps).sqrt()
        offset = norm.bias - slope * norm.running_mean
        # slope * x + offset = weight * (x / scale - mean / scale) / sqrt(variance / scale^2 + eps) + bias
        scale = conv.weight.flatten(1).norm(dim=1).clamp_min(LEAST_NORM).double()
        new_variance = (squares / count - mean.square()).clamp_min(0) / scale.square()
        conv.weight.div_(scale.view(-1, 1, 1, 1))
        norm.running_mean.copy_(mean / scale)
        norm.running_var.copy_(new_variance)
        norm.weight.copy_(slope * scale * (new_variance + norm.eps).sqrt())
        norm.bias.copy_(offset + slope * mean)


def _require_same_facts(network: CamNetwork, bundle: Bundle, joints: Skeleton) -> None:
    facts = bundle.manifest
    backbone = network.backbone
    _require_same_joints(f"bundle {facts.name!r}", bundle.skeleton, joints)
    for what, theirs, ours in (
        ("takes colours as", facts.input.color, "rgb"),
        ("subtracts", list(facts.input.mean), list(backbone.pixel_mean)),
        ("divides by", list(facts.input.std), list(backbone.pixel_std)),
    ):
        if theirs != ours:
            message = f"bundle {facts.name!r} {what} {theirs}, and the recipe's network {ours}"
            raise BundleError(message)


def _require_same_joints(what: str, theirs: Skeleton, ours: Skeleton) -> None:
    if theirs.keypoints != ours.keypoints:
        message = f"{what} finds the joints {', '.join(theirs.keypoints)}, and the recipe {ours.name}'s"
        raise BundleError(message)


def _normalised(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of each convolution and of the BatchNorm that directly follows it in its parent."""
    for parent, module in network.named_modules():
        before = None
        for child, part in module.named_children():
            name = f"{parent}.{child}" if parent else child
            if isinstance(part, nn.BatchNorm2d) and before is not None:
                yield before, name
            before = name if isinstance(part, nn.Conv2d) else None


def _module(network: nn.Module, name: str) -> Any:
    return network.get_submodule(name)


def _named_layers(file: Path) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]]:
    """Weight and bias, float32, of every layer of an exported file, by the layer's name."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        message = "a training that starts from a bundle reads its ONNX file: pip install onnx"
        raise BackendUnavailable(message) from error
    try:
        model: onnx.ModelProto = onnx.load(file)
    except Exception as error:  # protobuf has exception types of its own
        message = f"{file} is no ONNX model: {error!r}"
        raise BundleError(message) from error
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
    layers = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight, bias = (*[values.get(name) for name in node.input[1:]], None)[:2]
            if weight is None:
                continue
            turned = any(a.name == "transB" and a.i for a in node.attribute) or node.op_type == "Conv"
            array = numpy_helper.to_array(weight).astype(np.float32)
            layers[node.name] = (
                array if turned else array.T,
                None if bias is None else numpy_helper.to_array(bias).astype(np.float32),
            )
    return layers
