"""The end of the process: calls of engines and of OpenCV that are under way are waited for.

A daemon thread is cut off when the interpreter ends, and inside of their C++ that ends the process with an
abort, after all work was done.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Literal, TypeVar

Item = TypeVar("Item")

_LONGEST_S = 10.0  # that the exit waits
_REFUSED_AFTER_S = 1.0  # that a thread waits for the end, in case that somebody waits for the thread


class _Calls:
    """Counts the calls under way. At the exit of the process none begins but the main thread's own.

    And those within a call that is under way, as of a detector that is an estimator too.

    Raises:
        RuntimeError: the process is ending.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a forked child, where none of them is under way."""
        self._changed = threading.Condition()
        self._under_way = 0
        self._leaving = False
        self._here = threading.local()  # depth: calls under way in this thread

    def __enter__(self) -> None:
        depth = getattr(self._here, "depth", 0)
        with self._changed:
            mine = depth or threading.current_thread() is threading.main_thread()
            if self._leaving and not mine:
                # Most threads find their end here. One that an exit handler joins must find another.
                self._changed.wait_for(lambda: not self._leaving, timeout=_REFUSED_AFTER_S)
                message = "the process is ending: no call begins any more"
                raise RuntimeError(message)
            self._under_way += 1
        self._here.depth = depth + 1

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        depth = getattr(self._here, "depth", 0)
        if not depth:  # it began before this process was forked off
            return False
        self._here.depth = depth - 1
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()
        return False

    def each(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items of an iterator that makes each of them in a call."""
        nothing = object()
        while True:
            with self:
                item = next(items, nothing)
            if item is nothing:
                return
            yield item  # type: ignore[misc]

    def end(self) -> None:
        """Let no other begin, and wait for those that have."""
        with self._changed, suppress(KeyboardInterrupt):  # who is in a hurry does not wait
            self._leaving = True
            self._changed.wait_for(lambda: self._under_way == 0, timeout=_LONGEST_S)


CALLS = _Calls()
atexit.register(CALLS.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CALLS.forget)
