"""The Multi-scale Spatial-guided Context Encoder.

Named in "Location-Free Human Pose Estimation" (Xu et al., CVPR 2022), whose abstract says that it captures
the context of the whole person while it attends to the regions of its parts. The details here are our
reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lfpose_edge.train.networks.attention import AttentionLayer, place_embedding
from lfpose_edge.train.networks.decoder import CamHead

_LEAST_GUIDANCE = 1e-4


class Encoded(NamedTuple):
    """Output of the encoder.

    Attributes:
        context: (B, width, h, w) at the stride of the asking map.
        cams: CAM logits (B, K, h_l, w_l) of every scale, finest first.
    """

    context: Tensor
    cams: tuple[Tensor, ...]


class ContextEncoder(nn.Module):
    """The cells of one map attend to the cells of all maps, most to those where joints are likely to be.

    Every map is projected to ``width`` and read by its own CAM head. The spatial guidance of a cell is its
    largest joint probability, g = max_k sigmoid(CAM_k). The attention logits are raised by
    beta * log(g + 1e-4), where beta is learned and starts at 1. No gradient flows through g: guidance that is
    trained by its own attention may collapse to one peak.

    Args:
        channels: channels of the maps that are attended to, finest first.
        strides: strides of these maps.
        asking: stride of the map whose cells attend.
        joints: K.
        width: channels of a token.
        layers: number of attention layers.
        heads: heads of each layer.
        guided: use the spatial guidance; without it beta is 0.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        asking: int,
        joints: int,
        *,
        width: int,
        layers: int,
        heads: int,
        guided: bool = True,
    ) -> None:
        super().__init__()
        self.strides, self.width = tuple(strides), width
        self._asking = self.strides.index(asking)
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.cam_heads = nn.ModuleList(CamHead(width, joints) for _ in channels)
        self.levels = nn.Parameter(torch.zeros(len(channels), width))
        self.layers = nn.ModuleList(AttentionLayer(width, heads, 4 * width) for _ in range(layers))
        self.guidance = nn.Parameter(torch.ones(())) if guided else None  # beta

    def forward(self, maps: Sequence[Tensor]) -> Encoded:
        """Encode maps (B, C_l, h_l, w_l) of the strides, finest first."""
        projected = [project(x) for project, x in zip(self.project, maps, strict=True)]
        cams = tuple(head(x) for head, x in zip(self.cam_heads, projected, strict=True))
        places = [
            place_embedding((x.shape[2], x.shape[3]), stride, self.width, x.device) + level
            for x, stride, level in zip(projected, self.strides, self.levels, strict=True)
        ]
        tokens = [x.flatten(2).transpose(1, 2) for x in projected]  # (B, h_l * w_l, width)
        bias = None
        if self.guidance is not None:
            strongest = torch.cat([cam.detach().float().amax(dim=1).flatten(1) for cam in cams], dim=1)
            log_guidance = torch.log(strongest.sigmoid() + _LEAST_GUIDANCE)
            bias = self.guidance * log_guidance[:, None, None]  # (B, 1, 1, all tokens)
        for layer in self.layers:
            tokens[self._asking] = layer(
                tokens[self._asking],
                torch.cat(tokens, dim=1),
                bias,
                asking_places=places[self._asking],
                asked_places=torch.cat(places),
            )
        context = tokens[self._asking].transpose(1, 2).unflatten(2, maps[self._asking].shape[2:])
        return Encoded(context, cams)
