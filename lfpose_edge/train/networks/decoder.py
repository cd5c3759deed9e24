"""The light decoder: nearest-neighbour resize, lateral addition and depthwise-separable convolution.

No transposed convolution: those stay in float on INT8 CPU backends, while resize and depthwise
convolutions quantise on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lfpose_edge.train.networks.efficientnet_lite import conv_bn, depthwise_bn

RARE = math.log(0.01 / 0.99)


class SeparableConv(nn.Sequential):
    """Depthwise 5x5 and pointwise 1x1 convolution, each with BatchNorm and ReLU6."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            depthwise_bn(c_in, 5),
            nn.ReLU6(inplace=True),
            conv_bn(c_in, c_out, 1),
            nn.ReLU6(inplace=True),
        )


class CamHead(nn.Conv2d):
    """Reads CAM logits off a map, cell by cell.

    A cell holds a joint rarely: the head starts there, so that the first steps are not spent on the
    background.
    """

    def __init__(self, channels: int, joints: int) -> None:
        super().__init__(channels, joints, 1)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.constant_(self.bias, RARE)  # type: ignore[arg-type]

    def forward(self, features: Tensor, lift: float = 0.0) -> Tensor:
        """(B, C, h, w) to logits (B, K, h, w), all of them raised by ``lift``."""
        assert self.bias is not None
        return F.conv2d(features, self.weight, self.bias + lift if lift else self.bias)


class Refiner(nn.Module):
    """Reads coarse CAMs off a map and lets the map see them.

    Every joint's evidence then reaches every other joint's within 4 cells, 64 pixels: so a network can tell
    that the left knee is taken and this must be the right one (the idea of Convolutional Pose Machines, Wei
    et al., CVPR 2016, section 3.2).

    Args:
        channels: of the map.
        joints: K.
    """

    def __init__(self, channels: int, joints: int) -> None:
        super().__init__()
        self.cam_head = CamHead(channels, joints)
        self.exchange = nn.Sequential(
            SeparableConv(channels + joints, channels), SeparableConv(channels, channels)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) to the refined map, of the same shape, and CAM logits (B, K, h, w)."""
        cams = self.cam_head(x)
        return x + self.exchange(torch.cat([x, cams], dim=1)), cams


class Decoded(NamedTuple):
    """What the decoder returns.

    Attributes:
        fine: (B, widths[-1], h, w), the finest map.
        top: (B, widths[0], h, w), the projected coarsest map.
        coarse_cams: CAM logits (B, K, H / 16, W / 16), where the decoder has a :class:`Refiner`.
    """

    fine: Tensor
    top: Tensor
    coarse_cams: tuple[Tensor, ...]


class ResizeDecoder(nn.Module):
    """From the coarsest map down to the stride of the CAM, adding a lateral map at every step.

    Args:
        channels: channels of the backbone's maps, finest first.
        widths: channels after the coarsest map and after every step, coarsest first.
        refined_joints: K of a :class:`Refiner` at stride 16; 0 for none.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int], refined_joints: int = 0) -> None:
        super().__init__()
        self.top = nn.Sequential(conv_bn(channels[-1], widths[0], 1), nn.ReLU6(inplace=True))
        laterals = list(channels[-2::-1])[: len(widths) - 1]
        self.laterals = nn.ModuleList(conv_bn(c, w, 1) for c, w in zip(laterals, widths, strict=False))
        self.merges = nn.ModuleList(SeparableConv(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.refiner = Refiner(widths[1], refined_joints) if refined_joints else None

    def forward(self, maps: list[Tensor]) -> Decoded:
        """Maps finest first to decoded maps."""
        top: Tensor = self.top(maps[-1])
        x = top
        coarse_cams: tuple[Tensor, ...] = ()
        for lateral, merge, fine in zip(self.laterals, self.merges, reversed(maps[:-1]), strict=False):
            x = merge(F.interpolate(x, scale_factor=2.0, mode="nearest") + lateral(fine))
            if self.refiner is not None and not coarse_cams:
                x, cams = self.refiner(x)
                coarse_cams = (cams,)
        return Decoded(x, top, coarse_cams)
