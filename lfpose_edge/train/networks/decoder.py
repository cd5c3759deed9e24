"""The light decoder: every step doubles a map's sides, joins a finer map of the backbone, and convolves.

There is no transposed convolution: those stay in float on INT8 CPU backends, while resize, depth-to-space and
depthwise convolutions quantise on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lfpose_edge.train.networks.efficientnet_lite import conv_bn, depthwise_bn
from lfpose_edge.train.networks.upsampling import upsampling
from lfpose_edge.train.recipe import Decoding

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

    A cell rarely holds a joint: the bias starts at a probability of 0.01, so that the first steps are not
    spent on the background.
    """

    def __init__(self, channels: int, joints: int) -> None:
        super().__init__(channels, joints, 1)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.constant_(self.bias, RARE)  # type: ignore[arg-type]

    def forward(self, features: Tensor, lift: float = 0.0) -> Tensor:
        """(B, C, h, w) to logits (B, K, h, w), all of them raised by ``lift``."""
        assert self.bias is not None
        return F.conv2d(features, self.weight, self.bias + lift if lift else self.bias)


class ErasingHead(nn.Module):
    """A second CAM head that sees a joint only where the first head's map of that joint is not high.

    The evidence that convinced the first head is erased for the second, which must find more of the joint:
    adversarial complementary learning (ACoL, Zhang et al., CVPR 2018), here joint by joint. Both heads are
    trained on the same labels.

    Args:
        channels: channels of the map.
        joints: K.
        threshold: part of the first map's range from which its cells are erased; 0.7 in the paper.
    """

    def __init__(self, channels: int, joints: int, threshold: float) -> None:
        super().__init__()
        self.cam_head = CamHead(channels, joints)
        self.threshold = threshold

    def forward(self, features: Tensor, first: Tensor, lift: float = 0.0) -> Tensor:
        """(B, C, h, w) and the first head's logits (B, K, h, w) to this one's, both raised by ``lift``."""
        low = first.amin(dim=(2, 3), keepdim=True)
        erased = first - low >= self.threshold * (first.amax(dim=(2, 3), keepdim=True) - low)
        logits: Tensor = self.cam_head(features, lift)
        of_zeros = self.cam_head(torch.zeros_like(features[:1, :, :1, :1]), lift)
        return torch.where(erased, of_zeros, logits)


class Refiner(nn.Module):
    """Reads coarse CAMs off a map and feeds them back into it.

    The evidence for a joint thus reaches every other joint within 4 cells, 64 pixels: the network can tell
    that the left knee is already found and this must be the right one (the idea of Convolutional Pose
    Machines, Wei et al., CVPR 2016, section 3.2).

    Args:
        channels: channels of the map.
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
    """Output of the decoder.

    Attributes:
        fine: (B, widths[-1], h, w), the finest map.
        top: (B, widths[0], h, w), the projected coarsest map.
        coarse_cams: CAM logits (B, K, H / 16, W / 16), where the decoder has a :class:`Refiner`.
    """

    fine: Tensor
    top: Tensor
    coarse_cams: tuple[Tensor, ...]


class Lateral(nn.Sequential):
    """Projects a finer map of the backbone, (B, c_in, h, w) to (B, c_out, h, w), and adds it."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(*conv_bn(c_in, c_out, 1))

    def join(self, x: Tensor, fine: Tensor) -> Tensor:
        """Join the decoder's map (B, c_out, h, w) and the backbone's (B, c_in, h, w)."""
        joined: Tensor = x + self(fine)
        return joined


class ConcatLateral(nn.Module):
    """As :class:`Lateral`, but the maps are concatenated and mixed instead of added."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.project = conv_bn(c_in, c_out, 1)
        self.mix = nn.Sequential(conv_bn(2 * c_out, c_out, 1), nn.ReLU6(inplace=True))

    def join(self, x: Tensor, fine: Tensor) -> Tensor:
        """As :meth:`Lateral.join`."""
        joined: Tensor = self.mix(torch.cat([x, self.project(fine)], dim=1))
        return joined


class NoLateral(nn.Module):
    """Ignores the backbone's map, leaving the decoder's as it is."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()

    def join(self, x: Tensor, fine: Tensor) -> Tensor:
        """As :meth:`Lateral.join`."""
        return x


LATERALS = {"add": Lateral, "concat": ConcatLateral}


class ResizeDecoder(nn.Module):
    """Decodes the coarsest map to the stride of the CAM, joining a finer map at every step.

    This is EFASNet's feature fusion (FF, arXiv 2003.10238): it combines the spatial detail of fine maps with
    the semantics of coarse ones.

    Args:
        channels: channels of the backbone's maps, finest first.
        widths: channels after the coarsest map and after every step, coarsest first.
        refined_joints: K of a :class:`Refiner` at stride 16; 0 for none.
        how: how the sides are doubled, and which maps are joined how.
        first: stride of the coarsest map.
    """

    def __init__(
        self,
        channels: Sequence[int],
        widths: Sequence[int],
        refined_joints: int = 0,
        how: Decoding = Decoding(),  # noqa: B008  (frozen)
        first: int = 32,
    ) -> None:
        super().__init__()
        self.top = nn.Sequential(conv_bn(channels[-1], widths[0], 1), nn.ReLU6(inplace=True))
        steps = list(zip(channels[-2::-1], widths, widths[1:], strict=False))
        strides = [first >> (step + 1) for step in range(len(steps))]
        self.laterals = nn.ModuleList(
            (LATERALS[how.fusion] if stride in how.laterals else NoLateral)(c, w)
            for stride, (c, w, _) in zip(strides, steps, strict=True)
        )
        self.upsamplings = nn.ModuleList(upsampling(how.upsample, w, w) for _, w, _ in steps)
        self.merges = nn.ModuleList(SeparableConv(a, b) for _, a, b in steps)
        self.refiner = Refiner(widths[1], refined_joints) if refined_joints else None

    def forward(self, maps: list[Tensor]) -> Decoded:
        """Decode maps, given finest first."""
        top: Tensor = self.top(maps[-1])
        x = top
        coarse_cams: tuple[Tensor, ...] = ()
        steps = zip(self.upsamplings, self.laterals, self.merges, reversed(maps[:-1]), strict=False)
        for upsample, lateral, merge, fine in steps:
            x = merge(lateral.join(upsample(x), fine))
            if self.refiner is not None and not coarse_cams:
                x, cams = self.refiner(x)
                coarse_cams = (cams,)
        return Decoded(x, top, coarse_cams)
