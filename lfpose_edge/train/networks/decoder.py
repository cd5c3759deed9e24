"""The light decoder: nearest-neighbour resize, lateral addition and depthwise-separable convolution.

No transposed convolution: those stay in float on INT8 CPU backends, while resize and depthwise
convolutions quantise on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from lfpose_edge.train.networks.efficientnet_lite import conv_bn, depthwise_bn


class SeparableConv(nn.Sequential):
    """Depthwise 5x5 and pointwise 1x1 convolution, each with BatchNorm and ReLU6."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            depthwise_bn(c_in, 5),
            nn.ReLU6(inplace=True),
            conv_bn(c_in, c_out, 1),
            nn.ReLU6(inplace=True),
        )


class ResizeDecoder(nn.Module):
    """From the coarsest map down to the stride of the CAM, adding a lateral map at every step.

    Args:
        channels: channels of the backbone's maps, finest first.
        widths: channels after the coarsest map and after every step, coarsest first.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.top = nn.Sequential(conv_bn(channels[-1], widths[0], 1), nn.ReLU6(inplace=True))
        laterals = list(channels[-2::-1])[: len(widths) - 1]
        self.laterals = nn.ModuleList(conv_bn(c, w, 1) for c, w in zip(laterals, widths, strict=False))
        self.merges = nn.ModuleList(SeparableConv(a, b) for a, b in zip(widths, widths[1:], strict=False))

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps finest first to (finest decoded map, projected coarsest map)."""
        top: Tensor = self.top(maps[-1])
        x = top
        for lateral, merge, fine in zip(self.laterals, self.merges, reversed(maps[:-1]), strict=False):
            x = merge(F.interpolate(x, scale_factor=2.0, mode="nearest") + lateral(fine))
        return x, top
