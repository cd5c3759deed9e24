"""How a recipe trains: what is seen, for how long, and what is asked of the network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lfpose_edge.train.recipe.base import Fraction, Positive, Section


class Augment(Section):
    rotation_deg: float = Field(30.0, ge=0)
    """Standard deviation of the turn, cut off at three times that or a half turn."""
    turn: Fraction = 0.0
    """Chance that the crop is turned by any angle instead, upside down as likely as upright."""
    scale: float = Field(0.25, ge=0, lt=1)
    """The crop is scaled by a factor in [1 - scale, 1 + scale]."""
    shift: Fraction = 0.06
    """Largest shift, as a part of the crop."""
    zoom: Fraction = 0.0
    """Chance that the crop shows a part of the box only, as a picture that cuts the person off does."""
    flip: Fraction = 0.5
    coarse: Fraction = 0.0
    """Chance that the crop is seen through fewer pixels, down to a quarter a side, as people far away are."""
    color: Fraction = 0.25
    """Largest change of brightness, contrast and of each channel's gain."""
    cutout: Fraction = 0.3
    """Chance that a rectangle of up to a third of the crop is filled with noise."""
    hide: Fraction = 0.0
    """Chance of each of the crop's 4x4 parts to be covered with the mean colour."""
    intruder: Fraction = 0.0
    """Chance that a part of another person's crop covers one side, as in a crowd; of located persons only."""
    crowd: Fraction = 0.0
    """Chance that others stand in front of or behind the person, as ``lfpose data crowd`` puts them there, at
    any of its levels; of located persons only."""


class Stage(Section):
    """Some epochs at one crop size; small crops first make a training cheaper."""

    epochs: int = Field(ge=1)
    size: tuple[int, int]
    """Crop height and width; multiples of 32."""
    augment: Augment | None = None
    """Random changes of this stage; the recipe's when not given. Milder ones at the end fit real pictures."""

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if any(s % 32 or s <= 0 for s in self.size):
            message = f"size {list(self.size)} must be positive multiples of 32"
            raise ValueError(message)
        return self


class Loss(Section):
    sigma_cells: Positive = 1.5
    """Standard deviation of the target Gaussian, in CAM cells."""
    location: float = Field(1.0, ge=0)
    coarse: float = Field(0.5, ge=0)
    """Weight of what is asked of the coarse CAMs, together, for networks that have some."""
    heatmap: float = Field(0.01, ge=0)
    presence: float = Field(0.1, ge=0)
    tag_location: float = Field(1.0, ge=0)
    """Weight of what answers about regions say of a joint's place."""
    tag_mistakes: float = Field(0.02, gt=0, lt=0.5)
    """How many answers are wrong; the smaller, the more they outweigh what the network sees."""
    tag_level: float = Field(0.3, ge=0)
    """Weight of what they say of the map's level in the region."""
    tag_sharpness: Positive = 3.0
    """r of the log-mean-exp over a region: from the mean (small) to the maximum (large)."""
    tag_balance: bool = True
    """Let "yes" and "no" count alike there, however rare one of them is."""
    agreement: float = Field(0.0, ge=0)
    """Weight of coarse and fine CAMs saying the same: the coarse teach in the first third, then the fine."""
    contrast: float = Field(0.0, ge=0)
    """Weight of a joint's feature being nearer to its prototype in the memory than to other joints'."""
    concentration: float = Field(0.0, ge=0)
    """Weight of the variance of a CAM's mass, in squares of the crop's side."""
    separation: float = Field(0.0, ge=0)
    """Weight of two joints' CAMs being in different places."""
    equivariance: float = Field(0.0, ge=0)
    """Weight of the CAMs of two views of a person being views of the same; of persons without a location."""
    teacher: float = Field(0.0, ge=0)
    """Weight of the places that the averaged network finds in an easy view of a person without a location, in
    ``data.tags`` or ``data.target``; in the latter alone where ``adapt.statistics`` are the target's. Coarse
    CAMs, the maps' level and presence are not taught by it."""
    teacher_sure: Fraction = 0.5
    """The part of a CAM's mass that must be around its peak for the teacher to be heard."""
    teacher_maps: float = Field(0.0, ge=0)
    """The temperature at which the teacher's CAMs are learned whole, however sure he is: the lower, the more
    his first thought counts. 0: only the place of his peak is learned, and only where he is sure."""
    teacher_mirrors: bool = False
    """Show the teacher the mirrored view too, and hear what it says of the two on average."""
    teacher_turns: bool = False
    """Show the teacher square crops in all four quarter turns, and hear what it says in the surest of them:
    for people who lie or are upside down, when it knows upright ones."""
    swap_rate: float = Field(0.0, ge=0, lt=0.5)
    """How many of the labelled persons have left and right exchanged; 0 trusts every label."""
    swap_trust: Positive = 2.0
    """How much a nat of evidence, averaged over the joints, counts against a label's sides."""


class Adaptation(Section):
    """Make persons of a target domain, unlabelled ones (``data.target``), look to the network like those of
    the source, the located ones; see ``networks/adaptation.py``. Nothing of it is in the exported network."""

    topology: float = Field(0.0, ge=0)
    """Weight of the target's joints being related as the source's are: IHTA."""
    residual: bool = True
    """Let the graph of the joints grow bones beside the skeleton's."""
    places: float = Field(0.1, ge=0)
    """Weight of the graph saying where the source's joints are, which keeps it about bodies."""
    nodes: float = Field(0.0, ge=0)
    """Weight of nobody being able to tell the domain by a joint's node of the graph: IHTA's discriminator."""
    graphs: float = Field(0.0, ge=0)
    """The same by what all nodes of a person are on average."""
    features: float = Field(0.0, ge=0)
    """Weight of nobody being able to tell the domain by a person's features: CAFA."""
    attention: bool = True
    """Judge them with what they gather from a person of the other domain: BSAM."""
    structure: float = Field(0.0, ge=0)
    """Weight of the target's joints looking like those of its located persons (``data.target``): ISA."""
    appearance: Fraction = 0.0
    """Chance of a source's batch to be shown as the target's camera would have given it: with its tones, loss
    of detail and noise, estimated from crops of both domains (``data/appearance.py``)."""
    statistics: Literal["target", "both"] = "target"
    """Whose crops the network's BatchNorm has the mean and variance of. Batches are of one domain each, so
    those of both are of no batch that was ever trained on. After ``start_from`` the target's are taken before
    the first step."""


class Optimizer(Section):
    batch_size: int = Field(32, ge=1)
    lr_head: Positive = 1e-3
    lr_backbone: Positive = 5e-4
    weight_decay: float = Field(0.02, ge=0)
    warmup_steps: int = Field(300, ge=0)
    """A fifth of the run's steps at most."""
    clip_norm: Positive = 5.0
    ema_decay: float = Field(0.998, ge=0, lt=1)
    """Of the average of the weights, which is what is validated and exported; less at first, and in a short
    run from trained weights (``start_from``)."""
