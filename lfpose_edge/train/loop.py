"""The training loop.

Every random choice is drawn from (seed, epoch, sample), never from a running generator, so a run that was
killed and resumed from its checkpoint repeats what the uninterrupted run would have done. It ends with the
same weights where torch's operators are deterministic, as they are on a CPU with a fixed number of threads.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader

from lfpose_edge.errors import LFPoseError, RecipeError, TrainingDiverged
from lfpose_edge.files import write_json_whole
from lfpose_edge.train.bridge import DomainBridge
from lfpose_edge.train.checkpoint import checkpoint_alone
from lfpose_edge.train.data.mixture import CropMixture
from lfpose_edge.train.distributed import anywhere, make_fabric, share_buffers, share_of
from lfpose_edge.train.evaluate import evaluate_network
from lfpose_edge.train.networks import CamNetwork, build_network
from lfpose_edge.train.objective import Objective
from lfpose_edge.train.process import SentErrors, keep_freed_memory, loaded, quiet_worker, stop_request
from lfpose_edge.train.progress import EpochTally, TrainingProgress
from lfpose_edge.train.recipe import Recipe
from lfpose_edge.train.start import Origin, start_from, take_statistics, with_network_of_source
from lfpose_edge.train.state import TrainingState
from lfpose_edge.train.training_set import make_training_set, read_persons, target_appearance

logger = logging.getLogger("lfpose_edge")

CHECKPOINT_SECONDS = 300.0
WARMING_UP = 5  # warm-up takes at most 1/5 of a run's steps
TURNOVERS = 3.0  # least number of time constants of the weight average in a run from trained weights


@dataclass
class Run:
    """The result of a finished or stopped training run.

    Attributes:
        network: the network with the averaged (EMA) weights.
        checkpoint: the file that holds them.
        finished: False when the run was stopped by the user before its last epoch.
        history: one dict per epoch: epoch, size, loss, seconds, images_per_second and, where it was measured,
            val_pck.
        steps: steps taken in this call; 0 if an earlier run had already finished.
        stopped_by: the signal that stopped the run, if it is not finished.
    """

    network: CamNetwork
    checkpoint: Path
    finished: bool
    history: list[dict[str, Any]]
    steps: int
    stopped_by: int = signal.SIGINT


def train(
    recipe: Recipe,
    *,
    data_root: Path,
    out: Path,
    accelerator: str = "auto",
    validate_every: int = 5,
) -> Run:
    """Train by a recipe, resuming from ``out/last.pt`` if an earlier run left one.

    When ``torchrun`` starts several processes, each takes a share of every batch and the gradients are
    averaged; BatchNorm sees only the process's own share.

    Args:
        recipe: the training recipe.
        data_root: the folder that the recipe's data paths are relative to.
        out: folder of the checkpoint.
        accelerator: Fabric's name of the device kind: ``cpu``, ``cuda``, ``auto``.
        validate_every: epochs between two measurements on the validation set.

    Raises:
        RecipeError, SourceError: the recipe or its data cannot be used.
        TrainingDiverged: the loss or a gradient is not finite, or an adaptation diverges.
        LFPoseError: the checkpoint in ``out`` belongs to another recipe or to other people, or another
            process is training into ``out``.
    """
    keep_freed_memory()
    fabric = make_fabric(accelerator, recipe.precision)
    fabric.launch()
    with checkpoint_alone(out / "last.pt") if fabric.is_global_zero else nullcontext():
        recipe = with_network_of_source(recipe, out / "last.pt")
        return _train(fabric, recipe, data_root, out, validate_every)


def _train(fabric: Fabric, recipe: Recipe, data_root: Path, out: Path, validate_every: int) -> Run:
    """Body of :func:`train`, run in every process that ``fabric`` has started."""
    torch.manual_seed(recipe.seed)

    if recipe.adapt is not None and recipe.start_from is None:
        logger.warning(
            "adapt without start_from: the network knows nothing of the source yet; give start_from the "
            "checkpoint of a training on the source, of the same network"
        )
    train_set, split = make_training_set(recipe, data_root)
    val_set = None if recipe.data.val is None else read_persons(recipe.data.val, recipe, data_root)
    path, options = out / "last.pt", recipe.optimizer
    state, model = _begin(fabric, recipe, train_set, path)
    if path.is_file():
        state.restore(path, recipe, data_root)
    if split and fabric.is_global_zero:
        write_json_whole(out / "split.json", {"seed": recipe.seed, "parts": split})
    mirror = fabric.to_device(torch.from_numpy(recipe.joints.flip_permutation))
    objective = Objective(recipe, state.network, mirror, state.bridge)

    appearances = {stage.size: target_appearance(train_set, recipe, stage.size) for stage in recipe.stages}
    steps_per_epoch = len(train_set.epoch_batches(options.batch_size, (recipe.seed, 0)))
    last_step = steps_per_epoch * recipe.epochs
    began = state.step
    warmup = min(options.warmup_steps, last_step // WARMING_UP)
    if warmup < options.warmup_steps:
        logger.info(
            "the run has %d steps: it warms up for %d, not for %d", last_step, warmup, options.warmup_steps
        )
    if began:
        logger.info("resuming %s at epoch %d of %d", path, began // steps_per_epoch + 1, recipe.epochs)

    def save() -> None:
        if fabric.is_global_zero:
            state.save(path, recipe)
            write_json_whole(out / "history.json", state.history)

    def validate(row: dict[str, Any]) -> None:
        if val_set is not None:
            how = (tuple(row["size"]), recipe.data.padding)
            row["val_pck"] = evaluate_network(state.average, val_set, *how).pck_box.mean
            save()

    def run(*, finished: bool, stopped_by: int = signal.SIGINT) -> Run:
        return Run(state.average, path, finished, state.history, state.step - began, stopped_by)

    saved_at = time.monotonic()
    with (
        TrainingProgress(recipe, steps_per_epoch, enabled=fabric.is_global_zero) as progress,
        stop_request() as stop,
    ):
        if began == last_step and "val_pck" not in state.history[-1]:  # the earlier run ended before it
            validate(state.history[-1])
        while state.step < last_step:
            epoch, first_batch = divmod(state.step, steps_per_epoch)
            stage = recipe.stage_at(epoch)
            size, augment = stage.size, stage.augment or recipe.augment
            crops = train_set.with_view(
                size=size, augment=augment, seed=(recipe.seed, epoch), appearance=appearances[size]
            )
            batches = crops.epoch_batches(options.batch_size, (recipe.seed, epoch))[first_batch:]
            loader = DataLoader(
                SentErrors(crops),
                batch_sampler=[share_of(batch, fabric) for batch in batches],
                collate_fn=collate,
                num_workers=loader_workers(recipe, fabric.device),
                worker_init_fn=quiet_worker,
            )
            progress.start_epoch(epoch, size, first_batch)
            started = time.monotonic()

            for batch, sample in zip(batches, loaded(loader), strict=True):
                sample = type(sample)(*(fabric.to_device(t) for t in sample))
                set_learning_rate(state.optimizer, state.step, last_step, warmup)
                terms = objective(model, state.average, sample, state.step / last_step)
                require_finite("loss", terms.total, state.step, path)
                fabric.backward(terms.total)
                norm = fabric.clip_gradients(
                    model, state.optimizer, max_norm=options.clip_norm, error_if_nonfinite=False
                )
                if state.scaler is None:  # a scaler skips such a step and lowers its scale
                    require_finite("gradient", norm, state.step, path)
                state.optimizer.step()
                state.optimizer.zero_grad()
                share_buffers(fabric, state.network)
                trained = state.origin is not None
                decay = average_decay(options.ema_decay, state.step, last_step, trained=trained)
                update_average(state.average, state.network, decay)
                state.step += 1
                now = time.monotonic()
                state.tally.add(terms.total.item(), len(batch), now - started)
                started = now
                progress.advance(terms)
                stop.requested = anywhere(fabric, stop.requested)
                if state.step % steps_per_epoch == 0:
                    break
                if stop.requested or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                    save()
                    saved_at = time.monotonic()
                if stop.requested:
                    progress.note(f"stopped; run the same command to go on from {path}")
                    return run(finished=False, stopped_by=stop.signal)

            row: dict[str, Any] = {"epoch": epoch + 1, "size": list(size), **state.tally.row()}
            state.history.append(row)
            state.tally = EpochTally()
            save()  # before anything else can fail
            if (epoch + 1) % validate_every == 0 or state.step == last_step:
                validate(row)
            progress.end_epoch(row)
            saved_at = time.monotonic()
            if stop.requested and state.step < last_step:
                progress.note(f"stopped; run the same command to go on from {path}")
                return run(finished=False, stopped_by=stop.signal)
    return run(finished=True)


def _begin(
    fabric: Fabric, recipe: Recipe, train_set: CropMixture, path: Path
) -> tuple[TrainingState, torch.nn.Module]:
    """Create the state before the first step, on its device, and the network as Fabric wraps it.

    If there is a checkpoint to resume from, the recipe's ``start_from`` is not read.
    """
    network = build_network(recipe.network, recipe.joints).to(memory_format=torch.channels_last)
    origin: Origin | None = None
    if recipe.start_from is not None and not path.is_file():
        size = recipe.stages[0].size
        origin = start_from(recipe.start_from, network, recipe, train_set.plain_crops(size, recipe.seed))
        if recipe.adapt is not None and recipe.adapt.statistics == "target":
            # Otherwise the slowly moving teacher would use the source's statistics on the target for long.
            target = train_set.of_domain(target=True)
            take_statistics(network, target.plain_crops(size, recipe.seed))
    average = copy.deepcopy(network).eval()
    bridge = None if recipe.adapt is None else DomainBridge(recipe.adapt, network, recipe.joints)
    if bridge is not None and fabric.world_size > 1:
        message = "an adaptation (adapt) trains in one process"
        raise RecipeError(message)
    options, groups = recipe.optimizer, network.parameter_groups()
    head = [*groups["head"], *(() if bridge is None else bridge.parameters())]
    optimizer = torch.optim.AdamW(
        [
            {"params": groups["backbone"], "lr": options.lr_backbone, "peak_lr": options.lr_backbone},
            {"params": head, "lr": options.lr_head, "peak_lr": options.lr_head},
        ],
        weight_decay=options.weight_decay,
    )
    model, optimizer = fabric.setup(network, optimizer)
    average = fabric.to_device(average)
    if bridge is not None:
        fabric.to_device(bridge)
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    return TrainingState(network, average, bridge, optimizer, scaler, train_set.digest(), origin), model


def require_finite(what: str, value: torch.Tensor, step: int, path: Path) -> None:
    """Raise TrainingDiverged if a loss or a gradient norm is not finite."""
    if not torch.isfinite(value):
        kept = f"the last good state is in {path}" if path.is_file() else "nothing was saved yet"
        found = f"the {what} is {value.item()} at step {step}; {kept}"
        raise TrainingDiverged(found, "lower the learning rates and start anew, with another --out")


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, last_step: int, warmup: int) -> None:
    """Set the learning rate: half a cosine down to zero, with a linear warm-up."""
    ramp = min(1.0, (step + 1) / max(1, warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * step / last_step))
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * ramp * cosine


def average_decay(most: float, step: int, last_step: int, *, trained: bool) -> float:
    """The decay of the weight average at a step.

    From random weights the memory is short at first, as averaging over the random start would be useless.
    A run from trained weights has a constant decay, under which the final average keeps at most e^-TURNOVERS
    of the starting weights, however short the run.
    """
    if trained:
        return min(most, max(0.0, 1 - TURNOVERS / last_step))
    return min(most, (step + 1) / (step + 10))


@torch.no_grad()
def update_average(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Move an exponential moving average of weights and BatchNorm statistics towards the network."""
    own, new = average.state_dict(), network.state_dict()
    floats = [k for k, v in own.items() if v.is_floating_point()]
    torch._foreach_lerp_([own[k] for k in floats], [new[k] for k in floats], 1 - decay)
    for k in own.keys() - set(floats):
        own[k].copy_(new[k])


def collate(samples: list[Any]) -> Any:
    """Stack samples of one type into a batch; an error in their place is passed on."""
    if isinstance(samples[0], LFPoseError):
        return samples[0]
    return type(samples[0])(*(torch.stack(field) for field in zip(*samples, strict=True)))


def loader_workers(recipe: Recipe, device: torch.device) -> int:
    """The number of data-loading processes.

    By default none on a CPU, where they would compete with the training threads, which wait for each other;
    for a GPU one per core, at most eight.
    """
    if recipe.data.workers is not None:
        return recipe.data.workers
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
