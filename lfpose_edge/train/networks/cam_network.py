"""The supervised pose network: backbone, light decoder, CAM logits and presence logits."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lfpose_edge.train.networks.decoder import ResizeDecoder
from lfpose_edge.train.networks.efficientnet_lite import LITE_VARIANTS, EfficientNetLite
from lfpose_edge.train.networks.resnet import RESNET_VARIANTS, ResNet

BACKBONES = {name: EfficientNetLite for name in LITE_VARIANTS} | {name: ResNet for name in RESNET_VARIANTS}


class PoseOutput(NamedTuple):
    """What every pose network returns.

    Attributes:
        cams: (B, K, h, w) class activation maps, logits.
        presence: (B, K) presence logits.
        coarse_cams: (B, K, H / 16, W / 16) logits that only training looks at, where the network has them.
    """

    cams: Tensor
    presence: Tensor
    coarse_cams: Tensor | None = None


class GaussianRow(nn.Module):
    """A fixed depthwise filter: a Gaussian along one axis of a map. No part of a checkpoint.

    Args:
        channels: of the map.
        sigma: standard deviation in cells.
        vertical: along the columns instead of the rows.
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
        """(B, C, h, w) to the same; beyond the border is 0."""
        padding = (self.shape[0] // 2, self.shape[1] // 2)
        weight: Tensor = self.weight  # type: ignore[assignment]
        bias: Tensor = self.bias  # type: ignore[assignment]
        return F.conv2d(x, weight, bias, padding=padding, groups=len(weight))


class Smoothing(nn.Module):
    """Correlates CAM logits with a Gaussian: a peak that its neighbours agree with beats a lone one.

    Beyond the border counts as background. The Gaussian should be that of the training's target: it is
    then the target's matched filter, and the peak that it lowers by one logit is raised again by one.

    Args:
        joints: K.
        sigma: standard deviation in cells.
    """

    BACKGROUND = -10.0  # logits; about what trained maps hold where no joint is

    def __init__(self, joints: int, sigma: float) -> None:
        super().__init__()
        self.across = GaussianRow(joints, sigma, vertical=False)
        self.down = GaussianRow(joints, sigma, vertical=True, bias=self.BACKGROUND + 1)

    def forward(self, features: Tensor, head: nn.Conv2d) -> Tensor:
        """Features (B, C, h, w) to smoothed CAM logits (B, K, h, w) of a 1x1 convolution."""
        assert head.bias is not None
        above_background = F.conv2d(features, head.weight, head.bias - self.BACKGROUND)
        smoothed: Tensor = self.down(self.across(above_background))
        return smoothed


class CamNetwork(nn.Module):
    """Backbone and :class:`ResizeDecoder` with a CAM head and a presence head.

    Args:
        backbone: a name in ``BACKBONES``.
        joints: K.
        widths: decoder channels from stride 32 downwards; four of them end at stride 4.
        refine: let the decoder refine coarse CAMs of stride 16.
        smooth_cells: standard deviation of the :class:`Smoothing` of CAMs outside of training; 0 for none.

    Attributes:
        cam_stride: crop pixels per CAM cell.
    """

    def __init__(
        self,
        backbone: str,
        joints: int,
        widths: tuple[int, ...] = (160, 128, 96, 64),
        *,
        refine: bool = False,
        smooth_cells: float = 0.0,
    ) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []
        self.backbone = BACKBONES[backbone](backbone)
        self.decoder = ResizeDecoder(self.backbone.channels, widths, joints if refine else 0)
        self.cam_head = nn.Conv2d(widths[-1], joints, 1)
        self.presence_head = nn.Linear(widths[0], joints)
        self.smoothing = Smoothing(joints, smooth_cells) if smooth_cells else None
        self.cam_stride = 32 // 2 ** (len(widths) - 1)
        # A cell holds a joint rarely: start there, so that the first steps are not spent on the background.
        heads = [self.cam_head] + ([self.decoder.refiner.cam_head] if self.decoder.refiner else [])
        for head in heads:
            nn.init.normal_(head.weight, std=0.01)
            nn.init.constant_(head.bias, math.log(0.01 / 0.99))

    def forward(self, crops: Tensor) -> PoseOutput:
        """(B, 3, H, W) normalised crops to CAMs (B, K, H / stride, W / stride) and presence (B, K)."""
        fine, top, coarse_cams = self.decoder(self.backbone(crops))
        presence = self.presence_head(F.adaptive_avg_pool2d(top, 1).flatten(1))
        if self.smoothing is not None and not self.training:
            cams = self.smoothing(fine, self.cam_head)
        else:
            cams = self.cam_head(fine)
        return PoseOutput(cams, presence, coarse_cams)

    def freeze(self, stages: int) -> None:
        """Keep the backbone's stem and its first ``stages`` stages as they are; 0 frees everything."""
        layers = self.backbone.early_layers()
        self._frozen = layers[: stages + 1] if stages else []
        for layer in self._frozen:
            layer.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> CamNetwork:
        """As in torch; frozen layers stay in inference mode, so that their BatchNorm statistics stay."""
        super().train(mode)
        for layer in self._frozen:
            layer.eval()
        return self

    def normalize(self, crops: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB to what the network takes: float32, channels last."""
        mean = torch.tensor(self.backbone.pixel_mean, device=crops.device).view(1, 3, 1, 1)
        std = torch.tensor(self.backbone.pixel_std, device=crops.device).view(1, 3, 1, 1)
        return ((crops - mean) / std).contiguous(memory_format=torch.channels_last)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that came pretrained and those that did not, for different learning rates."""
        backbone = list(self.backbone.parameters())
        ids = {id(p) for p in backbone}
        head = [p for p in self.parameters() if id(p) not in ids]
        return {"backbone": [p for p in backbone if p.requires_grad], "head": head}


def count_parameters(network: nn.Module) -> int:
    """The number of learned values."""
    return sum(p.numel() for p in network.parameters())


def count_macs(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-accumulates of one crop of ``size`` (height, width), counted by torch's FlopCounterMode."""
    from torch.utils.flop_counter import FlopCounterMode

    training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, *size))
    network.train(training)
    return counter.get_total_flops() // 2
