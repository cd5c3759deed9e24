"""Modules that adapt a network to another domain; no exported network contains them.

After "Alleviating Human-level Shift" (Xu et al., ACM MM 2020), which names the modules: cross-attentive
feature alignment (CAFA, with the bidirectional spatial attention module, BSAM), intra-domain structure
adaptation (ISA, for a target of which a few persons are located) and inter-domain human-topology alignment
(IHTA, a graph convolution over the skeleton). Their details here are our reconstruction.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lfpose_edge.skeleton import Skeleton

_NODE_WIDTH = 128
_MEMORY_RENEWAL = 0.1  # update rate per batch of the memory of located persons
_TEMPERATURE = 0.1


class _Reversal(torch.autograd.Function):
    """The identity in the forward pass; negates and scales the gradient in the backward pass."""

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
    """BSAM: every cell of one person's map attends to similar cells of another person's map.

    The result is added with a learned weight that starts at 0. The paper's module is bidirectional: a person
    of the source attends to one of the target and vice versa. Here the two take turns, batch by batch, and
    share their weights: two sets of weights could tell the domain classifier which domain attends.

    Args:
        channels: C of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(8, channels // 4)
        self.ask, self.answer = nn.Conv2d(channels, narrow, 1), nn.Conv2d(channels, narrow, 1)
        self.carry = nn.Conv2d(channels, channels, 1)
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Maps (B, C, h, w) and their B partners' maps (B, C, H, W) to (B, C, h, w)."""
        asked, answered = self.ask(ours).flatten(2), self.answer(theirs).flatten(2)
        affinity = asked.transpose(1, 2) @ answered / asked.shape[1] ** 0.5  # (B, h w, H W)
        gathered = self.carry(theirs).flatten(2) @ affinity.softmax(dim=2).transpose(1, 2)
        return ours + self.weight * gathered.view_as(ours)


class DomainJudge(nn.Sequential):
    """Domain classifier of every cell of a map: (B, C, h, w) to logits (B, 1, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(channels // 2, 1, 1),
        )


class TopologyGraph(nn.Module):
    """IHTA's graph convolution: joints pass their features to their neighbours along the bones.

    Three layers X <- X + ReLU(LN(A X W)), the first without the X +. A is the skeleton's normalised adjacency
    plus a learned residual that starts at 0. A linear head locates the joints in the crop, which ties the
    nodes to bodies.

    Args:
        channels: C of a joint's feature.
        skeleton: K joints and their bones.
        residual: whether to learn links in addition to the bones.
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


class TopologyJudge(nn.Module):
    """IHTA's discriminators: the domain of a joint's node, or of the mean of a person's nodes.

    Args:
        whole: classify the mean.
    """

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.tell = nn.Sequential(
            nn.Linear(_NODE_WIDTH, _NODE_WIDTH), nn.LeakyReLU(0.2), nn.Linear(_NODE_WIDTH, 1)
        )

    def forward(self, nodes: Tensor) -> Tensor:
        """Nodes (B, K, 128) to logits, (B, K) or (B, 1)."""
        seen = nodes.mean(dim=1, keepdim=True) if self.whole else nodes
        logits: Tensor = self.tell(seen)
        return logits.squeeze(2)


def joint_features(cams: Tensor, features: Tensor, temperature: float = 1.0) -> Tensor:
    """Features averaged over each joint's CAM: (B, K, h, w) logits and (B, C, h, w) to (B, K, C)."""
    where = (cams.flatten(2) / temperature).softmax(dim=2)
    return where @ features.flatten(2).transpose(1, 2)


def relations(nodes: Tensor, counted: Tensor | None = None) -> Tensor:
    """Similarity of the joints' nodes: (B, K, C) to the mean over B of their cosines, (K, K).

    With ``counted`` (B, K), the mean is over the persons with both joints counted; 0 if there is none.
    """
    unit = nn.functional.normalize(nodes, dim=2)
    alike = unit @ unit.transpose(1, 2)
    if counted is None:
        return alike.mean(dim=0)
    both = counted[:, :, None] & counted[:, None]
    return (alike * both).sum(dim=0) / both.sum(dim=0).clamp_min(1)


class StructureMemory(nn.Module):
    """ISA: the features of the target's joints and their relations, remembered from its few located persons.

    The memory is a moving average over batches, not a parameter; the other persons' joints are drawn to it.

    Args:
        joints: K.
        channels: C of a joint's feature.
    """

    def __init__(self, joints: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(joints, channels))
        self.register_buffer("alike", torch.zeros(joints, joints))
        self.register_buffer("seen", torch.zeros(joints, dtype=torch.bool))
        self.register_buffer("seen_together", torch.zeros(joints, joints, dtype=torch.bool))
        self.centres: Tensor
        self.alike: Tensor
        self.seen: Tensor
        self.seen_together: Tensor

    @torch.no_grad()
    def remember(self, features: Tensor, located: Tensor) -> None:
        """Update the memory with joints' features (B, K, C), where they are ``located`` (B, K)."""
        count = located.sum(dim=0)
        fresh = (features * located[..., None]).sum(dim=0) / count.clamp_min(1)[:, None]
        together = (located[:, :, None] & located[:, None]).any(dim=0)
        for kept, new, seen, there in (
            (self.centres.T, fresh.T, self.seen, count > 0),
            (self.alike, relations(features, located), self.seen_together, together),
        ):
            kept.lerp_(new, torch.where(seen, _MEMORY_RENEWAL, 1.0) * there)
            seen |= there

    def forward(self, features: Tensor, sure: Tensor) -> Tensor:
        """Distance of joints' features (B, K, C) from the memory, where they are ``sure`` (B, K).

        The sum of the mean cosine distance to the joint's centre, half the cross-entropy of identifying that
        centre among those of all joints, and half the squared difference of the relations.
        """
        counted = sure & self.seen
        unit = nn.functional.normalize(features, dim=2)
        near = unit @ nn.functional.normalize(self.centres, dim=1).T  # (B, K, K)
        own = near.diagonal(dim1=1, dim2=2)
        told = (near / _TEMPERATURE).masked_fill(~self.seen, -torch.inf).log_softmax(dim=2)
        told = told.diagonal(dim1=1, dim2=2)
        count = counted.sum().clamp_min(1)
        apart = torch.where(counted, 1 - own - 0.5 * told, 0.0).sum() / count
        both = (counted[:, :, None] & counted[:, None]).any(dim=0) & self.seen_together
        related = ((relations(features, counted) - self.alike).square() * both).sum()
        return apart + 0.5 * related
