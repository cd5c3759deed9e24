"""At process exit, wait for calls into engines and OpenCV that are still running.

The interpreter kills daemon threads when it ends. Inside the C++ code of these libraries that aborts the
process, even though all work is done.
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

_LONGEST_S = 10.0  # the longest that the exit waits
_REFUSED_AFTER_S = 1.0  # how long a thread blocks at exit before it gets an error, in case it is being joined


class _Calls:
    """Counts the calls in progress. At process exit no new ones may begin outside the main thread.

    Calls nested in one in progress are still allowed, as when a detector is itself an estimator.

    Raises:
        RuntimeError: the process is ending.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Reset the state, as in a forked child, where no call is in progress."""
        self._changed = threading.Condition()
        self._under_way = 0
        self._leaving = False
        self._here = threading.local()  # depth: calls in progress in this thread

    def __enter__(self) -> None:
        depth = getattr(self._here, "depth", 0)
        with self._changed:
            mine = depth or threading.current_thread() is threading.main_thread()
            if self._leaving and not mine:
                # Most threads are killed while they wait here. One that an exit handler joins must return.
                self._changed.wait_for(lambda: not self._leaving, timeout=_REFUSED_AFTER_S)
                message = "the process is ending: no call begins any more"
                raise RuntimeError(message)
            self._under_way += 1
        self._here.depth = depth + 1

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        depth = getattr(self._here, "depth", 0)
        if not depth:  # the call began before this process was forked
            return False
        self._here.depth = depth - 1
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()
        return False

    def each(self, items: Iterator[Item]) -> Iterator[Item]:
        """Iterate over ``items``, counting the production of each item as a call."""
        nothing = object()
        while True:
            with self:
                item = next(items, nothing)
            if item is nothing:
                return
            yield item  # type: ignore[misc]

    def end(self) -> None:
        """Refuse new calls, and wait for those in progress."""
        with self._changed, suppress(KeyboardInterrupt):  # Ctrl-C ends the wait
            self._leaving = True
            self._changed.wait_for(lambda: self._under_way == 0, timeout=_LONGEST_S)


CALLS = _Calls()
atexit.register(CALLS.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CALLS.forget)
