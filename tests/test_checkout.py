"""The checkout keeps its own rules: style, types, and a README whose commands are those that CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CPP = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".hpp", ".cu", ".cuh"))

TOOLS = {
    "ruff check": ["-m", "ruff", "check", "--no-cache", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "--no-cache", "."],
    "mypy, runtime": ["-m", "mypy", "--cache-dir", "/dev/null", "-p", "lfpose_edge"],
    "mypy, export": ["-m", "mypy", "--cache-dir", "/dev/null", "export"],
}


def _complaints(*command: str) -> str:
    """The output of a tool that fails; empty if it succeeds."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=300)
    return "" if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("tool", TOOLS)
def test_python_is_clean(tool: str) -> None:
    assert _complaints(sys.executable, *TOOLS[tool]) == ""


def test_cpp_is_formatted() -> None:
    assert CPP
    clang_format = str(Path(sys.executable).with_name("clang-format"))
    assert _complaints(clang_format, "--dry-run", "--Werror", *map(str, CPP)) == ""


def test_ci_runs_the_commands_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    commands = [line.strip() for block in blocks[:2] for line in block.strip().splitlines()]
    assert commands == ["pip install . && lfpose demo", 'pip install ".[test]" && pytest -n auto']
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    run = [line for line in script if line.startswith("{")]
    assert run == [f"{{ {command}; }} || exit 1" for command in commands]
    assert script[-1] == run[-1]


@pytest.mark.skipif(sys.platform == "win32", reason="bash")
@pytest.mark.parametrize("fails", ["pip", "lfpose", "pytest", None])
def test_ci_fails_where_any_of_its_commands_does(fails: str | None, tmp_path: Path) -> None:
    for name in ("python3", "pip", "lfpose", "pytest"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{'exit 1' if name == fails else 'exit 0'}\n")
        (tmp_path / name).chmod(0o755)
    script = (
        (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace('source "$environment/bin/activate"', "")
    )
    (tmp_path / "run").write_text(script)
    done = subprocess.run(
        ["bash", str(tmp_path / "run")], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False
    )
    assert done.returncode == (fails is not None)


def test_only_bind_knows_python_and_nobody_knows_torch() -> None:
    for path in CPP:
        text = path.read_text(encoding="utf-8")
        assert "torch" not in text, path
        if path.parent.name != "bind":
            assert "Python.h" not in text, path
            assert "pybind11" not in text, path


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t]
    assert targets
    assert [t for t in targets if not (page.parent / t).exists()] == []
