"""The state from which a stopped training resumes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lfpose_edge.errors import LFPoseError
from lfpose_edge.train.bridge import DomainBridge
from lfpose_edge.train.checkpoint import load_checkpoint, save_checkpoint
from lfpose_edge.train.networks import CamNetwork
from lfpose_edge.train.progress import EpochTally
from lfpose_edge.train.recipe import Recipe, parse_recipe
from lfpose_edge.train.start import Origin, require_same_start


@dataclass
class TrainingState:
    """Everything that changes from step to step, and the data and weights that the run began with.

    Attributes:
        network: the network in training.
        average: the moving average of its weights, which is the result of the run.
        bridge: the domain bridge of an adaptation.
        optimizer: optimises the network and the bridge.
        scaler: the gradient scaler in float16; None in other precisions.
        people: digest of the persons that the run trains on.
        origin: source of the weights before the first step; None for random or ImageNet weights.
        step: number of steps done.
        history: see :class:`lfpose_edge.train.loop.Run`.
        tally: totals of the current epoch.
    """

    network: CamNetwork
    average: CamNetwork
    bridge: DomainBridge | None
    optimizer: torch.optim.Optimizer
    scaler: Any | None
    people: str
    origin: Origin | None
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    tally: EpochTally = field(default_factory=EpochTally)

    def save(self, path: Path, recipe: Recipe) -> None:
        """Write a checkpoint atomically: if writing fails, the old file stays."""
        save_checkpoint(
            path,
            {
                "recipe": recipe.model_dump(mode="json"),
                "network": self.network.state_dict(),
                "ema": self.average.state_dict(),
                "bridge": None if self.bridge is None else self.bridge.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": None if self.scaler is None else self.scaler.state_dict(),
                "step": self.step,
                "history": self.history,
                "tally": asdict(self.tally),
                "origin": self.origin,
                "people": self.people,
            },
        )

    def restore(self, path: Path, recipe: Recipe, data_root: Path) -> None:
        """Resume from a checkpoint of the same recipe, people and starting weights.

        Raises:
            LFPoseError: one of these differs, or the file is damaged or not a checkpoint.
        """
        kept = load_checkpoint(path)
        _require_same(parse_recipe(kept["recipe"], where=str(path)), recipe, path)
        if kept.get("people", self.people) != self.people:
            message = (
                f"{path} was trained on other people, or on other answers, than {data_root} has now; use "
                "another --out, or remove it to start anew"
            )
            raise LFPoseError(message)
        self.origin = kept.get("origin")
        require_same_start(self.origin, recipe.start_from, path)
        self.network.load_state_dict(kept["network"])
        self.average.load_state_dict(kept["ema"])
        if self.bridge is not None:
            self.bridge.load_state_dict(kept["bridge"])
        self.step, self.history = kept["step"], kept["history"]
        self.tally = EpochTally(**kept.get("tally", {}))
        if self.step:
            self.optimizer.load_state_dict(kept["optimizer"])
            if self.scaler is not None:
                self.scaler.load_state_dict(kept["scaler"])


def _require_same(before: Recipe, now: Recipe, path: Path) -> None:
    """Raise LFPoseError if a checkpoint's recipe differs from this one, except in ``data.workers``."""
    trees = [recipe.model_dump(mode="json") for recipe in (before, now)]
    for tree in trees:
        del tree["data"]["workers"]
    other = [key for key in trees[0] if trees[0][key] != trees[1][key]]
    if other:
        message = (
            f"{path} was made by another recipe, which differs in {', '.join(other)}; use another --out, or "
            "remove it to start anew"
        )
        raise LFPoseError(message)
