"""FASM, the feature aggregation and selection module of EFASNet: our reconstruction.

"EFASNet" (arXiv 2003.10238) says what the module does: it aggregates features of several scales,
hierarchically, within one block, and makes them discriminative by selection. How it does so is our choice:
the hierarchy is Res2Net's (Gao et al., TPAMI 2021), the selection SKNet's (Li et al., CVPR 2019). It is an
additional block after a stage of the backbone, so that published weights load unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lfpose_edge.train.networks.efficientnet_lite import conv_bn


class ScaleSelection(nn.Module):
    """Weighs the scales against each other, channel by channel, from the mean over the whole map.

    Args:
        scales: S, the number of scales.
        width: channels of each scale.
    """

    def __init__(self, scales: int, width: int) -> None:
        super().__init__()
        hidden = max(width // 4, 16)
        self.squeeze = nn.Sequential(nn.Conv2d(width, hidden, 1), nn.ReLU6(inplace=True))
        self.weigh = nn.Conv2d(hidden, scales * width, 1)
        self.scales = scales

    def forward(self, parts: list[Tensor]) -> list[Tensor]:
        """S maps (B, width, h, w) to as many; equal weights leave them unchanged."""
        whole = sum(parts[1:], parts[0]).mean(dim=(2, 3), keepdim=True)
        logits = self.weigh(self.squeeze(whole)).unflatten(1, (self.scales, -1))
        weights = self.scales * logits.softmax(dim=1)
        return [part * weights[:, scale] for scale, part in enumerate(parts)]


class FeatureAggregation(nn.Module):
    """FASM: channel groups with receptive fields of 1, 3, 5, 7 ... cells, each fed by the one before.

    It starts as the identity.

    Args:
        channels: channels of the map.
        scales: S, the number of groups.
        ratio: ratio of the map's channels to the block's.
        select: whether to weigh the scales; if not, they are joined as they are.
    """

    def __init__(self, channels: int, *, scales: int = 4, ratio: int = 1, select: bool = True) -> None:
        super().__init__()
        width = max(8, -(-channels // (scales * ratio)))
        self.starts = range(0, scales * width, width)
        self.reduce = nn.Sequential(conv_bn(channels, scales * width, 1), nn.ReLU6(inplace=True))
        self.gather = nn.ModuleList(
            nn.Sequential(conv_bn(width, width, 3), nn.ReLU6(inplace=True)) for _ in range(scales - 1)
        )
        self.selection = ScaleSelection(scales, width) if select else None
        self.expand = conv_bn(scales * width, channels, 1)
        nn.init.zeros_(self.expand[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        reduced = self.reduce(x)
        # Not chunk: the exporter turns it into a Split that cannot be converted to opset 17.
        groups = [reduced[:, start : start + self.starts.step] for start in self.starts]
        parts = [groups[0], self.gather[0](groups[1])]
        for gather, group in zip(self.gather[1:], groups[2:], strict=True):
            parts.append(gather(group + parts[-1]))
        if self.selection is not None:
            parts = self.selection(parts)
        gathered: Tensor = self.expand(torch.cat(parts, dim=1))
        return x + gathered
