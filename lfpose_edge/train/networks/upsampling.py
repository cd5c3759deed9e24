"""DUC, dense upsampling convolution: a convolution outputs the sub-cells of every cell as channels.

Wang et al., "Understanding convolution for semantic segmentation" (WACV 2018), in the form that EFASNet
(arXiv 2003.10238) names and AlphaPose uses: no resized map and no overlapping kernels. In an exported graph
it is one convolution and a DepthToSpace.
"""

from __future__ import annotations

import torch
from torch import nn

from lfpose_edge.train.networks.efficientnet_lite import batch_norm, depthwise_bn
from lfpose_edge.train.recipe import Upsample


class DenseUpsampling(nn.Sequential):
    """DUC from (B, c_in, h, w) to (B, c_out, 2 h, 2 w).

    The filters of a cell's four sub-cells start out equal (ICNR, Aitken et al. 2017), so that the first maps
    have no checkerboard pattern.

    Args:
        c_in, c_out: channels.
        separable: use a depthwise 3x3 and a pointwise convolution instead of a dense 3x3 one, at an eighth of
            the cost.
    """

    def __init__(self, c_in: int, c_out: int, *, separable: bool) -> None:
        before = [depthwise_bn(c_in, 3), nn.ReLU6(inplace=True)] if separable else []
        kernel = 1 if separable else 3
        convolution = nn.Conv2d(c_in, 4 * c_out, kernel, padding=kernel // 2, bias=False)
        super().__init__(
            *before, convolution, batch_norm(4 * c_out), nn.ReLU6(inplace=True), nn.PixelShuffle(2)
        )
        with torch.no_grad():
            convolution.weight.copy_(convolution.weight[::4].repeat_interleave(4, dim=0))


def upsampling(kind: Upsample, c_in: int, c_out: int) -> nn.Module:
    """The module that doubles a map's sides, by its name in a recipe; ``nearest`` keeps the channels."""
    if kind == "nearest":
        return nn.Upsample(scale_factor=2.0, mode="nearest")
    return DenseUpsampling(c_in, c_out, separable=kind == "duc_separable")
