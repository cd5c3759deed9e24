"""How a recipe trains: augmentation, stages, losses, adaptation and optimiser."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lfpose_edge.train.recipe.base import Fraction, Positive, Section


class Augment(Section):
    """Random changes of a crop."""

    rotation_deg: float = Field(30.0, ge=0)
    """Standard deviation of the rotation, which is clipped at three times that or a half turn."""
    turn: Fraction = 0.0
    """Chance that the crop is rotated by a uniformly random angle instead."""
    scale: float = Field(0.25, ge=0, lt=1)
    """The crop is scaled by a factor in [1 - scale, 1 + scale]."""
    shift: Fraction = 0.06
    """Largest shift, as a part of the crop."""
    zoom: Fraction = 0.0
    """Chance that the crop shows only a part of the box, like a picture that cuts the person off."""
    flip: Fraction = 0.5
    """Chance that the crop is mirrored."""
    coarse: Fraction = 0.0
    """Chance that the crop loses resolution, down to a quarter of its pixels a side, like people far away."""
    color: Fraction = 0.25
    """Largest relative change of brightness and of contrast; of each channel's gain, half of it."""
    cutout: Fraction = 0.3
    """Chance that a rectangle of up to a third of the crop is filled with noise."""
    hide: Fraction = 0.0
    """Chance that each of the crop's 4x4 parts is covered with the mean colour."""
    intruder: Fraction = 0.0
    """Chance that a part of another person's crop covers one side, as in a crowd; located persons only."""
    crowd: Fraction = 0.0
    """Chance that others are pasted in front of or behind the person, as by ``lfpose data crowd`` at any of
    its levels; located persons only."""


class Stage(Section):
    """Epochs at one crop size; starting with small crops makes a training cheaper."""

    epochs: int = Field(ge=1)
    """Number of epochs."""
    size: tuple[int, int]
    """Crop height and width; multiples of 32."""
    augment: Augment | None = None
    """Augmentation of this stage, by default the recipe's. Milder changes at the end fit real pictures."""

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if any(s % 32 or s <= 0 for s in self.size):
            message = f"size {list(self.size)} must be positive multiples of 32"
            raise ValueError(message)
        return self


class Loss(Section):
    """Weights and settings of the losses; a weight of 0 turns a term off."""

    sigma_cells: Positive = 1.5
    """Standard deviation of the target Gaussian, in CAM cells."""
    location: float = Field(1.0, ge=0)
    """Weight of the cross-entropy of a located joint's CAM, as a distribution over cells."""
    coarse: float = Field(0.5, ge=0)
    """Total weight of the coarse CAMs' losses, for networks that have some."""
    heatmap: float = Field(0.01, ge=0)
    """Weight of the per-cell cross-entropy, which sets the level of the maps of located persons."""
    presence: float = Field(0.1, ge=0)
    """Weight of the cross-entropy of the presence logits."""
    tag_location: float = Field(1.0, ge=0)
    """Weight of what answers about regions say about a joint's place."""
    tag_mistakes: float = Field(0.02, gt=0, lt=0.5)
    """Assumed rate of wrong answers; the smaller, the more answers outweigh what the network sees."""
    tag_level: float = Field(0.3, ge=0)
    """Weight of what answers say about the map's level in the region."""
    tag_sharpness: Positive = 3.0
    """r of the log-mean-exp over a region: from the mean (small) to the maximum (large)."""
    tag_balance: bool = True
    """Let "yes" and "no" count equally in ``tag_level``, however rare one of them is."""
    agreement: float = Field(0.0, ge=0)
    """Weight of the agreement of coarse and fine CAMs: the coarse teach in the first third, then the fine."""
    contrast: float = Field(0.0, ge=0)
    """Weight of the contrast between a joint's own prototype in the memory and those of other joints."""
    concentration: float = Field(0.0, ge=0)
    """Weight of the variance of a CAM's mass, in units of the crop's side squared."""
    separation: float = Field(0.0, ge=0)
    """Weight of the overlap between the CAMs of two joints."""
    equivariance: float = Field(0.0, ge=0)
    """Weight of the difference between the CAMs of two views of a person without a location."""
    teacher: float = Field(0.0, ge=0)
    """Weight of learning what the averaged network finds in an easy view of a person without a location, in
    ``data.tags`` or ``data.target``; only in the latter if ``adapt.statistics`` is ``target``. Coarse CAMs,
    the maps' level and presence are not taught by it."""
    teacher_sure: Fraction = 0.5
    """Least part of a CAM's mass around its peak for the place of the teacher's peak to be learned."""
    teacher_maps: float = Field(0.0, ge=0)
    """Temperature at which the teacher's whole CAMs are learned, however uncertain: the lower, the more the
    peak dominates. 0: only the place of the peak is learned, and only where the teacher is sure."""
    teacher_mirrors: bool = False
    """Average the teacher's outputs for the easy view and its mirror image."""
    teacher_turns: bool = False
    """Show the teacher square crops in all four quarter turns and take its most confident output: for people
    who lie or are upside down, when the teacher knows upright ones."""
    swap_rate: float = Field(0.0, ge=0, lt=0.5)
    """Assumed part of the labelled persons with left and right exchanged; 0 trusts every label."""
    swap_trust: Positive = 2.0
    """How much a nat of evidence, averaged over the joints, counts against a label's sides."""


class Adaptation(Section):
    """Unsupervised adaptation: make the features of target persons (``data.target``) resemble those of the
    located source persons; see ``networks/adaptation.py``. None of it is part of the exported network."""

    topology: float = Field(0.0, ge=0)
    """Weight of the difference between the target's and the source's relations of joints: IHTA."""
    residual: bool = True
    """Let the graph of the joints learn links in addition to the skeleton's bones."""
    places: float = Field(0.1, ge=0)
    """Weight of the graph's localisation of the source's joints, which ties its nodes to bodies."""
    nodes: float = Field(0.0, ge=0)
    """Weight of the adversarial domain loss on each joint's node of the graph: IHTA's discriminator."""
    graphs: float = Field(0.0, ge=0)
    """Weight of the same loss on the mean of all nodes of a person."""
    features: float = Field(0.0, ge=0)
    """Weight of the adversarial domain loss on a person's features: CAFA."""
    attention: bool = True
    """Add to these features what they gather from a person of the other domain: BSAM."""
    structure: float = Field(0.0, ge=0)
    """Weight of drawing the target's joints to those of its located persons (``data.target``): ISA."""
    appearance: Fraction = 0.0
    """Chance that a batch of the source is rendered as the target's camera would have recorded it: with its
    tones, loss of detail and noise, estimated from crops of both domains (``data/appearance.py``)."""
    statistics: Literal["target", "both"] = "target"
    """The domain whose crops give BatchNorm's running statistics. Each batch comes from one domain, so
    statistics of both match no batch that was trained on. With ``target``, a run with ``start_from`` takes
    the target's statistics before the first step."""


class Optimizer(Section):
    """AdamW with a linear warm-up, a cosine schedule and an average of the weights."""

    batch_size: int = Field(32, ge=1)
    """Persons per step, over all processes."""
    lr_head: Positive = 1e-3
    """Peak learning rate of everything except the backbone."""
    lr_backbone: Positive = 5e-4
    """Peak learning rate of the backbone."""
    weight_decay: float = Field(0.02, ge=0)
    """AdamW's weight decay."""
    warmup_steps: int = Field(300, ge=0)
    """Steps of warm-up; at most a fifth of the run's steps."""
    clip_norm: Positive = 5.0
    """Largest norm of the gradient, which is scaled down to it."""
    ema_decay: float = Field(0.998, ge=0, lt=1)
    """Decay of the average of the weights, which is what is validated and exported; lower at first, and in a
    short run from trained weights (``start_from``)."""
