"""``lfpose data people``: find the people in a folder of images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from lfpose_edge.cli.errors import list_left_out
from lfpose_edge.coco_writing import coco_persons_tree, person_annotation
from lfpose_edge.console import plain_console
from lfpose_edge.detection import resolve_detector
from lfpose_edge.errors import SourceError
from lfpose_edge.files import require_writable, write_text_whole
from lfpose_edge.persons import AREA_OF_BOX
from lfpose_edge.sources import Image, images_in, load_stored


def run_people(folder: Path, out: Path, detector: str | None, *, keep_going: bool) -> None:
    """Find the people and write their boxes."""
    console = plain_console(stderr=True)
    if out.suffix.lower() != ".json":
        message = f"{out}: the name of a COCO JSON ends in .json"
        raise SourceError(message)
    require_writable(out)
    unreadable: list[SourceError] = []
    on_unreadable = unreadable.append if keep_going else None
    try:
        found = find_people(folder, detector, console, on_unreadable=on_unreadable)
        write_text_whole(out, json.dumps(found) + "\n")
        people, images, looked_at = len(found["annotations"]), len(found["images"]), found["info"]["images"]
        console.print(f"wrote {out}: {people} people in {images} of {looked_at} images")
    finally:
        list_left_out(unreadable)
    if unreadable:
        raise typer.Exit(1)


def find_people(
    frames: Path,
    detector: str | None,
    console: Console,
    *,
    on_unreadable: Callable[[SourceError], None] | None = None,
) -> dict[str, Any]:
    """The people in a folder of images, as a COCO tree of boxes.

    Args:
        frames: folder of images, which may be in subfolders.
        detector: path or name of the detector; "none" takes every image as one person.
        console: for the progress bar.
        on_unreadable: called with the error of each image that cannot be read or is stored rotated; the image
            is then left out. Without it the error is raised.

    Raises:
        SourceError: the folder holds no image, one cannot be read, or nobody is found.
    """
    files = image_files(frames)
    find = resolve_detector(None if detector == "none" else detector)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    read = opened(files, "looking for people", console, on_unreadable=on_unreadable)
    for number, (file, image) in enumerate(read, 1):
        height, width = image.shape[:2]
        boxes, scores = np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32)
        if find is not None:
            boxes, scores = find(image)
        if len(boxes):
            name = file.relative_to(frames).as_posix()
            images.append({"id": number, "file_name": name, "width": width, "height": height})
        for (x1, y1, x2, y2), score in zip(boxes.tolist(), scores.tolist(), strict=True):
            facts = {"area": AREA_OF_BOX * (x2 - x1) * (y2 - y1), "score": score}
            annotations.append(person_annotation(len(annotations) + 1, number, (x1, y1, x2, y2), **facts))
    if not annotations:
        message = f"the detector found nobody in the {number} images of {frames}: is this the right folder?"
        raise SourceError(message)
    looked_at = {"images": number}  # the tree lists only those with people
    return coco_persons_tree(images, annotations, info=looked_at)


def image_files(frames: Path) -> list[Path]:
    """The images in a folder and its subfolders, whose names a JSON must be able to hold.

    Raises:
        SourceError: there is no folder or no image, or a name is not UTF-8 text.
    """
    if not frames.is_dir():
        message = f"{frames} is no folder: give a folder of images"
        raise SourceError(message)
    files = images_in(frames, deep=True)
    odd = next((p for p in files if not _is_text(str(p.relative_to(frames)))), None)
    if odd is not None:
        message = f"the name of {str(odd)!r} is no text in UTF-8, and a JSON cannot hold it: rename it"
        raise SourceError(message)
    return files


def opened(
    files: Sequence[Path],
    doing: str,
    console: Console,
    *,
    on_unreadable: Callable[[SourceError], None] | None = None,
) -> Iterator[tuple[Path, Image]]:
    """Yield images as training reads them, at least one; ``on_unreadable`` is that of :func:`find_people`.

    Raises:
        SourceError: an image cannot be read or is stored rotated, or none can be used.
    """
    left_out = 0
    for file in track(files, doing, console=console, disable=not console.is_terminal):
        try:
            image = load_stored(file, upright=True)
        except SourceError as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)
            left_out += 1
            continue
        yield file, image
    if left_out == len(files):
        message = f"none of the {len(files)} images can be used, such as {files[0]}"
        raise SourceError(message)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
