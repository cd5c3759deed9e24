"""Run the frames of a source through an estimator, with several frames in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from time import perf_counter
from typing import Any

from lfpose_edge.leaving import CALLS
from lfpose_edge.results import PoseResult
from lfpose_edge.sources import Frame
from lfpose_edge.tracking import PoseTracker

Finish = Callable[[], Any]


def in_turn(
    frames: Iterator[Frame], begin: Callable[[Frame], Finish], ahead: int, tracker: PoseTracker | None
) -> Generator[tuple[Frame, PoseResult]]:
    """Yield frames with their results, in order.

    Args:
        frames: the frames of a source.
        begin: starts processing a frame; the function it returns waits for the result and is called once.
        ahead: how many frames are started before the first result is waited for.
        tracker: assigns track ids and smooths the joints.

    Raises:
        Exception: whatever ``frames`` or ``begin`` raises, after the results of the earlier frames.
    """
    on_their_way: deque[tuple[Frame, float, Finish]] = deque()

    def arrive() -> tuple[Frame, PoseResult]:
        frame, read_ms, finish = on_their_way.popleft()
        with CALLS:
            found: PoseResult = finish()
        result = replace(found, timings=replace(found.timings, read_ms=read_ms))
        return frame, result if tracker is None else tracker(result, frame.time_s)

    try:
        while True:
            started = perf_counter()
            try:
                frame = next(frames, None)
                if frame is None:
                    break
                read_ms = (perf_counter() - started) * 1e3
                with CALLS:
                    on_their_way.append((frame, read_ms, begin(frame)))
            except Exception:  # raised by a later frame: yield the results of those in flight first
                yield from (arrive() for _ in tuple(on_their_way))
                raise
            if len(on_their_way) > ahead:
                yield arrive()
        while on_their_way:
            yield arrive()
    finally:
        # If the consumer stopped early, finish the frames in flight to release their memory.
        while on_their_way:
            finish = on_their_way.popleft()[-1]
            with suppress(Exception), CALLS:
                finish()


def without_frames(pairs: Generator[tuple[Frame, PoseResult]]) -> Generator[PoseResult]:
    """Yield the results alone; closing this generator closes the pairs too."""
    with closing(pairs):
        for _, result in pairs:
            yield result
