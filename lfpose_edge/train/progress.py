"""Progress output of a training: a progress bar on a terminal, one line per epoch in a log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lfpose_edge.console import plain_console
from lfpose_edge.train.losses import LossTerms
from lfpose_edge.train.recipe import Recipe

_LOG_SECONDS = 60.0


@dataclass
class EpochTally:
    """Running totals of an epoch; stored in checkpoints, as an epoch may be interrupted and resumed.

    Attributes:
        loss: sum of the loss over the batches.
        batches: number of batches trained on.
        images: number of images in them.
        seconds: time they took.
    """

    loss: float = 0.0
    batches: int = 0
    images: int = 0
    seconds: float = 0.0

    def add(self, loss: float, images: int, seconds: float) -> None:
        """Add one batch."""
        self.loss += loss
        self.batches += 1
        self.images += images
        self.seconds += seconds

    def row(self) -> dict[str, float]:
        """The epoch's entries for the history."""
        return {
            "loss": self.loss / self.batches,
            "seconds": self.seconds,
            "images_per_second": self.images / self.seconds,
        }


class TrainingProgress:
    """Shows a running training on stderr.

    Args:
        recipe: the run's recipe.
        steps_per_epoch: batches in an epoch.
        enabled: False shows nothing (the other processes of a distributed run).
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int, *, enabled: bool = True) -> None:
        self._console = plain_console(stderr=True, quiet=not enabled)
        self._interactive = enabled and self._console.is_terminal
        self._epochs, self._steps = recipe.epochs, steps_per_epoch
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=steps_per_epoch, loss="")
        self._epoch, self._done, self._logged_at = 0, 0, time.monotonic()

    def __enter__(self) -> TrainingProgress:
        if self._interactive:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start_epoch(self, epoch: int, size: tuple[int, int], first_batch: int) -> None:
        """Begin an epoch, possibly in its middle."""
        self._epoch, self._done = epoch, first_batch
        label = f"epoch {epoch + 1}/{self._epochs} at {size[0]}x{size[1]}"
        self._bar.reset(self._task, description=label, total=self._steps, completed=first_batch, loss="")

    def advance(self, terms: LossTerms) -> None:
        """Show that one step is done."""
        self._done += 1
        text = f"loss {terms.total:.3f} (location {terms.location:.3f}, presence {terms.presence:.3f})"
        if self._interactive:
            self._bar.update(self._task, advance=1, loss=text)
        elif time.monotonic() - self._logged_at > _LOG_SECONDS:
            self._logged_at = time.monotonic()
            self._console.print(
                f"epoch {self._epoch + 1}/{self._epochs} step {self._done}/{self._steps} {text}"
            )

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Show that an epoch is done; ``row`` is its entry in the history."""
        pck = f"  val PCK@0.1box {row['val_pck']:.3f}" if "val_pck" in row else ""
        self._console.print(
            f"epoch {row['epoch']}/{self._epochs}  loss {row['loss']:.3f}  "
            f"{row['images_per_second']:.3g} images/s{pck}"
        )

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text)
