"""Models known by name: bundles inside the package, and person detectors to download."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from lfpose_edge.bundle import MANIFEST
from lfpose_edge.errors import BundleError, did_you_mean
from lfpose_edge.files import write_bytes_whole

logger = logging.getLogger("lfpose_edge")

SHIPPED = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Download:
    """A file on the network.

    Attributes:
        url: where to download it.
        sha256: its expected checksum.
        licence: its licence.
    """

    url: str
    sha256: str
    licence: str


_SAMPLE = "https://raw.githubusercontent.com/Kazuhito00"
DETECTORS = {
    "yolox-nano": Download(
        f"{_SAMPLE}/YOLOX-ONNX-TFLite-Sample/ac07155e3ac8a531d89d24204e50f364d3444275/model/yolox_nano.onnx",
        "695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14",
        "Apache-2.0",
    ),
    "yolox-person-192": Download(
        f"{_SAMPLE}/Person-Detection-using-RaspberryPi-CPU/fab8c0d1129b391e8aaf0a4e557dd5bb812e749f/model/model.onnx",
        "4bf5f704cd3bd900645a4303e0934ede13d9fb2135058b38005f4c2886c68576",
        "Apache-2.0",
    ),
}


def model_names() -> list[str]:
    """Names of the bundles inside the package."""
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{MANIFEST}"))


def bundle_path(model: str | os.PathLike[str]) -> Path:
    """The folder of a bundle, given the name of a shipped one or its path.

    Raises:
        BundleError: it is neither; the message suggests the nearest name.
        TypeError: ``model`` is neither a str nor a path.
    """
    if not isinstance(model, str | os.PathLike):
        message = f"a model is a shipped one's name or a bundle's folder, got {type(model).__name__}"
        raise TypeError(message)
    text = os.fspath(model)
    if text in model_names():
        if (Path(text) / "manifest.json").is_file():
            logger.warning("%s is the shipped model; the folder of that name here is ./%s", text, text)
        return SHIPPED / text
    # Unlike Path's methods, these return False for a name that is too long.
    if text and os.path.isdir(text):  # noqa: PTH112
        return Path(text)
    if os.path.isfile(text):  # noqa: PTH113
        message = f"{text} is a file; a model is the folder of a bundle"
        if (Path(text).parent / "manifest.json").is_file():
            message += f", here {Path(text).parent}"
        elif text.endswith((".pt", ".onnx")):
            message += f": lfpose-export {text} --out BUNDLE makes one"
        raise BundleError(message)
    hint = did_you_mean(text, model_names())
    message = f"no model {text!r}: neither a shipped model nor a bundle's folder; {hint}"
    raise BundleError(message)


def detector_path(detector: str | os.PathLike[str], cache_dir: Path | None = None) -> Path:
    """The ONNX file of a person detector, given a name in ``DETECTORS`` or its path.

    A named detector is downloaded once into the cache folder (``~/.cache/lfpose_edge``, or
    ``$LFPOSE_CACHE``), and its sha256 is checked before it appears there.

    Raises:
        BundleError: it is neither a file nor a known name, or the download failed, has another checksum, or
            cannot be stored.
    """
    text = os.fspath(detector)
    if os.path.isfile(text):  # noqa: PTH113
        return Path(text)
    if text not in DETECTORS:
        message = f"no detector {text!r}: neither a file nor a known name; {did_you_mean(text, DETECTORS)}"
        raise BundleError(message)
    folder = cache_dir or default_cache_dir()
    path = folder / f"{text}-{DETECTORS[text].sha256[:12]}.onnx"
    if not os.path.isfile(path):  # noqa: PTH113
        _require_room(path)
        _download(DETECTORS[text], path)
    return path


def default_cache_dir() -> Path:
    """The folder for downloads and compiled engines: ``$LFPOSE_CACHE``, or the user's cache folder."""
    if given := os.environ.get("LFPOSE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lfpose_edge"


def _require_room(path: Path) -> None:
    """Raise BundleError before the download if the file could not be stored; no folder is made yet."""
    folders = path.absolute().parents
    nearest = next(folder for folder in folders if os.path.lexists(folder))
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise _not_kept(path, f"{nearest} is no folder that can be written to")


def _not_kept(path: Path, why: str) -> BundleError:
    return BundleError(f"cannot keep {path.name}: {why}; name another folder with cache_dir or $LFPOSE_CACHE")


def _download(source: Download, path: Path) -> None:
    try:
        with urllib.request.urlopen(source.url, timeout=60) as reply:
            data: bytes = reply.read()
    except (OSError, http.client.HTTPException) as error:
        message = f"cannot fetch {source.url} ({error}); fetch it elsewhere and give the file's path instead"
        raise BundleError(message) from error
    found = hashlib.sha256(data).hexdigest()
    if found != source.sha256:
        message = f"{source.url} gave a file with sha256 {found}, expected {source.sha256}; it was not kept"
        raise BundleError(message)
    try:
        write_bytes_whole(path, data)
    except OSError as error:
        raise _not_kept(path, f"{error.filename}: {error.strerror}") from error
