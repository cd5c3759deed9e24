"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import glob
import json
import math
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_STEM = 24  # characters


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    The folder is made when it is not there, and a symbolic link is followed. The temporary file has the
    suffix of ``path`` and goes when the block fails or is left by a signal's exception.

    Raises:
        FileExistsError: ``path`` is a folder, or a device, which would be gone with a file in its place.
        OSError: it cannot be written; the error names ``path``.
    """
    require_writable(path)
    target = path.resolve()
    # A short stem: the name must fit where the target's own just does.
    name = f".{target.stem[:_STEM]}.{os.getpid()}-{threading.get_ident()}.part{target.suffix}"
    temporary = target.with_name(name)
    try:
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)  # who may read it stays as it was
        temporary.replace(target)
    except OSError as error:
        # A write to an open file, as to a full disk, names none.
        if error.filename == str(temporary) or (error.errno is not None and error.filename is None):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)  # there only when something failed


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to fill; it takes the place of ``path`` when the block ends well.

    ``path`` is no folder yet, or an empty one, or a link to either. What other processes left half filled
    when they were killed goes: each holds a lock for as long as it lives, on whichever machine.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    _make_parent(path)
    path = path.resolve()
    if os.path.ismount(path):
        raise OSError(errno.EBUSY, "a mount point, which a finished folder cannot replace", str(path))
    for lock in path.parent.glob(f".{glob.escape(path.name)}.*.part.lock"):
        with locked(lock, wait=False) as is_dead:
            if is_dead:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        if is_dead:
            with suppress(PermissionError):  # on Windows, where another process looks at it just now
                lock.unlink(missing_ok=True)
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    lock = folder.with_name(f"{folder.name}.lock")
    try:
        with locked(lock):  # before there is a folder that another process could take for a dead one's
            folder.mkdir()
            yield folder
            if path.is_dir():
                path.rmdir()
            folder.rename(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # there only when something failed
        lock.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file, which stays; another process waits here until the block of the first ends.

    Without ``wait`` the block runs at once, and is told whether it holds the lock.
    """
    with path.open("a+b") as file:
        # Closing the file, or the process's end however it comes, lets the next one in.
        yield _lock(file.fileno(), wait)


def _lock(file: int, wait: bool) -> bool:
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:  # to wait is to wait for ten seconds
                msvcrt.locking(file, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError as error:
                if wait and error.errno == errno.EDEADLOCK:
                    continue
                if wait:
                    raise
                return False
            return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def require_writable(path: Path) -> None:
    """Make the folder of a file to be written; an OSError that names ``path`` when it cannot be."""
    if not path.name:
        raise FileNotFoundError(errno.ENOENT, "names no file: give a path", str(path))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "exists and is not a file: give another path", str(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "is write-protected: give another path", str(path))
    _make_parent(path)


def _make_parent(path: Path) -> None:
    try:
        folder = path.resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(error.errno, f"its folder cannot be made: {error.strerror}", str(path)) from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "its folder cannot be written to", str(path))


def write_bytes_whole(path: Path, data: bytes) -> None:
    """Write a file that appears with all of its bytes."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_text_whole(path: Path, text: str) -> None:
    """Write a UTF-8 file that appears with all of its text."""
    write_bytes_whole(path, text.encode("utf-8"))


def write_json_whole(path: Path, tree: Any) -> None:
    """Write plain data as indented JSON; a NaN or an infinity, which JSON has not, becomes null."""
    write_text_whole(path, json.dumps(_finite(tree), indent=2, allow_nan=False) + "\n")


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
