"""The training objective: what a step minimises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lfpose_edge.train.bridge import DomainBridge
from lfpose_edge.train.data.crops import Sample
from lfpose_edge.train.data.tagged_crops import TagSample
from lfpose_edge.train.losses import LossTerms, supervised_loss
from lfpose_edge.train.map_losses import agreement_loss, concentration_loss, contrast_loss, separation_loss
from lfpose_edge.train.networks import CamNetwork, PoseOutput
from lfpose_edge.train.recipe import Recipe
from lfpose_edge.train.tag_losses import tag_loss
from lfpose_edge.train.view_losses import equivariance_loss, seen_mirrored_too, surest_turn, teacher_loss

LABEL_LOSSES: dict[type, Callable[..., LossTerms]] = {Sample: supervised_loss, TagSample: tag_loss}


class Objective:
    """The loss of a batch's labels (locations or tags) plus the terms that need no label.

    A term that needs no label is not computed if its weight is 0.

    Args:
        recipe: provides the weights.
        network: the network in training; only its constants are read here.
        mirror: (K,) the index of every joint's mirror joint.
        bridge: the domain bridge of an adaptation.
    """

    def __init__(
        self, recipe: Recipe, network: CamNetwork, mirror: Tensor, bridge: DomainBridge | None = None
    ) -> None:
        self.weights, self.mirror, self.stride, self.bridge = recipe.loss, mirror, network.cam_stride, bridge
        self.normalize = network.normalize

    def __call__(
        self, model: nn.Module, teacher: CamNetwork, sample: Sample | TagSample, progress: float
    ) -> LossTerms:
        """The loss of one batch.

        Args:
            model: the network as Fabric wraps it.
            teacher: the averaged network.
            sample: B persons.
            progress: fraction of the training that is done, 0 to 1.
        """
        weights = self.weights
        crops = sample.crop
        both = isinstance(sample, TagSample) and weights.equivariance > 0
        if isinstance(sample, TagSample) and both:
            crops = torch.cat([crops, sample.easy])  # one pass: BatchNorm sees both views together
        if self.bridge is not None:
            self.bridge.prepare(sample)
        output: PoseOutput = model(self.normalize(crops))
        first = _rows(output, slice(len(sample.crop))) if both else output
        terms = LABEL_LOSSES[type(sample)](first, sample, self.mirror, self.stride, weights)
        total = terms.total
        if weights.agreement:
            total = total + weights.agreement * agreement_loss(output, progress)
        if weights.concentration:
            total = total + weights.concentration * concentration_loss(output)
        if weights.separation:
            total = total + weights.separation * separation_loss(output)
        if weights.contrast:
            total = total + weights.contrast * contrast_loss(output)
        if self.bridge is not None:
            self.bridge.watch(sample, terms.location.item())
            total = total + self.bridge(output, sample, progress)
        if isinstance(sample, TagSample):
            if both:
                easy = _rows(output, slice(len(sample.crop), None))
                total = total + weights.equivariance * equivariance_loss(first, easy, sample, self.mirror)
            if weights.teacher and (self.bridge is None or self.bridge.in_its_statistics(sample)):
                taught = self._taught(teacher, self.normalize(sample.easy))
                total = total + weights.teacher * teacher_loss(
                    first, taught, sample, self.mirror, self.stride, weights
                )
        return terms._replace(total=total)

    @torch.no_grad()
    def _taught(self, teacher: CamNetwork, crops: Tensor) -> PoseOutput:
        look: Callable[[Tensor], PoseOutput] = teacher
        if self.weights.teacher_mirrors:
            look = partial(seen_mirrored_too, teacher, mirror=self.mirror)
        if self.weights.teacher_turns:
            look = partial(surest_turn, look, sigma_cells=self.weights.sigma_cells)
        return look(crops)


def _rows(output: PoseOutput, rows: slice) -> PoseOutput:
    """Some rows of a batch, with the fields that label and view losses read."""
    coarse = tuple(cams[rows] for cams in output.coarse_cams)
    return PoseOutput(output.cams[rows], output.presence[rows], coarse)
