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
    """Yield a temporary path next to ``path``, which replaces ``path`` if the block succeeds.

    The folder is created if needed, and a symbolic link is followed. The temporary file has the suffix of
    ``path`` and is removed if the block raises, even from a signal handler.

    Raises:
        FileExistsError: ``path`` is a folder or a device, which a file must not replace.
        OSError: it cannot be written; the error names ``path``.
    """
    require_writable(path)
    target = path.resolve()
    # A short stem, so that the name is not too long even if the target's own is at the limit.
    name = f".{target.stem[:_STEM]}.{os.getpid()}-{threading.get_ident()}.part{target.suffix}"
    temporary = target.with_name(name)
    try:
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)  # keep the permissions
        temporary.replace(target)
    except OSError as error:
        # The error of a write to an open file, for example on a full disk, names no file.
        if error.filename == str(temporary) or (error.errno is not None and error.filename is None):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)  # there only when something failed


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``path``, which replaces ``path`` if the block succeeds.

    ``path`` must not exist, or be an empty folder, or a link to either. Unfinished folders of processes that
    were killed are removed: every process holds a lock while it lives, also across machines.

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
            with suppress(PermissionError):  # on Windows, if another process has it open
                lock.unlink(missing_ok=True)
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    lock = folder.with_name(f"{folder.name}.lock")
    try:
        with locked(lock):  # taken first, so that no other process takes the folder for an abandoned one
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
    """Hold a lock on a file, which is not removed; other processes wait until the block ends.

    Without ``wait`` the block runs at once; the yielded value says whether it holds the lock.
    """
    with path.open("a+b") as file:
        # The lock is released when the file is closed or the process ends, however it ends.
        yield _lock(file.fileno(), wait)


def _lock(file: int, wait: bool) -> bool:
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:  # LK_LOCK gives up after ten seconds
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
    """Check that a file can be written and create its folder; otherwise an OSError names ``path``."""
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
    """Write a file atomically."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_text_whole(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes_whole(path, text.encode("utf-8"))


def write_json_whole(path: Path, tree: Any) -> None:
    """Write plain data as indented JSON, atomically; NaN and infinity, which JSON lacks, become null."""
    write_text_whole(path, json.dumps(_finite(tree), indent=2, allow_nan=False) + "\n")


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
