"""A page on which people answer a question sheet: one HTML file for any browser, without a server.

It shows every region in its picture, asks which joints can be seen there, keeps the answers in the browser,
and saves them as a sheet that trainings read (``tag_page.html``).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from urllib.parse import quote

from lfpose_edge.errors import SourceError
from lfpose_edge.files import write_text_whole
from lfpose_edge.train.data.tags import PLACE, Tags, sheet_rows

TEMPLATE = Path(__file__).with_suffix(".html")


def write_page(path: Path, tags: Tags, images: Path, name: str) -> None:
    """Write the page of a sheet; answers that the sheet has are shown as given.

    Args:
        path: of the page, from where it finds the images: neither may be moved without the other.
        tags: the sheet.
        images: folder of its images.
        name: of the file that the browser saves.

    Raises:
        SourceError: an image is not there.
        OSError: the page cannot be written.
    """
    sources = {}
    for image in dict.fromkeys(tags.images):
        if not (images / image).is_file():
            message = (
                f"the sheet asks about {images / image}, which is not there: give the folder of its images"
            )
            raise SourceError(message)
        sources[image] = _address(images / image, path.parent)
    rows = list(sheet_rows(tags))
    places = [[str(value) for value in place.values()] for place, _ in rows]
    asked = json.dumps([tags.skeleton.keypoints, places])
    sheet = {
        "key": hashlib.sha256(asked.encode()).hexdigest()[:16],
        "name": name,
        "columns": PLACE,
        "joints": tags.skeleton.keypoints,
        "rows": places,
        "answers": [list(answers.values()) for _, answers in rows],
        "sources": sources,
    }
    data = json.dumps(sheet).replace("<", "\\u003c")  # no name may end the element that holds it
    write_text_whole(path, TEMPLATE.read_text(encoding="utf-8").replace("{{sheet}}", data))


def _address(image: Path, folder: Path) -> str:
    """Of an image, for a page in a folder: relative, but on another drive."""
    try:
        return quote(Path(os.path.relpath(image.resolve(), folder.resolve())).as_posix())
    except ValueError:
        return image.resolve().as_uri()
