"""The adaptation losses: what makes a target domain's persons look to the network like the source's."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lfpose_edge.skeleton import Skeleton
from lfpose_edge.train.data.crops import Sample
from lfpose_edge.train.data.tagged_crops import TagSample
from lfpose_edge.train.networks.adaptation import (
    CrossAttention,
    DomainJudge,
    TopologyGraph,
    joint_features,
    relations,
    reverse_gradient,
)
from lfpose_edge.train.networks.cam_network import CamNetwork, PoseOutput
from lfpose_edge.train.recipe import Adaptation

_RENEWAL = 0.02  # of the source's mean relations, a batch
_STEEPNESS = 10.0  # with which the reversed gradient sets in (Ganin and Lempitsky)


class DomainBridge(nn.Module):
    """What two domains are compared with. Its loss trains the network, and the bridge itself.

    Batches come from one domain each, so the other is remembered: the mean relations of the source's joints,
    and the last features of both. The network is decoded as ever: what a person gathers from one of the other
    domain is seen by the judge alone, as there is no such partner when the network is used.

    Args:
        recipe: the weights.
        network: that is adapted; only its sizes are read here.
        skeleton: K joints.
    """

    def __init__(self, recipe: Adaptation, network: CamNetwork, skeleton: Skeleton) -> None:
        super().__init__()
        self.weights = recipe
        deep, fine = network.deep_channels, network.fine_channels
        self.graph = TopologyGraph(fine, skeleton, residual=recipe.residual) if recipe.topology else None
        self.attention = CrossAttention(deep) if recipe.features and recipe.attention else None
        self.judge = DomainJudge(deep) if recipe.features else None
        joints = len(skeleton)
        self.register_buffer("source_relations", torch.zeros(joints, joints))
        self._last: dict[str, Tensor] = {}  # features of each domain's last batch

    def forward(self, output: PoseOutput, sample: Sample | TagSample, progress: float) -> Tensor:
        """The loss of one batch: of the source where it is a ``Sample``, else of the target.

        Args:
            output: of the network in training; B persons, or 2 B where both views were looked at.
            sample: B persons.
            progress: of the training, 0 to 1.
        """
        assert output.features is not None
        source = sample if isinstance(sample, Sample) else None
        total = output.cams.new_zeros(())
        if self.graph is not None:
            total = total + self._topology(self.graph, output, source)
        if self.judge is not None:
            alignment = self._alignment(self.judge, output, source is not None, progress)
            total = total + self.weights.features * alignment
        return total

    def _topology(self, graph: TopologyGraph, output: PoseOutput, source: Sample | None) -> Tensor:
        """Joints are related as the source's are; the graph says where the source's are."""
        assert output.features is not None
        features = joint_features(output.cams.detach().float(), output.features.fine.float())
        kept: Tensor = self.source_relations  # type: ignore[assignment]
        if source is None:
            if not kept.any():  # no source yet
                return features.new_zeros(())
            # The graph is the source's: it must not learn to make any features look related.
            fixed = {name: values.detach() for name, values in graph.state_dict(keep_vars=True).items()}
            nodes, _ = torch.func.functional_call(graph, fixed, (features,))
            return self.weights.topology * (relations(nodes) - kept).square().sum()
        nodes, places = graph(features)
        fresh = not bool(kept.any())
        kept.lerp_(relations(nodes.detach()), 1.0 if fresh else _RENEWAL)
        extent = places.new_tensor(source.crop.shape[:1:-1])
        off = F.smooth_l1_loss(places, source.joints / extent, reduction="none").sum(dim=2)
        return self.weights.places * (off * source.labelled).sum() / source.labelled.sum().clamp_min(1)

    def _alignment(self, judge: DomainJudge, output: PoseOutput, is_source: bool, progress: float) -> Tensor:
        """Nobody can tell the domain by a person's cells; the judge learns to."""
        assert output.features is not None
        deep = output.features.deep.float()
        ours, theirs = ("source", "target") if is_source else ("target", "source")
        partner = self._last.get(theirs)
        self._last[ours] = deep.detach()
        if partner is None:
            return deep.new_zeros(())
        strength = 2 / (1 + math.exp(-_STEEPNESS * progress)) - 1
        seen = reverse_gradient(deep, strength)
        if self.attention is not None:
            # Both domains through the same side of it: by two sides it could tell the judge which one it is.
            rows = torch.arange(len(deep), device=deep.device) % len(partner)
            seen, _ = self.attention(seen, partner[rows])
        logits = judge(seen)
        truth = torch.full_like(logits, float(is_source))
        person = output.cams.detach().float().sigmoid().amax(dim=1, keepdim=True)
        weight = F.adaptive_max_pool2d(person, logits.shape[2:])
        cost = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return (cost * weight).sum() / weight.sum().clamp_min(1e-6)

    def get_extra_state(self) -> dict[str, Tensor]:
        """The last features of each domain: with them a resumed training does what an unbroken one does."""
        return self._last

    def set_extra_state(self, state: Any) -> None:
        """See :meth:`get_extra_state`."""
        self._last = dict(state)

    def _apply(self, fn: Any, recurse: bool = True) -> DomainBridge:
        super()._apply(fn, recurse)
        self._last = {name: fn(values) for name, values in self._last.items()}
        return self
