"""The pose network: backbone, context encoder, light decoder, CAM logits and presence logits."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lfpose_edge.skeleton import Skeleton
from lfpose_edge.train.networks.aggregation import FeatureAggregation
from lfpose_edge.train.networks.context_encoder import ContextEncoder
from lfpose_edge.train.networks.decoder import CamHead, ErasingHead, ResizeDecoder
from lfpose_edge.train.networks.efficientnet_lite import LITE_VARIANTS, EfficientNetLite
from lfpose_edge.train.networks.prototypes import PrototypeHead, Prototypes
from lfpose_edge.train.networks.resnet import RESNET_VARIANTS, ResNet
from lfpose_edge.train.recipe import Network

BACKBONES = {name: EfficientNetLite for name in LITE_VARIANTS} | {name: ResNet for name in RESNET_VARIANTS}
_STRIDES = (4, 8, 16, 32)  # of a backbone's maps


class Features(NamedTuple):
    """Intermediate maps of the network.

    Attributes:
        deep: (B, C, H / 16, W / 16), the backbone's map.
        fine: (B, C, h, w), the decoder's finest map, off which CAMs are read.
    """

    deep: Tensor
    fine: Tensor


class PoseOutput(NamedTuple):
    """Output of every pose network.

    Attributes:
        cams: (B, K, h, w) class activation maps, logits.
        presence: (B, K) presence logits.
        coarse_cams: logits (B, K, h_l, w_l) of coarser maps, where the network has them, and those of an
            :class:`ErasingHead`; for training only.
        prototypes: the prototypes, where the network has them; for training only.
        features: the intermediate maps; in training only.
    """

    cams: Tensor
    presence: Tensor
    coarse_cams: tuple[Tensor, ...] = ()
    prototypes: Prototypes | None = None
    features: Features | None = None


class GaussianRow(nn.Module):
    """A fixed depthwise filter: a Gaussian along one axis of a map. It is not part of a checkpoint.

    Args:
        channels: channels of the map.
        sigma: standard deviation in cells.
        vertical: filter along the columns instead of the rows.
        bias: added to every cell.
    """

    def __init__(self, channels: int, sigma: float, *, vertical: bool, bias: float = 0.0) -> None:
        super().__init__()
        reach = math.ceil(2.5 * sigma)
        bump = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
        self.shape = (2 * reach + 1, 1) if vertical else (1, 2 * reach + 1)
        weight = (bump / bump.sum()).view(1, 1, *self.shape).repeat(channels, 1, 1, 1)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", torch.full((channels,), bias), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape; the map is zero-padded."""
        padding = (self.shape[0] // 2, self.shape[1] // 2)
        weight: Tensor = self.weight  # type: ignore[assignment]
        bias: Tensor = self.bias  # type: ignore[assignment]
        return F.conv2d(x, weight, bias, padding=padding, groups=len(weight))


class Smoothing(nn.Module):
    """Correlates CAM logits with a Gaussian: a peak supported by its neighbours beats an isolated one.

    Cells beyond the border count as background. The Gaussian should be that of the training's target: the
    filter is then matched to the target, and the one logit by which it lowers a peak is added again.

    Args:
        joints: K.
        sigma: standard deviation in cells.
    """

    BACKGROUND = -10.0  # logits; about what trained maps hold where no joint is

    def __init__(self, joints: int, sigma: float) -> None:
        super().__init__()
        self.across = GaussianRow(joints, sigma, vertical=False)
        self.down = GaussianRow(joints, sigma, vertical=True, bias=self.BACKGROUND + 1)

    def forward(self, above_background: Tensor) -> Tensor:
        """CAM logits (B, K, h, w), raised by -BACKGROUND, to smoothed CAM logits."""
        smoothed: Tensor = self.down(self.across(above_background))
        return smoothed


class CamNetwork(nn.Module):
    """A backbone, a :class:`ResizeDecoder`, a CAM head and a presence head.

    A recipe may add a :class:`FeatureAggregation` after each of the backbone's four maps, a
    :class:`ContextEncoder` between backbone and decoder, a :class:`PrototypeHead` in place of the CAM head,
    an :class:`ErasingHead` beside it, and, outside of training, a :class:`Smoothing` of the CAMs.

    Args:
        recipe: which of these modules to use, and their sizes.
        skeleton: K joints.

    Attributes:
        cam_stride: crop pixels per CAM cell.
        deep_channels, fine_channels: channels of the maps in :class:`Features`.
    """

    def __init__(self, recipe: Network, skeleton: Skeleton) -> None:
        super().__init__()
        joints, widths = len(skeleton), recipe.widths
        self._frozen: list[nn.Module] = []
        self.backbone = BACKBONES[recipe.backbone](recipe.backbone)
        channels = dict(zip(_STRIDES, self.backbone.channels, strict=True))
        self.aggregations = nn.ModuleList()
        if (fasm := recipe.aggregate) is not None:
            self.aggregations.extend(
                FeatureAggregation(c, scales=fasm.scales, ratio=fasm.ratio, select=fasm.select)
                for c in self.backbone.channels
            )
        self.context: ContextEncoder | None = None
        first = _STRIDES[-1]
        if recipe.context is not None:
            first, part = recipe.context.asking, recipe.context
            self.context = ContextEncoder(
                [channels[stride] for stride in part.strides],
                part.strides,
                part.asking,
                joints,
                width=part.width,
                layers=part.layers,
                heads=part.heads,
                guided=part.guided,
            )
            channels[first] = part.width
        self._finer = _STRIDES.index(first)  # number of maps that the decoder always takes from the backbone
        decoded = [channels[stride] for stride in _STRIDES if stride <= first]
        self.decoder = ResizeDecoder(
            decoded, widths, joints if recipe.refine else 0, recipe.decode, first=first
        )
        self.prototypes: PrototypeHead | None = None
        if recipe.context is not None and recipe.prototypes is not None:
            self.coarse_head = CamHead(recipe.context.width, joints)
            self.prototypes = PrototypeHead(
                recipe.context.width,
                widths[-1],
                skeleton,
                layers=recipe.prototypes.layers,
                heads=recipe.prototypes.heads,
                memory=recipe.prototypes.memory,
            )
        else:
            self.cam_head = CamHead(widths[-1], joints)
        self.erasing_head = ErasingHead(widths[-1], joints, recipe.erase) if recipe.erase else None
        self.presence_head = nn.Linear(widths[0], joints)
        self.smoothing = Smoothing(joints, recipe.smooth_cells) if recipe.smooth_cells else None
        self.cam_stride = first // 2 ** (len(widths) - 1)
        self.deep_channels, self.fine_channels = self.backbone.channels[_STRIDES.index(16)], widths[-1]

    def forward(self, crops: Tensor) -> PoseOutput:
        """(B, 3, H, W) normalised crops to CAMs (B, K, H / stride, W / stride) and presence (B, K)."""
        maps = self.backbone(crops, self.aggregations)
        deep = maps[_STRIDES.index(16)]
        coarse_cams: tuple[Tensor, ...] = ()
        if self.context is not None:
            context, coarse_cams = self.context([maps[_STRIDES.index(s)] for s in self.context.strides])
            maps = [*maps[: self._finer], context]
        fine, top, refined = self.decoder(maps)
        presence = self.presence_head(top.mean(dim=(2, 3)))
        smoothing = None if self.training else self.smoothing
        lift = 0.0 if smoothing is None else -smoothing.BACKGROUND
        prototypes = None
        if self.prototypes is not None:
            coarse = self.coarse_head(maps[-1])
            cams, prototypes = self.prototypes(maps[-1], coarse, presence, fine, lift)
            coarse_cams = (*coarse_cams, coarse)
        else:
            cams = self.cam_head(fine, lift)
        if self.erasing_head is not None:
            rest = self.erasing_head(fine, cams, lift)
            if self.training:
                coarse_cams = (*coarse_cams, rest)
            else:
                cams = torch.maximum(cams, rest)
        if smoothing is not None:
            cams = smoothing(cams)
        features = Features(deep, fine) if self.training else None
        return PoseOutput(cams, presence, coarse_cams + refined, prototypes, features)

    def freeze(self, stages: int) -> None:
        """Freeze the backbone's stem and its first ``stages`` stages; 0 unfreezes everything."""
        layers = self.backbone.early_layers()
        self._frozen = layers[: stages + 1] if stages else []
        for layer in layers:
            layer.requires_grad_(layer not in self._frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> CamNetwork:
        """As in torch, but frozen layers stay in eval mode, which keeps their BatchNorm statistics."""
        super().train(mode)
        for layer in self._frozen:
            layer.eval()
        return self

    def normalize(self, crops: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB to the network's input: normalised float32, channels last."""
        mean = torch.tensor(self.backbone.pixel_mean, device=crops.device).view(1, 3, 1, 1)
        std = torch.tensor(self.backbone.pixel_std, device=crops.device).view(1, 3, 1, 1)
        return ((crops - mean) / std).contiguous(memory_format=torch.channels_last)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters of the backbone, and all others, for different learning rates."""
        backbone = list(self.backbone.parameters())
        ids = {id(p) for p in backbone}
        head = [p for p in self.parameters() if id(p) not in ids]
        return {"backbone": [p for p in backbone if p.requires_grad], "head": head}


def count_parameters(network: nn.Module) -> int:
    """The number of learned parameters."""
    return sum(p.numel() for p in network.parameters())


def count_macs(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-accumulates of one crop of ``size`` (height, width), counted by torch's FlopCounterMode."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    training = network.training
    network.eval()
    # Only the plain (MATH) attention consists of operators that are counted.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network(torch.zeros(1, 3, *size))
    network.train(training)
    return counter.get_total_flops() // 2
