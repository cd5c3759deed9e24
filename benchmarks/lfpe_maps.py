"""What networks of ``lfpe.py`` look at: the class activation maps of a few joints on the packaged photo.

    python benchmarks/lfpe_maps.py "14 answers=runs/lfpe/0+14-answers-96-10-0/last.pt" ... --out maps.jpg

A row is a checkpoint, labelled with the text before the "="; a column is a joint. A tile shows where the
network takes the joint to be: the softmax of the map over its cells, with the likeliest cell brightest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lfpose_edge.cli.predict import PHOTO
from lfpose_edge.files import write_bytes_whole
from lfpose_edge.persons import unlabelled_persons
from lfpose_edge.skeleton import Skeleton
from lfpose_edge.train.evaluate import predict_maps
from lfpose_edge.train.start import trained_network

TILE, MARGIN, LINE = 200, 150, 26  # pixels: a tile's side, room for a row's name, and for a joint's
PADDING = 1.25  # of the box, which is the photo; the tile shows the photo alone
GLOW_BGR = (40, 170, 255)
FONT = (cv2.FONT_HERSHEY_SIMPLEX, 0.48, (235, 235, 235), 1, cv2.LINE_AA)


def maps_on_photo(checkpoint: Path) -> tuple[NDArray[np.float32], Skeleton]:
    """CAMs (K, h, w), logits, of a trained network on the photo, which one person fills; and its joints."""
    network, recipe = trained_network(checkpoint)
    height, width = cv2.imread(str(PHOTO)).shape[:2]
    person = unlabelled_persons([PHOTO], np.array([[0.0, 0.0, width, height]]), recipe.joints)
    return predict_maps(network, person, recipe.input_size, PADDING)[0][0], recipe.joints


def tile(cam: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The photo (TILE, TILE, 3), dark where a square map is low and glowing where it is high."""
    photo = cv2.resize(cv2.imread(str(PHOTO)), (TILE, TILE), interpolation=cv2.INTER_AREA)
    likely = np.exp(cam - cam.max())
    side = round(PADDING * TILE)
    whole = cv2.resize(likely, (side, side), interpolation=cv2.INTER_LINEAR)
    border = (side - TILE) // 2
    shown = np.sqrt(whole[border : border + TILE, border : border + TILE])[..., None]
    glow = np.broadcast_to(np.array(GLOW_BGR, np.float32), photo.shape)
    return np.asarray((1 - 0.75 * shown) * 0.55 * photo + 0.75 * shown * glow, np.uint8)


def picture(rows: dict[str, Path], joints: list[str]) -> NDArray[np.uint8]:
    """A row of tiles for every checkpoint, with names above and beside."""
    canvas = np.full((LINE + TILE * len(rows), MARGIN + TILE * len(joints), 3), 24, np.uint8)
    for column, joint in enumerate(joints):
        cv2.putText(canvas, joint.replace("_", " "), (MARGIN + TILE * column + 6, LINE - 8), *FONT)
    for row, (name, checkpoint) in enumerate(rows.items()):
        top = LINE + TILE * row
        for line, words in enumerate(name.split(", ")):
            cv2.putText(canvas, words, (8, top + TILE // 2 + 20 * line), *FONT)
        cams, skeleton = maps_on_photo(checkpoint)
        for column, joint in enumerate(joints):
            left = MARGIN + TILE * column
            canvas[top : top + TILE, left : left + TILE] = tile(cams[skeleton.index(joint)])
    return canvas


def named(argument: str) -> tuple[str, Path]:
    """Parse ``NAME=CHECKPOINT``."""
    name, given, path = argument.partition("=")
    if not given or not Path(path).is_file():
        message = f"give NAME=CHECKPOINT of a file that there is, not {argument!r}"
        raise argparse.ArgumentTypeError(message)
    return name, Path(path)


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="+", type=named, metavar="NAME=CHECKPOINT")
    parser.add_argument(
        "--joints",
        nargs="+",
        default=["head_top", "neck", "right_shoulder", "left_shoulder", "left_elbow"],
        metavar="JOINT",
    )
    parser.add_argument("--out", type=Path, required=True, help="a .jpg or .png file")
    options = parser.parse_args()
    if options.out.suffix not in (".jpg", ".png"):
        parser.error(f"--out must end in .jpg or .png, got {options.out}")
    made = picture(dict(options.rows), options.joints)
    write_bytes_whole(
        options.out, cv2.imencode(options.out.suffix, made, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    )
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
