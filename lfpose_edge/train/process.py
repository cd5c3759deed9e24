"""Process-level setup of a training: signals, memory, and data-loading processes."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lfpose_edge.errors import LFPoseError
from lfpose_edge.train.data.mixture import CropMixture


def keep_freed_memory() -> None:
    """Make glibc keep freed blocks.

    Training frees and allocates the same tensors of many megabytes at every step. By default each is returned
    to the system and faulted in again page by page, which costs half of the time of a step on a CPU.
    """
    if sys.platform != "linux":
        return
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        for option, value in ((m_mmap_max, 0), (m_trim_threshold, 2**31 - 1), (m_top_pad, 2**28)):
            mallopt(option, value)


def quiet_worker(_: int) -> None:
    """Make a loader process ignore Ctrl-C and SIGTERM, which the trainer handles, and use one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


class SentErrors(Dataset[Any]):
    """A data set that returns errors in a loader process in place of a batch, for :func:`loaded` to raise.

    Raised in that process, an error would be wrapped by torch, and the process, which ignores SIGTERM, would
    not end.
    """

    def __init__(self, crops: CropMixture) -> None:
        self._crops = crops

    def __getitems__(self, indices: list[int]) -> list[Any]:
        try:
            return list(self._crops.__getitems__(indices))
        except LFPoseError as error:
            if get_worker_info() is None:
                raise
            return [error]


def loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of a loader of :class:`SentErrors`, raising the errors sent in their place."""
    for batch in loader:
        if isinstance(batch, LFPoseError):
            raise batch
        yield batch


@dataclass
class StopRequest:
    """Whether the user asked to stop, and by which signal."""

    requested: bool = False
    signal: int = signal.SIGINT


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request; a second one acts as usual."""
    stop = StopRequest()
    previous: dict[int, Any] = {}

    def ask(number: int, _: object) -> None:
        stop.requested, stop.signal = True, number
        signal.signal(number, previous[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask)
    except ValueError:  # not in the main thread: signals are left to the caller
        previous.clear()
    try:
        yield stop
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)
