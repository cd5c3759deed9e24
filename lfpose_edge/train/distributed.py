"""Device precision, and training in several processes started by ``torchrun``."""

from __future__ import annotations

import logging
import os
from typing import Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy

from lfpose_edge.errors import BackendUnavailable

logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it repeats what the recipe says
logger = logging.getLogger(__name__)
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def make_fabric(accelerator: str, precision: Precision) -> Fabric:
    """Set up Fabric for one process, or for all of the processes that torchrun started."""
    on_cpu = accelerator == "cpu" or not torch.cuda.is_available()
    if precision == "16-mixed" and on_cpu:
        message = (
            "precision: 16-mixed needs a GPU; on a CPU take bf16-mixed or 32-true"  # Fabric would take bf16
        )
        raise BackendUnavailable(message)
    if precision == "bf16-mixed" and not _has_bfloat16(on_cpu):
        logger.info(
            "no bfloat16 on this %s: training in 32-true",
            "CPU" if on_cpu else "GPU (16-mixed would be quicker)",
        )
        precision = "32-true"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Fabric(accelerator=accelerator, precision=precision, devices=1)
    if "LOCAL_WORLD_SIZE" not in os.environ:
        message = "WORLD_SIZE is set, but not by torchrun: start several processes with torchrun"
        raise BackendUnavailable(message)
    per_machine = int(os.environ["LOCAL_WORLD_SIZE"])
    return Fabric(
        accelerator=accelerator,
        precision=precision,
        # A recipe may leave a part of the network without a loss, and so without a gradient to exchange.
        strategy=DDPStrategy(find_unused_parameters=True, broadcast_buffers=False),
        devices=per_machine,
        num_nodes=int(os.environ["WORLD_SIZE"]) // per_machine,
    )


def _has_bfloat16(on_cpu: bool) -> bool:
    """Whether the device computes in bfloat16 natively; if not, torch is ten times slower than in float32."""
    if on_cpu:
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cuda.is_bf16_supported(including_emulation=False)


def share_of(batch: list[int], fabric: Fabric) -> list[int]:
    """This process's share of a batch; the batch's first person if there are fewer persons than processes."""
    return batch[fabric.global_rank :: fabric.world_size] or batch[:1]


def share_buffers(fabric: Fabric, network: torch.nn.Module) -> None:
    """Average BatchNorm statistics and prototype memories over all processes."""
    if fabric.world_size == 1:
        return
    buffers = [b for b in network.buffers() if b.is_floating_point()]
    mean = fabric.all_reduce(torch.cat([b.flatten() for b in buffers]), reduce_op="mean")
    for buffer, part in zip(buffers, mean.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def anywhere(fabric: Fabric, flag: bool) -> bool:
    """Whether the flag is set in any process, so that all stop at the same step instead of deadlocking."""
    if fabric.world_size == 1:
        return flag
    return bool(fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum") > 0)
