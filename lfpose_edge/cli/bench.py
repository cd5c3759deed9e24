"""``lfpose bench``: how long a frame takes, end to end and stage by stage, on every installed backend."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from itertools import cycle
from time import perf_counter
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.progress import track
from rich.table import Table

from lfpose_edge.backends import ON_GPU, available
from lfpose_edge.bundle import Bundle
from lfpose_edge.cli.predict import PHOTO
from lfpose_edge.console import plain_console
from lfpose_edge.errors import BackendUnavailable, BundleError, EngineMismatch, did_you_mean
from lfpose_edge.estimator import PoseEstimator
from lfpose_edge.opencv import cv2
from lfpose_edge.results import StageTimings
from lfpose_edge.sources import Image, load_image
from lfpose_edge.zoo import bundle_path

logger = logging.getLogger("lfpose_edge")

FRAME_SIZE = (720, 1280)
RING = 24  # frames of 2.8 MB each: too many for a core's cache, so that no frame is still in it when reused
TURNS = 4
# Fraction of a turn that is not timed: it takes some frames until a model's weights are in the caches.
SETTLING = 0.2
PERCENTILES = (50, 95, 99)
_PRECISIONS = ("fp32", "bf16", "fp16", "int8")


Way = Callable[[Image, NDArray[np.float32]], Any]
"""Maps a frame and its boxes to a result that has ``timings``."""


@dataclass(frozen=True)
class Case:
    """One thing to time: an estimator, how many persons a frame has, and where the frames are."""

    estimator: Way
    backend: str
    threads: int
    persons: int
    on_gpu: bool = False


def run_bench(model: str, seconds: float, threads: int | None, device: str, backend: str = "auto") -> None:
    """Time a model and print the table."""
    counts = (threads,) if threads else tuple(sorted({1, os.cpu_count() or 1}))
    rows = measure(
        model, thread_counts=counts, seconds=seconds, device=device, backend=backend, show=_with_a_bar
    )
    plain_console().print(table(rows))


def _with_a_bar(turns: Sequence[int], label: str) -> Iterable[int]:
    console = plain_console(stderr=True)
    if not console.is_terminal:
        console.print(label)
    return track(turns, label, console=console, transient=True, disable=not console.is_terminal)


def measure(
    model: str,
    *,
    thread_counts: Iterable[int],
    persons: Iterable[int] = (1, 8),
    seconds: float = 3.0,
    device: str = "auto",
    backend: str = "auto",
    others: Mapping[str, Way] = MappingProxyType({}),
    show: Callable[[Sequence[int], str], Iterable[int]] = lambda turns, _: turns,
) -> list[dict[str, Any]]:
    """Time every available backend and precision, taking turns in this process.

    Args:
        model: a shipped model's name, or a bundle's folder.
        thread_counts: how many CPU threads to try.
        persons: how many persons a frame has; all of a frame's crops are one batch.
        seconds: how long each case is timed.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; what does not run there is left out.
        backend: the only one to time; ``auto`` times all.
        others: further callables to time, by the name for their rows; their threads are reported as 0.
        show: wraps the loop over the turns; also given a label.

    Returns:
        One row per case: backend, threads, persons, frames, fps, and for the whole frame and each stage
        ``<stage>_p50_ms``, ``_p95_ms`` and ``_p99_ms``. ``total`` is wall time around the call.

    Raises:
        BundleError: the model is missing or damaged, or no backend can run it.
        BackendUnavailable: nothing here can run it.
    """
    Bundle.open(bundle_path(model))
    counts = tuple(persons)
    with ExitStack() as stack:
        refusals: dict[str, BackendUnavailable | BundleError] = {}
        cases = [
            Case(estimator, estimator.describe()["backend"], threads, n)
            for number, threads in enumerate(thread_counts)
            for estimator in _estimators(
                model, device, threads, max(counts), stack, refusals, with_gpu=number == 0, named=backend
            )
            for n in counts
        ]
        if not cases:
            for error in refusals.values():
                if isinstance(error, BundleError):  # the model is at fault
                    raise error
            reasons = "; ".join(map(str, refusals.values())) or "`lfpose doctor` says why"
            message = f"no backend here can run {model}: {reasons}"
            raise BackendUnavailable(message)
        cases += [Case(way, name, 0, n) for name, way in others.items() for n in counts]
        ring = frame_ring()
        cases += [replace(case, on_gpu=True) for case in cases if case.backend.split()[0] in ON_GPU]
        rings = {False: cycle(ring), True: cycle(_uploaded(ring) if any(c.on_gpu for c in cases) else ring)}
        boxes = {n: person_boxes(n) for n in counts}
        samples: list[list[NDArray[np.float64]]] = [[] for _ in cases]
        for _ in show(range(TURNS), f"timing {len(cases)} cases, {seconds:g} s each"):
            for case, times in zip(cases, samples, strict=True):
                frames = rings[case.on_gpu]
                case.estimator(next(frames), boxes[case.persons])  # compiles, if it must
                started = perf_counter()
                settled, end = started + SETTLING * seconds / TURNS, started + seconds / TURNS
                while perf_counter() < settled:
                    case.estimator(next(frames), boxes[case.persons])
                times.append(_timed(case, next(frames), boxes[case.persons]))
                while perf_counter() < end:
                    times.append(_timed(case, next(frames), boxes[case.persons]))
    return [_row(case, np.array(times)) for case, times in zip(cases, samples, strict=True)]


def _uploaded(ring: list[Image]) -> list[Any]:
    """The frames, uploaded to the GPU's memory."""
    from lfpose_edge.ops import gpu

    stream = gpu.open_device()
    return [gpu.on_device(frame, stream) for frame in ring]


def _timed(case: Case, frame: Image, boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    started = perf_counter()
    result = case.estimator(frame, boxes)
    wall_ms = (perf_counter() - started) * 1e3
    return np.array([wall_ms, *_stages(result.timings)])


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows as a table of 80 columns: the median of each stage, percentiles of the whole frame."""
    shown = Table(
        title="milliseconds a frame: stages (median), and end to end",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    shown.add_column("backend")
    for column in ("threads", "people", "crop", "net", "decode", "p50", "p95", "p99", "fps"):
        shown.add_column(column, justify="right")
    for row in rows:
        engine, *_, precision = row["backend"].split()
        stages = (f"{row[f'{stage}_p50_ms']:.2f}" for stage in ("preprocess", "infer", "decode"))
        whole = (f"{row[f'total_p{p}_ms']:.1f}" for p in PERCENTILES)
        counts = (str(row["threads"]), str(row["persons"]))
        where = ", GPU frames" if row["frames_on_gpu"] else ""
        shown.add_row(f"{engine} {precision}{where}", *counts, *stages, *whole, f"{row['fps']:.0f}")
    return shown


def frame_ring() -> list[Image]:
    """RING different 720p BGR frames, made from the packaged photo."""
    photo = load_image(PHOTO)
    rng = np.random.default_rng(0)
    height, width = FRAME_SIZE
    ring = []
    for i in range(RING):
        frame = cv2.resize(np.roll(photo, 20 * i, axis=1), (width, height))
        noise = rng.integers(-8, 9, frame.shape, dtype=np.int16)
        ring.append(np.clip(frame + noise, 0, 255).astype(np.uint8))
    return ring


def person_boxes(n: int) -> NDArray[np.float32]:
    """(n, 4) boxes of people of several sizes, all over a 720p frame."""
    height, width = FRAME_SIZE
    rng = np.random.default_rng(n)
    tall = rng.uniform(200, 600, n)
    wide = tall * rng.uniform(0.35, 0.8, n)
    x, y = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
    return np.stack([x, y, x + wide, y + tall], axis=1).astype(np.float32)


def _estimators(
    model: str,
    device: str,
    threads: int,
    max_batch: int,
    stack: ExitStack,
    refusals: dict[str, BackendUnavailable | BundleError],
    *,
    with_gpu: bool,
    named: str = "auto",
) -> Iterator[PoseEstimator]:
    """Yield every available estimator; ``refusals`` gets the first error of each backend."""
    there = available()
    if named not in ("auto", *there):
        message = f"unknown backend {named!r}; {did_you_mean(named, ('auto', *there))}"
        raise BackendUnavailable(message)
    for backend, reason in there.items():
        if named not in ("auto", backend):
            continue
        if backend == named and reason is not None:
            message = f"backend {named!r} is not available: {reason}"
            raise BackendUnavailable(message)
        on_gpu = backend in ON_GPU or device.startswith("cuda")
        if reason is not None or (on_gpu and not with_gpu):
            continue  # CPU threads make no difference to a GPU
        for precision in _PRECISIONS:
            try:
                estimator = PoseEstimator(
                    model,
                    backend=backend,
                    device=device,
                    precision=precision,
                    threads=threads,
                    max_batch=max_batch,
                )
            except EngineMismatch as error:  # `lfpose doctor` does not report it
                logger.warning("%s %s is left out: %s", backend, precision, error)
                continue
            except (BackendUnavailable, BundleError) as error:
                refusals.setdefault(backend, error)
                continue  # the table lists what is available; `lfpose doctor` says why the rest is not
            yield stack.enter_context(estimator)


def _stages(timings: StageTimings) -> Iterator[float]:
    return (getattr(timings, f.name) for f in fields(timings))


def _row(case: Case, times: NDArray[np.float64]) -> dict[str, Any]:
    names = ["total", *(f.name.removesuffix("_ms") for f in fields(StageTimings))]
    row: dict[str, Any] = {
        "backend": case.backend,
        "frames_on_gpu": case.on_gpu,
        "threads": case.threads,
        "persons": case.persons,
        "frames": len(times),
        "fps": float(1e3 / np.median(times[:, 0])),
    }
    for name, column in zip(names, times.T, strict=True):
        for p, value in zip(PERCENTILES, np.percentile(column, PERCENTILES).tolist(), strict=True):
            row[f"{name}_p{p}_ms"] = round(value, 4)
    return row
