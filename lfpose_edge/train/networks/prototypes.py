"""Relation-encoded Pose Prototype Generation.

Named in "Location-Free Human Pose Estimation" (Xu et al., CVPR 2022), whose abstract says that it encodes the
relations of the body so that similar joints can be told apart. The details here are our reconstruction.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lfpose_edge.skeleton import Skeleton
from lfpose_edge.train.networks.attention import AttentionLayer
from lfpose_edge.train.networks.decoder import RARE

_SURE = 0.7  # presence above which a person's prototype enters the memory
_RENEWAL = 0.01  # update rate of the memory per batch


class Prototypes(NamedTuple):
    """Prototypes and their sources, as the losses of a training need them.

    Attributes:
        context: (B, D, h, w), the map that prototypes were pooled from.
        pooled: (B, K, D), the pooled feature of each joint of each person.
        memory: (K, D), moving average of ``pooled`` over recent persons; zeros where there was none yet.
    """

    context: Tensor
    pooled: Tensor
    memory: Tensor


class PrototypeHead(nn.Module):
    """Computes a prototype of every joint from the person itself, and searches for it at a finer resolution.

    *Pooling*: the context is averaged where a coarse CAM is high, as in object-contextual representations
    (Yuan et al., ECCV 2020), and a learned embedding of the joint is added. *Memory*: optionally, the mean of
    the data set's prototypes is added too. *Relation*: the K prototypes attend to each other; between joints
    without a common bone the attention logit is lowered by gamma, which is learned and starts at 1.
    *Similarity*: a CAM logit is s * cos(prototype, feature of the cell) + b, with s and b learned.

    Args:
        context_width: D, channels of the map that is pooled.
        feature_width: C, channels of the map that is searched.
        skeleton: K joints and their bones.
        layers: layers of relation encoding; 0 leaves it out.
        heads: heads of each layer.
        memory: keep the data set's prototypes.
    """

    def __init__(
        self,
        context_width: int,
        feature_width: int,
        skeleton: Skeleton,
        *,
        layers: int,
        heads: int,
        memory: bool,
    ) -> None:
        super().__init__()
        joints = len(skeleton)
        self.embedding = nn.Parameter(torch.randn(joints, context_width) * 0.02)
        self.layers = nn.ModuleList(
            AttentionLayer(context_width, heads, 4 * context_width) for _ in range(layers)
        )
        self.distance = nn.Parameter(torch.ones(())) if layers else None  # gamma
        apart = torch.ones(joints, joints)
        a, b = torch.from_numpy(skeleton.edge_indices).unbind(1)
        apart[a, b] = apart[b, a] = 0
        self.register_buffer("apart", apart.fill_diagonal_(0), persistent=False)
        self.prototype_projection = nn.Linear(context_width, feature_width)
        self.feature_projection = nn.Conv2d(feature_width, feature_width, 1)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.full((joints, 1, 1), RARE))
        self.register_buffer("memory", torch.zeros(joints, context_width) if memory else None)

    def forward(
        self, context: Tensor, coarse: Tensor, presence: Tensor, features: Tensor, lift: float = 0.0
    ) -> tuple[Tensor, Prototypes]:
        """Find every joint by its prototype.

        Args:
            context: (B, D, h, w).
            coarse: (B, K, h, w) CAM logits.
            presence: (B, K) logits; joints that are likely present enter the memory in training.
            features: (B, C, H, W).
            lift: added to the logits.

        Returns:
            CAM logits (B, K, H, W), and the prototypes.
        """
        pooled = coarse.flatten(2).softmax(dim=2) @ context.flatten(2).transpose(1, 2)
        kept = pooled.new_zeros(pooled.shape[1:])
        if self.memory is not None:
            if self.training:
                self._remember(pooled.detach(), presence.detach())
            kept = self.memory.clone()
        tokens = pooled + self.embedding + kept
        bias = None if self.distance is None else -self.distance * self.apart
        for layer in self.layers:
            tokens = layer(tokens, tokens, bias)
        looked_for = _unit(self.prototype_projection(tokens), 2)
        there = _unit(self.feature_projection(features), 1)
        similarity = (looked_for @ there.flatten(2)).unflatten(2, features.shape[2:])
        return self.scale * similarity + (self.bias + lift), Prototypes(context, pooled, kept)

    @torch.no_grad()
    def _remember(self, pooled: Tensor, presence: Tensor) -> None:
        """Move the memory a hundredth towards the batch's mean prototypes; set it where it is empty."""
        memory: Tensor = self.memory  # type: ignore[assignment]
        sure = (presence.float().sigmoid() > _SURE).float()  # (B, K)
        count = sure.sum(dim=0)[:, None]
        mean = torch.einsum("bk,bkd->kd", sure, pooled.float()) / count.clamp_min(1)
        fresh = (memory == 0).all(dim=1, keepdim=True)
        memory.lerp_(mean, torch.where(fresh, 1.0, _RENEWAL) * (count > 0))


def _unit(x: Tensor, dim: int) -> Tensor:
    """Scale to length 1 along ``dim``."""
    return x / (x.square().sum(dim, keepdim=True) + 1e-6).sqrt()
