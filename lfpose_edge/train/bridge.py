"""The adaptation losses, which make the network's features of the target domain resemble the source's."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lfpose_edge.errors import TrainingDiverged
from lfpose_edge.skeleton import Skeleton
from lfpose_edge.train.data.crops import Sample
from lfpose_edge.train.data.tagged_crops import TagSample
from lfpose_edge.train.losses import gaussian_maps, to_distribution
from lfpose_edge.train.networks.adaptation import (
    CrossAttention,
    DomainJudge,
    StructureMemory,
    TopologyGraph,
    TopologyJudge,
    joint_features,
    relations,
    reverse_gradient,
)
from lfpose_edge.train.networks.cam_network import CamNetwork, PoseOutput
from lfpose_edge.train.recipe import Adaptation
from lfpose_edge.train.view_losses import mass_around_peak

_RENEWAL = 0.02  # update rate per batch of the source's mean relations
_SIGMA_CELLS = 1.5  # of the Gaussian in which a located joint's features are averaged; of a CAM's peak
SURE_AT_FIRST, SURE_AT_LAST = 0.3, 0.5  # least part of a CAM's mass around its peak for a joint to be used
_WATCHED = 50  # batches of the source in the running mean of their location loss
_ASTRAY = 1.0  # nats above the best running mean
_STEEPNESS = 10.0  # of the ramp of the reversed gradient (Ganin and Lempitsky)


class DomainBridge(nn.Module):
    """Modules that compare two domains; their loss trains both the network and the bridge itself.

    Each batch comes from one domain, so the other is remembered: the mean relations of the source's joints,
    and the last features of both domains. The network's own path to its CAMs is unchanged: only the domain
    classifier ("judge") sees what a person gathers from one of the other domain, as there is no such partner
    at inference. The attention is therefore part of the judge and learns with it to tell the domains apart;
    the gradient is reversed in front of both. Otherwise the attention could make the domains look alike by
    itself, and the network would have nothing to learn.

    Args:
        recipe: the weights.
        network: the network to adapt; its channel counts are read, and its BatchNorm momenta are set.
        skeleton: K joints.
    """

    def __init__(self, recipe: Adaptation, network: CamNetwork, skeleton: Skeleton) -> None:
        super().__init__()
        self.weights = recipe
        self._momenta = [(m, m.momentum) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        deep, fine = network.deep_channels, network.fine_channels
        related = recipe.topology or recipe.nodes or recipe.graphs
        self.graph = TopologyGraph(fine, skeleton, residual=recipe.residual) if related else None
        self.node_judge = TopologyJudge(whole=False) if recipe.nodes else None
        self.graph_judge = TopologyJudge(whole=True) if recipe.graphs else None
        self.attention = CrossAttention(deep) if recipe.features and recipe.attention else None
        self.judge = DomainJudge(deep) if recipe.features else None
        self.memory = StructureMemory(len(skeleton), fine) if recipe.structure else None
        joints = len(skeleton)
        self.register_buffer("source_relations", torch.zeros(joints, joints))
        # Source batches seen, the best and the current mean of their loss, and the crops' height and width.
        self.register_buffer("watched", torch.zeros(5))
        self.watched: Tensor
        self._last: dict[str, Tensor] = {}  # features of each domain's last batch

    def prepare(self, sample: Sample | TagSample) -> None:
        """Decide, before the network sees a batch, whether BatchNorm updates its running statistics.

        Either way the batch itself is normalised by its own statistics.
        """
        kept = self.in_its_statistics(sample)
        for norm, momentum in self._momenta:
            norm.momentum = momentum if kept else 0.0

    def in_its_statistics(self, sample: Sample | TagSample) -> bool:
        """Whether BatchNorm's running statistics cover these persons; if not, no teacher should see them."""
        return self.weights.statistics == "both" or bool(sample.of_target.any())

    def forward(self, output: PoseOutput, sample: Sample | TagSample, progress: float) -> Tensor:
        """The loss of one batch, all of it of one domain.

        Args:
            output: output of the network in training, of B persons, or 2 B where it was given both views.
            sample: B persons.
            progress: fraction of the training that is done, 0 to 1.
        """
        of_target = bool(sample.of_target.any())
        weights, total = self.weights, output.cams.new_zeros(())
        if self.graph is not None and of_target:
            total = total + weights.topology * self._topology(self.graph, output)
        elif self.graph is not None and isinstance(sample, Sample):
            total = total + weights.places * self._places(self.graph, output, sample)
        for judge, weight in ((self.node_judge, weights.nodes), (self.graph_judge, weights.graphs)):
            if judge is not None:
                total = total + weight * self._told_apart(judge, output, not of_target, progress)
        if self.judge is not None:
            total = total + weights.features * self._alignment(self.judge, output, not of_target, progress)
        if self.memory is not None and of_target:
            total = total + weights.structure * self._structure(self.memory, output, sample, progress)
        return total

    def _places(self, graph: TopologyGraph, output: PoseOutput, sample: Sample) -> Tensor:
        """Loss of the graph's locations of the source's joints; updates the mean of their relations."""
        nodes, places = graph(_seen_joints(output))
        kept: Tensor = self.source_relations  # type: ignore[assignment]
        kept.lerp_(relations(nodes.detach()), _RENEWAL if kept.any() else 1.0)
        extent = places.new_tensor(sample.crop.shape[:1:-1])
        off = F.smooth_l1_loss(places, sample.joints / extent, reduction="none").sum(dim=2)
        return (off * sample.labelled).sum() / sample.labelled.sum().clamp_min(1)

    def _topology(self, graph: TopologyGraph, output: PoseOutput) -> Tensor:
        """Squared difference between the relations of the target's joints and those of the source's."""
        kept: Tensor = self.source_relations  # type: ignore[assignment]
        if not kept.any():  # no source yet
            return output.cams.new_zeros(())
        return (relations(_nodes(graph, output)) - kept).square().sum()

    def _told_apart(
        self, judge: TopologyJudge, output: PoseOutput, is_source: bool, progress: float
    ) -> Tensor:
        """Adversarial loss on the graph's nodes: the judge learns the domain, the network to hide it."""
        assert self.graph is not None
        logits = judge(reverse_gradient(_nodes(self.graph, output), _strength(progress)))
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(is_source)))

    def _structure(
        self, memory: StructureMemory, output: PoseOutput, sample: Sample | TagSample, progress: float
    ) -> Tensor:
        """Draw joints to the features and relations of the target's located persons.

        A batch of located persons only updates the memory.
        """
        assert output.features is not None
        fine = output.features.fine.float()
        if isinstance(sample, Sample):
            stride = sample.crop.shape[3] / fine.shape[3]
            places = gaussian_maps(sample.joints, (fine.shape[2], fine.shape[3]), stride, _SIGMA_CELLS)
            features = to_distribution(places).flatten(2) @ fine.flatten(2).transpose(1, 2)
            memory.remember(features.detach(), sample.labelled)
            return fine.new_zeros(())
        mass = output.cams.detach().float().flatten(2).softmax(dim=2)
        around = mass_around_peak(mass, output.cams.shape[2:], _SIGMA_CELLS).sum(dim=2)
        least = SURE_AT_FIRST + progress * (SURE_AT_LAST - SURE_AT_FIRST)
        loss: Tensor = memory(_seen_joints(output), around > least)
        return loss

    def _alignment(self, judge: DomainJudge, output: PoseOutput, is_source: bool, progress: float) -> Tensor:
        """Adversarial loss on a person's cells: the judge learns the domain, the network to hide it."""
        assert output.features is not None
        deep = output.features.deep.float()
        ours, theirs = ("source", "target") if is_source else ("target", "source")
        partner = self._last.get(theirs)
        self._last[ours] = deep.detach()
        if partner is None:
            return deep.new_zeros(())
        seen = reverse_gradient(deep, _strength(progress))
        if self.attention is not None:
            rows = torch.arange(len(deep), device=deep.device) % len(partner)
            seen = self.attention(seen, partner[rows])
        logits = judge(seen)
        truth = torch.full_like(logits, float(is_source))
        person = output.cams.detach().float().sigmoid().amax(dim=1, keepdim=True)
        weight = F.adaptive_max_pool2d(person, logits.shape[2:])
        cost = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return (cost * weight).sum() / weight.sum().clamp_min(1e-6)

    def watch(self, sample: Sample | TagSample, location: float) -> None:
        """Detect that the network unlearns the source, as when the adversarial losses dominate.

        Args:
            sample: a batch.
            location: its location loss, in nats per joint.

        Raises:
            TrainingDiverged: the source's mean loss is a nat above its best for crops of this size.
        """
        if not isinstance(sample, Sample) or sample.of_target.any():
            return
        count, best, last, *size = self.watched.tolist()
        if size != list(sample.crop.shape[2:]):  # a stage of another size has another loss level
            count, best, last, size = 0, 0.0, 0.0, list(sample.crop.shape[2:])
        if count < _WATCHED:
            last += (location - last) / (count + 1)
            best = last
        else:
            last += (location - last) / _WATCHED
            best = min(best, last)
        self.watched.copy_(torch.tensor([count + 1, best, last, *size]))
        if last > best + _ASTRAY:
            losses = f"the source's location loss is {last:.2f} nats, and was {best:.2f}"
            what = f"the adaptation runs astray, as {losses}"
            to_do = "lower the weights of adapt, loss.teacher's or the learning rates"
            raise TrainingDiverged(what, f"{to_do}, and start anew with another --out")

    def get_extra_state(self) -> dict[str, Tensor]:
        """The last features of each domain, so that a resumed training equals an uninterrupted one."""
        return self._last

    def set_extra_state(self, state: Any) -> None:
        """See :meth:`get_extra_state`."""
        self._last = {name: values.to(self.watched.device) for name, values in state.items()}

    def _apply(self, fn: Any, recurse: bool = True) -> DomainBridge:
        super()._apply(fn, recurse)
        self._last = {name: fn(values) for name, values in self._last.items()}
        return self


def _strength(progress: float) -> float:
    """Strength of the reversed gradient, from 0 to 1."""
    return 2 / (1 + math.exp(-_STEEPNESS * progress)) - 1


def _nodes(graph: TopologyGraph, output: PoseOutput) -> Tensor:
    """The joints' nodes, (B, K, 128), with the graph's parameters fixed.

    Only the source trains the graph: it must not learn to make arbitrary features look related, or alike.
    """
    fixed = {name: values.detach() for name, values in graph.state_dict(keep_vars=True).items()}
    nodes, _ = torch.func.functional_call(graph, fixed, (_seen_joints(output),))
    return nodes


def _seen_joints(output: PoseOutput) -> Tensor:
    """The joints' features where the network finds them, (B, K, C)."""
    assert output.features is not None
    return joint_features(output.cams.detach().float(), output.features.fine.float())
