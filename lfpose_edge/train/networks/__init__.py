"""Pose networks, and how they are built from a recipe."""

from __future__ import annotations

from lfpose_edge.errors import RecipeError, did_you_mean
from lfpose_edge.skeleton import Skeleton
from lfpose_edge.train.networks.cam_network import BACKBONES, CamNetwork, PoseOutput
from lfpose_edge.train.networks.weights import load_imagenet_weights
from lfpose_edge.train.recipe import Network

__all__ = ["BACKBONES", "CamNetwork", "PoseOutput", "build_network"]


def build_network(recipe: Network, skeleton: Skeleton, *, pretrained: bool | None = None) -> CamNetwork:
    """Build the network that a recipe describes.

    Args:
        recipe: the recipe's ``network`` section.
        skeleton: K joints.
        pretrained: whether to load ImageNet weights; None follows the recipe.

    Raises:
        RecipeError: an unknown backbone, missing weights, more stages to freeze than there are.
    """
    if recipe.backbone not in BACKBONES:
        message = f"unknown backbone {recipe.backbone!r}; {did_you_mean(recipe.backbone, BACKBONES)}"
        raise RecipeError(message)
    network = CamNetwork(recipe, skeleton)
    stages = len(network.backbone.early_layers()) - 1
    if recipe.freeze_stages > stages:
        message = (
            f"network.freeze_stages is {recipe.freeze_stages}, and {recipe.backbone} has {stages} stages"
        )
        raise RecipeError(message)
    source = recipe.pretrained if not isinstance(recipe.pretrained, bool) else None
    if recipe.pretrained is not False if pretrained is None else pretrained:
        load_imagenet_weights(network.backbone, recipe.backbone, source)
    network.freeze(recipe.freeze_stages)
    return network
