"""A page for answering a question sheet: one HTML file for a browser, without a server.

It shows every region in its picture, asks which joints can be seen there, keeps the answers in the browser,
and saves them as a sheet that trainings read (template: ``tag_page.html``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

from lfpose_edge.errors import SourceError
from lfpose_edge.files import write_text_whole
from lfpose_edge.sources import load_stored
from lfpose_edge.train.data.tags import PLACE, Tags, sheet_rows

TEMPLATE = Path(__file__).with_suffix(".html")
SHOWN = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp"))  # image types that browsers show


def write_page(
    path: Path, tags: Tags, images: Path, name: str, *, show: Callable[[list[str]], Iterable[str]] = iter
) -> None:
    """Write the page of a sheet; answers that the sheet already has are shown as given.

    Args:
        path: the .html file to write. It refers to the images by relative paths: neither may be moved alone.
        tags: the sheet.
        images: folder of its images.
        name: name of the file that the browser saves.
        show: wraps the loop over the images.

    Raises:
        SourceError: an image is missing, is of a kind that browsers do not show, or is stored rotated; or
            ``path`` does not end in .html or .htm.
        OSError: the page cannot be written.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        message = f"{path}: a page's name ends in .html"
        raise SourceError(message)
    sources = {}
    for image in show(list(dict.fromkeys(tags.images))):
        file = images / image
        if not file.is_file():
            message = f"the sheet asks about {file}, which is not there: give the folder of its images"
            raise SourceError(message)
        if file.suffix.lower() not in SHOWN:
            message = f"browsers do not show {file}: store it as JPEG or PNG, and make the sheet anew"
            raise SourceError(message)
        load_stored(file, upright=True)
        sources[image] = _address(file, path.parent)
    rows = list(sheet_rows(tags))
    places = [[str(value) for value in place.values()] for place, _ in rows]
    sheet = {
        "name": name,
        "columns": PLACE,
        "joints": tags.skeleton.keypoints,
        "rows": places,
        "answers": [list(answers.values()) for _, answers in rows],
        "sources": sources,
    }
    # The key of the answers kept in the browser: unique to this sheet and the location of its images.
    key = hashlib.sha256(json.dumps([str(images.absolute()), sheet]).encode()).hexdigest()[:16]
    # Escape "<", so that no name can close the HTML element that holds the data.
    data = json.dumps({"key": key, **sheet}).replace("<", "\\u003c")
    write_text_whole(path, TEMPLATE.read_text(encoding="utf-8").replace("{{sheet}}", data))


def _address(image: Path, folder: Path) -> str:
    """URL of an image for a page in a folder: relative, except on another drive."""
    try:
        return quote(Path(os.path.relpath(image.absolute(), folder.absolute())).as_posix())
    except ValueError:
        return image.absolute().as_uri()
