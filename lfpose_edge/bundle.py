"""A model on disk: a folder with a manifest, ONNX files and a card, with checksums.

The manifest holds every fact that training and deployment must share. The training export writes it;
all other code reads it, and nothing is inferred from file names.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lfpose_edge.errors import BundleError
from lfpose_edge.skeleton import Skeleton

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
REPORT = "report"  # prefix of files with timings, which differ between runs and are not part of the model

Precision = Literal["fp32", "int8-cpu", "int8-trt"]
Positive = Annotated[float, Field(gt=0)]
Triple = tuple[float, float, float]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class JointSet(_Section):
    """The skeleton, spelled out so that a bundle does not depend on a registry."""

    name: str
    keypoints: tuple[str, ...] = Field(min_length=1)
    edges: tuple[tuple[str, str], ...]
    sigmas: tuple[float, ...]


class Input(_Section):
    """How crops are made for the network."""

    size: tuple[Annotated[int, Field(gt=0, le=4096)], Annotated[int, Field(gt=0, le=4096)]]
    """Crop height and width in pixels."""
    color: Literal["rgb", "bgr"] = "rgb"
    mean: Triple
    """Subtracted from the pixels; grey levels 0 to 255, in the order of ``color``."""
    std: tuple[Positive, Positive, Positive]
    """Divides the result; same units and order."""
    padding: Positive
    """Ratio of the crop's size to the box's."""
    border: Triple = (0.0, 0.0, 0.0)
    """Grey levels outside the image, in the order of ``color``."""


class Decode(_Section):
    """How CAMs become joints."""

    cam_stride: Positive
    """Crop pixels per CAM cell."""
    upsample: Annotated[int, Field(ge=1, le=64)]
    """Factor of the virtual bilinear upsampling."""
    method: Literal["none", "quarter", "dark", "softargmax"]
    blur_sigma: Annotated[float, Field(gt=0, le=8)] = 1.0
    """Standard deviation of the blur in cells; for ``dark``."""
    window: Annotated[int, Field(ge=1, le=16)] = 2
    """Radius in cells; for ``softargmax``."""
    presence_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Joints with a lower presence count as absent."""


VERSION = r"^[0-9A-Za-z][0-9A-Za-z.+_-]*$"


class File(_Section):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Manifest(_Section):
    schema_version: int
    name: Annotated[str, Field(min_length=1)]
    version: Annotated[str, Field(pattern=VERSION)]
    joints: JointSet
    input: Input
    decode: Decode
    models: dict[Precision, str] = Field(min_length=1)
    """File name by precision. Every ONNX model takes ``crops`` and returns ``cams`` and ``presence``."""
    files: dict[str, File]
    """Checksums of every file except the manifest and the report."""
    provenance: dict[str, Any] = {}
    """Where the weights come from: recipe, data, command, commit."""

    @property
    def cams_shape(self) -> tuple[int, int, int]:
        """Joints, rows and columns of one person's CAMs."""
        rows, columns = (round(side / self.decode.cam_stride) for side in self.input.size)
        return len(self.joints.keypoints), rows, columns


@dataclass(frozen=True)
class Bundle:
    """An opened and verified bundle.

    Attributes:
        path: the bundle's folder.
        manifest: the contents of its manifest.
        skeleton: its joints.
    """

    path: Path
    manifest: Manifest
    skeleton: Skeleton

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open a bundle and check every file against its checksum.

        Raises:
            BundleError: the folder or a file is missing or damaged, or the schema version is not supported.
        """
        folder = Path(path)
        if not folder.is_dir():
            message = f"no bundle at {folder}: not a folder"
            raise BundleError(message)
        manifest = _read_manifest(folder / MANIFEST)
        for name, file in manifest.files.items():
            _check_file(folder, name, file)
        unlisted = set(manifest.models.values()) - manifest.files.keys()
        if unlisted:
            message = f"{folder / MANIFEST}: model file {min(unlisted)!r} has no checksum under 'files'"
            raise BundleError(message)
        try:
            skeleton = Skeleton(**manifest.joints.model_dump())
        except (KeyError, ValueError) as error:
            message = f"{folder / MANIFEST}: {error}"
            raise BundleError(message) from error
        return cls(folder, manifest, skeleton)

    def model_file(self, precision: Precision) -> Path:
        """The ONNX file of a precision; BundleError if the bundle has none."""
        name = self.manifest.models.get(precision)
        if name is None:
            have = ", ".join(self.manifest.models)
            message = (
                f"bundle {self.manifest.name!r} has no {precision} model (it has {have}); "
                "use a precision that it has"
            )
            raise BundleError(message)
        return self.path / name


def write_manifest(folder: Path, facts: dict[str, Any]) -> Manifest:
    """Write a folder's manifest, with the checksum of every other file in it except the report.

    Args:
        folder: a folder that holds all of the bundle's other files.
        facts: the manifest's entries except ``schema_version`` and ``files``.

    Returns:
        The manifest that was written.
    """
    parts = (p for p in folder.iterdir() if p.is_file() and not p.name.startswith(REPORT))
    names = sorted(p.name for p in parts if p.name != MANIFEST)
    files = {name: _describe(folder / name) for name in names}
    manifest = Manifest.model_validate({"schema_version": SCHEMA_VERSION, **facts, "files": files})
    text = json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def _read_manifest(path: Path) -> Manifest:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        message = f"{path.parent} is not a bundle: it has no {MANIFEST}"
        raise BundleError(message) from None
    except (OSError, ValueError, RecursionError) as error:
        message = f"{path} cannot be read: {error}"
        raise BundleError(message) from error
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if version != SCHEMA_VERSION:
        message = (
            f"{path} has schema version {version!r}; this lfpose-edge reads version {SCHEMA_VERSION}: "
            "install the release that wrote the bundle, or export the model again"
        )
        raise BundleError(message)
    try:
        return Manifest.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = f"{path}: {key}: {first['msg']}"
        raise BundleError(message) from None


def _check_file(folder: Path, name: str, expected: File) -> None:
    path = folder / name
    if Path(name).name != name:
        message = f"{folder / MANIFEST} names a file outside the bundle: {name!r}"
        raise BundleError(message)
    if not path.is_file():
        message = f"{path} is missing: copy the whole bundle again"
        raise BundleError(message)
    found = _describe(path)
    if found != expected.model_dump():
        message = (
            f"{path} is damaged: {found['bytes']} bytes with sha256 {found['sha256'][:12]}..., "
            f"expected {expected.bytes} with {expected.sha256[:12]}...; copy the bundle again"
        )
        raise BundleError(message)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
    return {"sha256": digest.hexdigest(), "bytes": path.stat().st_size}


def _digest(file: Any) -> Any:
    return hashlib.sha256(file.read())
