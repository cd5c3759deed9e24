"""What stands between two domains while a network is adapted, and is in no exported network.

After "Alleviating Human-level Shift" (Xu et al., ACM MM 2020), which names the modules: cross-attentive
feature alignment (CAFA, with the bidirectional spatial attention module, BSAM) and inter-domain human-
topology alignment (IHTA, a graph convolution over the skeleton). What is in them here is our reconstruction.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lfpose_edge.skeleton import Skeleton

_NODE_WIDTH = 128


class _Reversal(torch.autograd.Function):
    """Nothing on the way there; on the way back the gradient with its sign turned."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return -ctx.strength * grad, None


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """The gradient reversal layer (Ganin and Lempitsky, ICML 2015)."""
    return _Reversal.apply(x, strength)  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """BSAM: every cell of one person's map gathers what is like it in another person's.

    The affinity of two maps is looked at from both sides, so that each gathers from the other; what is
    gathered is added with a learned weight that starts at 0.

    Args:
        channels: C of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(8, channels // 4)
        self.ask, self.answer = nn.Conv2d(channels, narrow, 1), nn.Conv2d(channels, narrow, 1)
        self.carry = nn.Conv2d(channels, channels, 1)
        self.weights = nn.Parameter(torch.zeros(2))

    def forward(self, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, h, w) and (B, C, H, W) of B pairs to the same, each with what it gathers."""
        asked, answered = self.ask(ours).flatten(2), self.answer(theirs).flatten(2)
        affinity = asked.transpose(1, 2) @ answered / asked.shape[1] ** 0.5  # (B, h w, H W)
        from_them = self.carry(theirs).flatten(2) @ affinity.softmax(dim=2).transpose(1, 2)
        from_us = self.carry(ours).flatten(2) @ affinity.softmax(dim=1)
        return (
            ours + self.weights[0] * from_them.view_as(ours),
            theirs + self.weights[1] * from_us.view_as(theirs),
        )


class DomainJudge(nn.Sequential):
    """Tells, cell by cell, which domain a map is of: (B, C, h, w) to logits (B, 1, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(channels // 2, 1, 1),
        )


class TopologyGraph(nn.Module):
    """IHTA's graph convolution: joints tell their neighbours along the bones what they look like.

    Three layers X <- X + ReLU(LN(A X W)), A the skeleton's normalised adjacency and a learned residual that
    starts at 0. A linear head places the joints in the crop, which keeps the nodes about bodies.

    Args:
        channels: C of a joint's feature.
        skeleton: K joints and their bones.
        residual: whether the graph may grow bones.
    """

    def __init__(self, channels: int, skeleton: Skeleton, *, residual: bool = True) -> None:
        super().__init__()
        joints = len(skeleton)
        links = torch.eye(joints)
        a, b = torch.from_numpy(skeleton.edge_indices).unbind(1)
        links[a, b] = links[b, a] = 1
        scale = links.sum(dim=1).rsqrt()
        self.register_buffer("bones", scale[:, None] * links * scale, persistent=False)
        self.residual = nn.Parameter(torch.zeros(joints, joints)) if residual else None
        widths = (channels, _NODE_WIDTH, _NODE_WIDTH, _NODE_WIDTH)
        self.layers = nn.ModuleList(
            nn.Linear(c_in, c_out, bias=False) for c_in, c_out in zip(widths, widths[1:], strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(_NODE_WIDTH) for _ in self.layers)
        self.place = nn.Linear(_NODE_WIDTH, 2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Joints' features (B, K, C) to nodes (B, K, 128), and places (B, K, 2) in the crop, 0 to 1."""
        graph: Tensor = self.bones  # type: ignore[assignment]
        if self.residual is not None:
            graph = graph + self.residual
        nodes = features
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            told = torch.relu(norm(graph @ layer(nodes)))
            nodes = told if number == 0 else nodes + told
        return nodes, self.place(nodes)


def joint_features(cams: Tensor, features: Tensor, temperature: float = 1.0) -> Tensor:
    """What the map looks like where each joint is: (B, K, h, w) logits and (B, C, h, w) to (B, K, C)."""
    where = (cams.flatten(2) / temperature).softmax(dim=2)
    return where @ features.flatten(2).transpose(1, 2)


def relations(nodes: Tensor) -> Tensor:
    """How alike the joints' nodes are: (B, K, C) to the mean over B of their cosines, (K, K)."""
    unit = nn.functional.normalize(nodes, dim=2)
    return (unit @ unit.transpose(1, 2)).mean(dim=0)
