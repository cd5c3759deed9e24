"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lfpose_edge.files import whole_file, whole_folder, write_json_whole, write_text_whole


def test_a_file_appears_with_its_folder_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text_whole(path, "one")
    write_text_whole(path, "tw\u00f6")
    assert path.read_text(encoding="utf-8") == "tw\u00f6"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be replaced there")
def test_who_reads_the_old_file_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with path.open() as before:
        write_text_whole(path, "new")
        assert before.read() == "old"
    assert path.read_text(encoding="utf-8") == "new"


def test_two_writers_have_files_of_their_own_and_the_last_to_end_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with whole_file(path) as ours:
        ours.write_text("ours")
        with ThreadPoolExecutor(1) as other:
            other.submit(write_text_whole, path, "theirs").result()
        assert (path.read_text(encoding="utf-8"), ours.read_text(encoding="utf-8")) == ("theirs", "ours")
    assert [(p.name, p.read_text(encoding="utf-8")) for p in tmp_path.iterdir()] == [("a.txt", "ours")]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), whole_file(path) as temporary:
        temporary.write_text("half")
        assert temporary.suffix == ".txt"  # writers that go by the suffix still work
        raise error
    assert [(p.name, p.read_text(encoding="utf-8")) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_new_content_is_read_by_whom_the_old_one_was(tmp_path: Path) -> None:
    path = tmp_path / "private.json"
    path.write_text("old")
    path.chmod(0o600)
    write_text_whole(path, "new")
    assert (path.read_text(encoding="utf-8"), path.stat().st_mode & 0o777) == ("new", 0o600)


def test_a_write_protected_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by the system, which lets root write to all."""
    path = tmp_path / "kept.json"
    path.write_text("old")
    path.chmod(0o444)
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p) != path and real(p, mode))
    with pytest.raises(PermissionError, match=r"is write-protected.*kept\.json"):
        write_text_whole(path, "new")
    assert path.read_text(encoding="utf-8") == "old"


def test_a_folder_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(FileExistsError, match=f"exists and is not a file.*{name}"):
            write_text_whole(tmp_path / name, "x")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "pipe"]


def test_json_has_null_where_a_number_is_not_finite(tmp_path: Path) -> None:
    write_json_whole(tmp_path / "a.json", {"a": float("nan"), "b": [1.5, float("inf")], "c": ("x", None)})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [1.5, None], "c": ["x", None]}


def test_a_block_that_wrote_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a.txt"):
        pass


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "there" / "a.txt")
    write_text_whole(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert [(p.name, p.read_text(encoding="utf-8")) for p in (tmp_path / "there").iterdir()] == [
        ("a.txt", "new")
    ]


def test_a_name_that_just_fits_is_written(tmp_path: Path) -> None:
    name = "x" * 251 + ".txt"
    write_text_whole(tmp_path / name, "x")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, whole_file(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write to an open file raises it
    assert caught.value.filename == str(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["", "file/a.txt", "x" * 300])
def test_errors_name_the_path_that_was_asked_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    path = tmp_path / name if name else Path(name)
    with pytest.raises(OSError, match=r".") as caught:
        write_text_whole(path, "x")
    assert caught.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with whole_folder(path) as part:
        (part / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text(encoding="utf-8") == "1"
    with pytest.raises(KeyError), whole_folder(tmp_path / "other") as part:
        (part / "a").write_text("1")
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    with pytest.raises(OSError, match="not empty"), whole_folder(path):
        pass
    assert [p.name for p in path.parent.iterdir()] == ["folder"]
    with pytest.raises(OSError, match="its folder cannot be made") as caught, whole_folder(path / "a" / "b"):
        pass
    assert caught.value.filename == str(path / "a" / "b")


def test_a_link_to_a_folder_is_followed_and_here_is_a_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("empty", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("empty")
    monkeypatch.chdir(tmp_path / "here")
    for path, real in ((tmp_path / "link", "empty"), (Path(), "here")):
        with whole_folder(path) as part:
            (part / "a").write_text("1")
        assert (tmp_path / real / "a").read_text(encoding="utf-8") == "1"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "here", "link"]


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) == str(tmp_path / "volume"))
    worked = False
    with pytest.raises(OSError, match="a mount point"), whole_folder(tmp_path / "volume"):
        worked = True
    assert not worked


def test_what_a_dead_process_left_half_filled_goes(tmp_path: Path) -> None:
    (tmp_path / ".folder.dead.part").mkdir()
    (tmp_path / ".folder.dead.part" / "half").write_text("1")
    (tmp_path / ".folder.dead.part.lock").touch()
    with whole_folder(tmp_path / "folder") as part:
        (part / "a").write_text("1")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_of_two_that_fill_a_folder_at_once_the_second_is_told(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(OSError, match="not empty"), whole_folder(path) as ours:  # noqa: PT012
        (ours / "a").write_text("ours")
        with whole_folder(path) as theirs:
            assert ours.is_dir()  # a running one's stays
            (theirs / "a").write_text("theirs")
    assert (path / "a").read_text(encoding="utf-8") == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
