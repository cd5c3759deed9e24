"""The whole recipe, and the checks across its sections."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from lfpose_edge.errors import did_you_mean
from lfpose_edge.skeleton import SKELETONS, Skeleton
from lfpose_edge.train.recipe.base import Section
from lfpose_edge.train.recipe.data import Data
from lfpose_edge.train.recipe.network import Network
from lfpose_edge.train.recipe.training import Adaptation, Augment, Loss, Optimizer, Stage


class Recipe(Section):
    """All choices that determine the result of a training."""

    name: str = Field(pattern=r"^[^/\\.][^/\\]*$")
    """Name of the model; a training without ``--out`` is written to runs/NAME."""
    skeleton: str
    """Name of the skeleton, one of ``SKELETONS``."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of all random choices."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    """``bf16-mixed`` becomes ``32-true`` on a CPU or GPU without native bfloat16."""
    data: Data
    network: Network = Network()
    start_from: Path | None = None
    """Starting weights: a checkpoint of the same network, whose averaged weights are taken, or a bundle of it
    (its folder, or the name of a shipped one). A recipe without ``network`` trains that model's network."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """Trained one after the other."""
    augment: Augment = Augment()
    """Augmentation of the stages that have none of their own."""
    loss: Loss = Loss()
    adapt: Adaptation | None = None
    optimizer: Optimizer = Optimizer()

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.skeleton not in SKELETONS:
            message = f"unknown skeleton {self.skeleton!r}; {did_you_mean(self.skeleton, SKELETONS)}"
            raise ValueError(message)
        val = () if self.data.val is None else (self.data.val,)
        for data in (*self.data.train, *self.data.target, *val):
            for joint in data.joints.keys() - set(self.joints.keypoints):
                message = (
                    f"{data.annotations} is to give the joint {joint!r}, which {self.skeleton} lacks; "
                    f"{did_you_mean(joint, self.joints.keypoints)}"
                )
                raise ValueError(message)
        located = self.located
        if not located and self.start_from is not None and self.start_from.suffix != ".pt":
            message = (
                f"start_from {str(self.start_from)!r} is a bundle, which may have been trained on locations, "
                "and this recipe uses none: leave it out, or name the checkpoint of such a training"
            )
            raise ValueError(message)
        views = (self.augment, *(stage.augment for stage in self.stages))
        for option in ("intruder", "crowd"):
            if not located and any(view is not None and getattr(view, option) for view in views):
                message = f"augment.{option} needs located persons: data.train"
                raise ValueError(message)
        if self.adapt is not None and not (self.data.source and self.data.target):
            message = "adapt needs two domains: located persons (data.train), and the target's (data.target)"
            raise ValueError(message)
        parts = {target.locations for target in self.data.target}
        if self.adapt is not None and self.adapt.structure and (parts == {0.0} or parts == {1.0}):
            message = (
                "adapt.structure draws the target's persons to some of them who are located: give "
                "data.target's locations, as a part of them"
            )
            raise ValueError(message)
        if self.loss.teacher_turns and any(len(set(stage.size)) > 1 for stage in self.stages):
            message = "loss.teacher_turns turns crops by quarters: give square stages"
            raise ValueError(message)
        options = ("teacher_maps", "teacher_mirrors", "teacher_turns")
        for option in (name for name in options if getattr(self.loss, name) and not self.loss.teacher):
            message = f"loss.{option} says how the teacher looks and is heard: give loss.teacher a weight"
            raise ValueError(message)
        if self.network.freeze_stages and not (self.network.pretrained or self.start_from):
            message = (
                "network.freeze_stages keeps weights as they are, which must come from somewhere: give "
                "network.pretrained or start_from"
            )
            raise ValueError(message)
        remembers = self.network.prototypes is not None and self.network.prototypes.memory
        coarse = self.network.refine or self.network.context is not None
        for wanted, possible, lacking in (
            ("contrast", remembers, "network.prototypes with a memory"),
            ("agreement", coarse, "coarse CAMs: network.context or network.refine"),
            ("teacher", self.data.unlocated, "persons without a location: data.tags or data.target"),
            ("equivariance", self.data.unlocated, "persons without a location: data.tags or data.target"),
        ):
            if getattr(self.loss, wanted) and not possible:
                message = f"loss.{wanted} needs {lacking}"
                raise ValueError(message)
        if self.loss.agreement and self.network.erase:
            message = "network.erase makes maps that differ, loss.agreement makes them alike: leave one out"
            raise ValueError(message)
        return self

    @property
    def located(self) -> bool:
        """Whether any joint locations are trained on."""
        return bool(self.data.source or any(target.locations for target in self.data.target))

    @property
    def two_views(self) -> bool:
        """Whether persons without a location are cropped twice."""
        return bool(self.loss.teacher or self.loss.equivariance)

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the finished model's input crop: the last stage's."""
        return self.stages[-1].size

    @property
    def joints(self) -> Skeleton:
        return SKELETONS[self.skeleton]

    def stage_at(self, epoch: int) -> Stage:
        """The stage that an epoch belongs to."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage
            epoch -= stage.epochs
        return self.stages[-1]
