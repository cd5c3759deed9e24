"""The package's one-way import rule, and what the runtime must not import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lfpose_edge.export
import pytest

import lfpose_edge

PACKAGE = Path(lfpose_edge.__file__).parent
EXPORT = Path(lfpose_edge.export.__file__).parent

# Each part of the package may import from the parts named here, and from itself. Whether an import is in a
# function, at the top or type-only makes no difference, except for the parts in IN_FUNCTIONS.
ALLOWED = {
    room: set(others.split())
    for room, others in {
        "__main__": "cli",
        "arguments": "",
        "console": "",
        "errors": "",
        "files": "",
        "machine": "_core",
        "skeleton": "errors",
        "geometry": "",
        "opencv": "errors",
        "results": "leaving skeleton",
        "image_files": "errors opencv",
        "videos": "errors opencv",
        "sources": "errors image_files leaving opencv videos",
        "bundle": "errors skeleton",
        "zoo": "bundle errors files",
        "draw": "opencv results skeleton",
        "mpii": "skeleton",
        "coco_writing": "skeleton",
        "matlab": "errors",
        "persons": "skeleton sources",
        "coco": "errors mpii persons skeleton",
        "metrics": "coco_writing errors files geometry matlab opencv persons results skeleton",
        "ops": "_core _cuda bundle errors geometry",
        "backends": "_cuda bundle errors files machine ops zoo",
        "leaving": "",
        "streaming": "leaving results sources tracking",
        "smoothing": "",
        "tracking": "arguments persons results skeleton smoothing",
        "pipeline": "_cuda backends errors ops sources",
        "detection": "arguments backends errors geometry opencv ops zoo",
        "estimator": "arguments backends bundle detection errors geometry leaving ops pipeline results "
        "skeleton sources streaming tracking zoo",
        "cli": "arguments backends bundle coco coco_writing console detection errors estimator files machine "
        "metrics opencv package persons results skeleton sources tracking zoo",
        "train": "bundle coco coco_writing console errors files geometry matlab metrics opencv ops persons "
        "skeleton sources zoo",
        "export": "backends bundle cli coco console detection errors estimator files "
        "geometry machine metrics opencv ops persons results skeleton sources zoo",
    }.items()
}
IN_FUNCTIONS = {
    "results": {"draw", "ops"},
    "cli": {"export", "ops", "train"},
    "export": {"train"},
    "train": {"estimator"},
}
COMPILED = ("_core", "_cuda")
RUNTIME = set(ALLOWED) - {"train", "export"}
HEAVY = {"torch", "lightning", "onnx", "onnxscript", "onnxsim", "tensorrt", "pycuda", "pandas", "pycocotools"}


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in ("__init__", "export", "models"):
            yield room, path
    for path in sorted(EXPORT.rglob("*.py")):
        yield "export", path


def _imports(path: Path) -> Iterator[tuple[str, bool, int]]:
    """(imported module, whether at module level, line), except for imports under TYPE_CHECKING."""

    def walk(node: ast.AST, top: bool) -> Iterator[tuple[str, bool, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                yield from ((a.name, top, child.lineno) for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                module = child.module or ""
                if module == "lfpose_edge":  # from lfpose_edge import ops, __version__
                    for a in child.names:
                        inner = PACKAGE / a.name
                        known = (
                            inner.is_dir()
                            or inner.with_suffix(".py").is_file()
                            or a.name in ("_core", "_cuda")
                        )
                        yield f"lfpose_edge.{a.name}" if known else "lfpose_edge", top, child.lineno
                else:
                    yield module, top, child.lineno
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, top and not function)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


@pytest.mark.parametrize("name", lfpose_edge.__all__)
def test_a_public_name_is_what_it_says(name: str) -> None:
    found = getattr(lfpose_edge, name)
    assert name == "__version__" or found.__name__ == name


def test_every_room_is_in_the_table() -> None:
    assert {room for room, _ in _modules()} == set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_go_one_way(room: str) -> None:
    wrong = []
    for path in (p for r, p in _modules() if r == room):
        for module, top, line in _imports(path):
            parts = module.split(".")
            if parts[0] != "lfpose_edge":
                continue
            target = parts[1] if len(parts) > 1 else "package"
            allowed = ALLOWED[room] | {room} | (set() if top else IN_FUNCTIONS.get(room, set()))
            if target not in allowed:
                wrong.append(f"{path.name}:{line} imports {module}")
    assert wrong == []


def test_the_runtime_imports_nothing_heavy() -> None:
    wrong = []
    for room, path in _modules():
        if room not in RUNTIME:
            continue
        for module, top, line in _imports(path):
            optional = not top or path.name in ("training.py",)
            if module.split(".")[0] in HEAVY and not optional:
                wrong.append(f"{path}:{line} imports {module}")
    assert wrong == []


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


BLOCKED = sorted(HEAVY | {"openvino", "torch_tensorrt", "yaml", "scipy"})
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Block())
"""


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("lfpose_edge.export.cli export lfpose-lite --out b", "'export' extra, pip install '.[export]'"),
        ("lfpose_edge.cli.main lfpose train lfpose_lite", "'train' extra, pip install '.[train]'"),
    ],
)
def test_a_missing_extra_is_named(command: str, words: str) -> None:
    module, *arguments = command.split()
    code = f"{BLOCK}\nsys.argv = {arguments!r}\nfrom {module} import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_runtime_works_with_the_heavy_packages_blocked() -> None:
    code = f"""{BLOCK}
from lfpose_edge import PoseEstimator
from lfpose_edge.cli.predict import PHOTO
with PoseEstimator(threads=1, backend="onnxruntime") as pose:
    result = pose(PHOTO)
    result.draw(__import__("cv2").imread(str(PHOTO)))
print(result.keypoints.shape, sorted(set({BLOCKED!r}) & set(sys.modules)))
"""
    assert _run(code).strip() == "(1, 14, 2) []"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import lfpose_edge", ["numpy", "cv2", "onnxruntime", "pydantic"]),
        ("import lfpose_edge.cli.main", ["numpy", "cv2", "onnxruntime", "pydantic", "rich.console"]),
        ("import lfpose_edge.estimator", ["onnxruntime", "torch", "rich", "typer"]),
    ],
)
def test_what_an_import_leaves_unloaded(code: str, absent: list[str]) -> None:
    found = _run(f"{code}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])")
    assert found.strip() == "[]"


def test_a_machine_without_libgl_is_told_both_ways_out() -> None:
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
sys.meta_path.insert(0, Block())
from lfpose_edge.cli import main
sys.argv = ["lfpose", "demo"]
try:
    main.main()
except SystemExit as stop:
    print("exit code", stop.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
    assert "exit code 1" in done.stdout
    assert done.stderr.count("\n") == 1
    for words in ("libGL.so.1", "apt-get install libgl1", "opencv-python-headless"):
        assert words in done.stderr
