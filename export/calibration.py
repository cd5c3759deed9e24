"""Crops for calibration and for proof: from a named rule, a folder, a COCO-keypoints JSON or an ``.npz``.

A named set is a rule, not a download: anyone with a copy of the data set gets the same persons. Random data
is never substituted for a set that is not there.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from lfpose_edge.export.crops import CropSet, Progress, cut_crops
from lfpose_edge.export.proof import judged_joints
from numpy.typing import NDArray

from lfpose_edge.bundle import Input
from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.detection import Detector, resolve_detector
from lfpose_edge.errors import CalibrationError, SourceError, did_you_mean
from lfpose_edge.persons import PersonTable, unlabelled_persons
from lfpose_edge.skeleton import COCO17, LSP14, Skeleton
from lfpose_edge.sources import images_in, load_image

logger = logging.getLogger("lfpose_edge")

FEWEST = 32
FEWEST_TO_SPLIT = 40  # a fifth of these may be held out
MOST_HELD_OUT = 256
ENOUGH_TO_JUDGE = 40  # persons with a dozen joints: one joint is then a fifth of a PCK point
FEWEST_TO_JUDGE = 8
_BLOCKS = 5  # runs of consecutive crops that are held out of a sequence


@dataclass(frozen=True)
class Subset:
    """A rule that picks persons of a public data set.

    Attributes:
        annotations: COCO-keypoints JSON, relative to the data root.
        images: folder of its images, likewise.
        held_out: annotations and images of its validation part, for the proof.
        skeleton: its joints.
        persons: how many are taken: those whose annotation ids have the smallest SHA-256.
        min_joints: labelled joints that a person must have.
        min_side: width and height that a person's box must have, pixels.
    """

    annotations: str
    images: str
    held_out: tuple[str, str]
    skeleton: Skeleton
    persons: int = 512
    min_joints: int = 8
    min_side: float = 96.0


SUBSETS = {
    "coco_subset": Subset(
        "coco/annotations/person_keypoints_train2017.json",
        "coco/train2017",
        ("coco/annotations/person_keypoints_val2017.json", "coco/val2017"),
        COCO17,
    ),
    "lspet_subset": Subset("lspet/train.json", "lspet/images", ("lspet/val.json", "lspet/images"), LSP14),
}


@dataclass(frozen=True)
class CalibrationSet:
    """Crops for the ranges and crops for the proof, which share no person.

    They share no image either, unless they come from two JSON files, or from a named set and a JSON file.

    Attributes:
        name: what the user called the set.
        crops: the crops that the ranges are observed on.
        held_out: the crops for the proof.
        asked: how many crops were asked for; ``crops`` may have fewer.
    """

    name: str
    crops: CropSet
    held_out: CropSet
    asked: int


def load_calibration_set(
    spec: str,
    how: Input,
    skeleton: Skeleton,
    *,
    data_root: Path,
    images: Path | None = None,
    proof: tuple[Path, Path] | None = None,
    detector: str | Detector | None = None,
    limit: int = 512,
    progress: Progress = iter,
) -> CalibrationSet:
    """Load a calibration set, and a held-out set for the proof.

    Without ``proof``, the held-out set is the validation part of a named set. Otherwise it is at least a
    fifth of the crops, more of a small set, in blocks spread over the whole set, because neighbouring frames
    of a video look alike. If a folder or an ``.npz`` has more crops than are needed, those taken are spread
    over all of it, too; with ``proof``, crops of images that are in the proof are left out. Equal crops count
    once. If there are fewer crops than were asked for, a warning is logged.

    Args:
        spec: a name in ``SUBSETS``; a folder of images; a COCO-keypoints JSON; or an ``.npz`` with ``crops``
            (N, H, W, 3) uint8 of the network's input size and ``color`` ("rgb" or "bgr").
        how: the bundle's input section: size, colour order, normalisation, padding.
        skeleton: the bundle's joints.
        data_root: folder that the paths of named sets are relative to.
        images: folder of the JSON's images; the folder ``images`` beside it when not given.
        proof: COCO-keypoints JSON and images folder of the held-out set.
        detector: person detector for a folder of images; None takes each image as one person.
        limit: largest number of crops for the ranges.
        progress: wraps the loop over crops, to show it.

    Raises:
        CalibrationError: there is no such set, or it has fewer than ``FEWEST`` usable crops.
        SourceError: an image or an annotation file cannot be read.
    """
    found = _load(spec, how, skeleton, data_root, images, proof, detector, limit, progress)
    if len(found.crops) < found.asked:
        logger.warning(
            "the ranges of calibration set %s are seen on %d persons; %d were asked for",
            spec,
            len(found.crops),
            found.asked,
        )
    return found


def _load(
    spec: str,
    how: Input,
    skeleton: Skeleton,
    data_root: Path,
    images: Path | None,
    proof: tuple[Path, Path] | None,
    detector: str | Detector | None,
    limit: int,
    progress: Progress,
) -> CalibrationSet:
    path = Path(spec)
    if not spec:
        message = "the calibration set has an empty name: give a name, a folder, a JSON or an .npz"
        raise CalibrationError(message)
    if spec in SUBSETS and limit > SUBSETS[spec].persons:
        message = (
            f"{spec} is {SUBSETS[spec].persons} persons, and {limit} are asked for: give a set of your own"
        )
        raise CalibrationError(message)
    if spec in SUBSETS:
        persons, asked = _named_subset(spec, data_root, skeleton), min(limit, SUBSETS[spec].persons)
        if proof is None:
            annotations, folder = (data_root / part for part in SUBSETS[spec].held_out)
            proof = (annotations, folder) if annotations.is_file() and folder.is_dir() else None
        if proof is None:
            logger.warning(
                "%s is not there, so a fifth of the persons of %s prove INT8, and no range is seen on these",
                annotations,
                spec,
            )
    elif path.is_dir() or (path.suffix == ".npz" and path.is_file()):
        if path.is_dir():
            given = cut_crops(_folder(path, skeleton, detector, limit, progress), how, progress).distinct()
        else:
            given = _from_npz(path, how, skeleton, limit + MOST_HELD_OUT).distinct()
        if proof is None:
            return CalibrationSet(spec, *_split(given, spec, limit), limit)
        held_out = load_proof(proof, how, skeleton, progress=progress)
        return CalibrationSet(spec, _beside(held_out, given, spec, limit), held_out, limit)
    elif path.suffix == ".json" and path.is_file():
        persons = _shuffled(read_coco_keypoints(path, images or path.parent / "images", skeleton))
        asked = limit
    else:
        message = (
            f"no calibration set {spec!r}: neither a folder, a COCO-keypoints JSON, an .npz nor a known set; "
            f"{did_you_mean(spec, SUBSETS)}"
        )
        raise CalibrationError(message)

    if proof is None:
        both = cut_crops(persons.first(asked + MOST_HELD_OUT), how, progress).distinct()
        return CalibrationSet(spec, *_split(both, spec, asked), asked)
    crops = cut_crops(persons.first(asked), how, progress).distinct()
    _require_enough(spec, len(crops))
    return CalibrationSet(spec, crops, load_proof(proof, how, skeleton, crops.marks, progress), asked)


def _split(both: CropSet, name: str, asked: int) -> tuple[CropSet, CropSet]:
    """Split a set into crops for the ranges and crops for the proof.

    The proof gets the crops that the ranges do not need (at most ``MOST_HELD_OUT``), but at least a fifth of
    all, and at least ``ENOUGH_TO_JUDGE`` as long as that leaves ``FEWEST`` for the ranges.
    """
    n = len(both)
    if n < FEWEST_TO_SPLIT:
        message = (
            f"calibration set {name!r} has {n} different persons, at least {FEWEST_TO_SPLIT} are needed: "
            f"{FEWEST} for the ranges, which do not hold for the next persons if seen on fewer, and "
            f"{FEWEST_TO_JUDGE} to prove INT8 on; or give these with --proof"
        )
        raise CalibrationError(message)
    for_proof = max(n // 5, min(ENOUGH_TO_JUDGE, n - FEWEST), min(n - asked, MOST_HELD_OUT))
    ends = [round((block + 1) * n / _BLOCKS) for block in range(_BLOCKS)]
    sizes = [len(part) for part in np.array_split(np.arange(for_proof), _BLOCKS)]
    proof = [row for end, size in zip(ends, sizes, strict=True) for row in range(end - size, end)]
    rest = sorted(set(range(n)) - set(proof))
    ranges = [rest[i] for i in _spread(len(rest), asked)]
    seen = {both.persons.images[row] for row in ranges}
    apart = [row for row in proof if both.persons.images[row] not in seen]
    _require_enough_to_judge(name, len(apart))
    return _by_chance(both, ranges), both.part(apart)


def _beside(held_out: CropSet, given: CropSet, name: str, asked: int) -> CropSet:
    """Crops for the ranges, spread over the whole set, without those of images that are in the proof."""
    proven = set(held_out.shown)
    apart = [row for row, image in enumerate(given.shown) if image not in proven]
    _require_enough(name, len(apart), len(given) - len(apart))
    return _by_chance(given, [apart[i] for i in _spread(len(apart), asked)])


def _by_chance(crops: CropSet, rows: list[int]) -> CropSet:
    """These crops, ordered by their marks so that the first few are spread over the whole set, too."""
    return crops.part(sorted(rows, key=lambda row: crops.marks[row]))


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` rows, evenly spread."""
    if count <= most:
        return list(range(count))
    return np.linspace(0, count - 1, most).round().astype(int).tolist()


def load_proof(
    proof: tuple[Path, Path],
    how: Input,
    skeleton: Skeleton,
    known: tuple[bytes, ...] = (),
    progress: Progress = iter,
) -> CropSet:
    """Crops to prove a model on: at most ``MOST_HELD_OUT`` persons of a set, the same ones on every machine.

    Each person has at least one labelled joint that counts (:func:`judged_joints`).

    Args:
        proof: COCO-keypoints JSON and images folder.
        how: the bundle's input section.
        skeleton: the bundle's joints.
        known: marks of crops to leave out because ranges are observed on them.
        progress: wraps the loop over crops, to show it.

    Raises:
        CalibrationError: fewer than ``FEWEST_TO_JUDGE`` persons are left.
        SourceError: an image or the annotation file cannot be read.
    """
    persons = _shuffled(read_coco_keypoints(*proof, skeleton))
    judged = persons.labelled[:, [skeleton.index(joint) for joint in judged_joints(skeleton)]]
    persons = persons.chosen(np.flatnonzero(judged.any(axis=1)).tolist())
    # Both sets may be the first persons of the same file, so cut as many more as may have to be left out.
    held_out = cut_crops(persons.first(MOST_HELD_OUT + len(known)), how, progress).distinct()
    apart = [row for row, mark in enumerate(held_out.marks) if mark not in set(known)][:MOST_HELD_OUT]
    _require_enough_to_judge(str(proof[0]), len(apart))
    return held_out.part(apart)


def _require_enough_to_judge(name: str, count: int) -> None:
    if count < FEWEST_TO_JUDGE:
        message = (
            f"{name} has {count} persons to prove the export on, at least {FEWEST_TO_JUDGE} are needed: "
            "those count of whom a limb is labelled, and that no range is made from"
        )
        raise CalibrationError(message)


def _require_enough(name: str, count: int, proven: int = 0) -> None:
    if count < FEWEST:
        message = (
            f"calibration set {name!r} has {count} persons for the ranges, at least {FEWEST} are needed: "
            "ranges seen on fewer do not hold for the next ones"
        )
        if proven:
            message += (
                f"; {proven} more are in images that --proof judges by: give other images, or the located "
                "persons as --calib alone, which keeps a part of them for the proof"
            )
        raise CalibrationError(message)


def _named_subset(name: str, root: Path, skeleton: Skeleton) -> PersonTable:
    subset = SUBSETS[name]
    annotations, images = root / subset.annotations, root / subset.images
    if not annotations.is_file() or not images.is_dir():
        missing = images if annotations.is_file() else annotations
        message = (
            f"calibration set {name!r} needs {subset.annotations} and the images in {subset.images} under "
            f"{root} (--data or LFPOSE_DATA); {missing} is not there"
        )
        raise CalibrationError(message)
    own = read_coco_keypoints(annotations, images, subset.skeleton)
    sides = own.boxes[:, 2:] - own.boxes[:, :2]
    usable = (own.labelled.sum(axis=1) >= subset.min_joints) & (sides >= subset.min_side).all(axis=1)
    chosen = set(_shuffled(own.chosen(np.flatnonzero(usable).tolist())).first(subset.persons).annotation_ids)
    # Read again with the network's joints, because the proof may use these persons.
    persons = _shuffled(read_coco_keypoints(annotations, images, skeleton))
    return persons.chosen([row for row, a in enumerate(persons.annotation_ids) if a in chosen])


def annotation_order(annotation_id: int) -> str:
    """A sort key for persons that is unrelated to the order of their file."""
    return hashlib.sha256(str(annotation_id).encode()).hexdigest()


def _shuffled(persons: PersonTable) -> PersonTable:
    ids = persons.annotation_ids
    return persons.chosen(sorted(range(len(persons)), key=lambda row: annotation_order(int(ids[row]))))


def _folder(
    folder: Path, skeleton: Skeleton, detector: str | Detector | None, limit: int, progress: Progress
) -> PersonTable:
    try:
        files = images_in(folder, deep=True)
    except SourceError as error:
        message = f"no calibration set: {error}"
        raise CalibrationError(message) from error
    find = resolve_detector(detector)
    images: list[Path] = []
    boxes: list[NDArray[np.floating]] = []
    most = limit + MOST_HELD_OUT
    for i in progress(_spread(len(files), most)):
        file = files[i]
        image = load_image(file)
        height, width = image.shape[:2]
        found = [np.array([0, 0, width, height])] if find is None else list(find(image)[0])
        images += [file] * len(found)
        boxes += found
    if not boxes:
        message = f"calibration folder {folder}: the detector finds no person in its {len(files)} images"
        raise CalibrationError(message)
    persons = unlabelled_persons(images, np.array(boxes, np.float64), skeleton)
    return persons.chosen(_spread(len(persons), most))


def _from_npz(path: Path, how: Input, skeleton: Skeleton, most: int) -> CropSet:
    try:
        # Opened here because np.load leaves a file open if it turns out not to be an archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            crops, color = archive["crops"], str(archive["color"])
    except (OSError, ValueError, KeyError, IndexError, EOFError, BadZipFile, zlib.error) as error:
        message = f"{path} is no calibration set: an .npz with 'crops' and 'color' ({error})"
        raise CalibrationError(message) from error
    height, width = how.size
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (height, width, 3):
        got = f"{crops.dtype} {crops.shape}"
        message = f"{path}: crops must be uint8 (N, {height}, {width}, 3), the network's input, got {got}"
        raise CalibrationError(message)
    if color not in ("rgb", "bgr"):
        message = f"{path}: color must be 'rgb' or 'bgr', got {color!r}"
        raise CalibrationError(message)
    crops = crops[_spread(len(crops), most)]
    ordered = crops if color == how.color else crops[..., ::-1]
    normal = (ordered.astype(np.float32) - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)
    boxes = np.tile(np.array([0.0, 0.0, width, height]), (len(crops), 1))
    return CropSet(
        np.ascontiguousarray(normal.transpose(0, 3, 1, 2)),
        np.tile(np.array([[1.0, 0, 0], [0, 1, 0]]), (len(crops), 1, 1)),
        unlabelled_persons([path / str(i) for i in range(len(crops))], boxes, skeleton),
        tuple(hashlib.sha256(color.encode() + crop.tobytes()).digest() for crop in crops),
    )
