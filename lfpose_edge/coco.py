"""Reads persons from COCO JSON files, and from MPII annotation lists."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lfpose_edge.errors import SourceError, did_you_mean
from lfpose_edge.mpii import mpii_as_coco
from lfpose_edge.persons import AREA_OF_BOX, PersonTable, unlabelled_persons
from lfpose_edge.skeleton import Skeleton

Unlabelled = Literal["absent", "unknown"]

_LARGEST = 1e15  # pixels; larger values are rejected


def coco_tree(annotations: Path) -> Any:
    """Read a JSON file, with or without a byte order mark; an MPII annotation list is converted to COCO.

    Raises:
        OSError, ValueError, KeyError, TypeError: it is not a file, not JSON, or another kind of list.
    """
    tree = json.loads(annotations.read_text(encoding="utf-8-sig"))
    return mpii_as_coco(tree) if isinstance(tree, list) else tree


def read_coco_keypoints(
    annotations: Path,
    images: Path,
    skeleton: Skeleton,
    *,
    unlabelled: Unlabelled = "absent",
    names: Mapping[str, str | None] | None = None,
) -> PersonTable:
    """Read the persons that have at least one labelled joint.

    Joints are matched by name: joints of the file that ``skeleton`` lacks are left out, and joints that the
    file lacks stay unlabelled. ``names`` maps joints of ``skeleton`` to their names in the file where these
    differ, or to None where the file's joint of the same name is another joint. Crowd annotations are left
    out. ``unlabelled`` says whether an unlabelled joint counts as known to be absent or as unknown; a joint
    that the file has no column for is always unknown. MPII annotation lists
    (:func:`lfpose_edge.mpii.mpii_as_coco`) are read in the same way.

    Raises:
        SourceError: the file is missing or not COCO keypoints, shares no joint with the skeleton, has no
            labelled person or an unusable annotation, or names an image that is not in the folder.
    """
    try:
        tree = coco_tree(annotations)
        columns = _person_columns(tree)
        files = {number: images / name for number, name in _image_files(tree).items()}
        sizes = _image_sizes(tree)
        present = [a for a in persons_of(tree) if a.get("keypoints") and not is_crowd(a)]
    except FileNotFoundError as error:
        message = (
            f"no annotation file {annotations}; set --data or LFPOSE_DATA to the folder it is relative to"
        )
        raise SourceError(message) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"{annotations}: not a COCO-keypoints JSON ({type(error).__name__}: {error})"
        raise SourceError(message) from error

    shared = _shared_joints(annotations, columns, skeleton, names or {})
    for row, person in enumerate(present):
        problem = _problem(person, files, len(columns))
        if problem is None and any(person["keypoints"][2::3]):
            # Boxes of persons without joints are not used, and COCO 2017 has one without an area.
            problem = box_problem(person.get("bbox")) or _outside(person, sizes)
        if problem is not None:
            message = f"{annotations}: annotation {person.get('id', f'number {row}')}: {problem}"
            raise SourceError(message)
    persons = [person for person in present if any(person["keypoints"][2::3])]
    if not persons:
        message = f"{annotations}: no person has a labelled joint"
        raise SourceError(message)

    paths = [files[p["image_id"]] for p in persons]
    xywh = np.array([p["bbox"] for p in persons], np.float64)
    ids = np.array([(p["image_id"], p["id"]) for p in persons], np.int64)
    table = np.array([p["keypoints"] for p in persons], np.float64).reshape(len(persons), len(columns), 3)
    keypoints = np.zeros((len(persons), len(skeleton), 3))
    keypoints[:, list(shared)] = table[:, list(shared.values())]
    labelled = keypoints[..., 2] > 0
    in_file = np.isin(np.arange(len(skeleton)), list(shared))
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        message = f"{annotations} names an image that is not there: {missing}"
        raise SourceError(message)
    return PersonTable(
        images=paths,
        image_ids=ids[:, 0],
        annotation_ids=ids[:, 1],
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        joints=np.where(labelled[..., None], keypoints[..., :2] + 0.5, 0.0),
        labelled=labelled,
        known=labelled if unlabelled == "unknown" else np.tile(in_file, (len(persons), 1)),
        areas=np.array(
            [p.get("area") or AREA_OF_BOX * p["bbox"][2] * p["bbox"][3] for p in persons], np.float64
        ),
        skeleton=skeleton,
    )


def _shared_joints(
    annotations: Path, columns: Sequence[str], skeleton: Skeleton, names: Mapping[str, str | None]
) -> dict[int, int]:
    """The joints that skeleton and file share: a map from position in the skeleton to column in the file."""
    for joint, name in names.items():
        if joint not in skeleton.keypoints:
            hint = did_you_mean(joint, skeleton.keypoints)
            message = (
                f"no joint {joint!r} in skeleton {skeleton.name!r}, to be {name!r} in {annotations}; {hint}"
            )
            raise SourceError(message)
        if name is not None and name not in columns:
            message = f"{annotations} has no joint {name!r} to be {joint}; {did_you_mean(name, columns)}"
            raise SourceError(message)
    called = {joint: names.get(joint, joint) for joint in skeleton.keypoints}
    shared = {skeleton.index(j): columns.index(name) for j, name in called.items() if name in columns}
    if not shared:
        message = f"{annotations}: none of its joints ({', '.join(columns)}) is in skeleton {skeleton.name!r}"
        raise SourceError(message)
    return shared


def coco_persons(annotations: Path, *, anywhere: bool = False) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The tree of a COCO JSON and its persons, for uses that only need boxes; crowds are left out.

    MPII annotation lists are read in the same way, including persons without joints.

    Args:
        annotations: the file.
        anywhere: accept boxes outside their image.

    Raises:
        SourceError: the file is not COCO, has no person, or a person's box or image cannot be used.
    """
    try:
        tree = coco_tree(annotations)
        files, sizes = _image_files(tree), _image_sizes(tree)
        persons = [a for a in _called_persons(tree) if not is_crowd(a)]
    except FileNotFoundError as error:
        message = f"no annotation file {annotations}"
        raise SourceError(message) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"{annotations}: not a COCO JSON with person boxes ({type(error).__name__}: {error})"
        raise SourceError(message) from error
    if not persons:
        message = f"{annotations}: no person in it; crowds and other categories than person do not count"
        raise SourceError(message)
    taken = {a["id"] for a in persons if isinstance(a.get("id"), int)}
    free = itertools.filterfalse(taken.__contains__, itertools.count())
    for person in persons:
        if "id" not in person:
            person["id"] = next(free)
        problem = (
            _id_problem(person)
            or _image_problem(person, files)
            or _place_problem(files[person["image_id"]])
            or box_problem(person.get("bbox"))
            or (None if anywhere else _outside(person, sizes))
        )
        if problem is not None:
            message = f"{annotations}: annotation {person.get('id')}: {problem}"
            raise SourceError(message)
    return tree, persons


def read_coco_boxes(
    annotations: Path, images: Path, skeleton: Skeleton, *, names: Mapping[str, str | None] | None = None
) -> PersonTable:
    """Read the persons of a COCO JSON without their joints; see :func:`coco_persons`.

    With ``names``, as in :func:`read_coco_keypoints`, a file that declares joints must share one with the
    skeleton.
    """
    tree, persons = coco_persons(annotations)
    if names is not None and any(c.get("keypoints") for c in tree.get("categories", ())):
        try:
            columns = _person_columns(tree)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{annotations}: its joints cannot be read ({type(error).__name__}: {error})"
            raise SourceError(message) from error
        _shared_joints(annotations, columns, skeleton, names)
    files = {number: images / name for number, name in _image_files(tree).items()}
    boxes = np.array([p["bbox"] for p in persons], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    table = unlabelled_persons([files[p["image_id"]] for p in persons], boxes, skeleton)
    return replace(table, annotation_ids=np.array([p["id"] for p in persons], np.int64), exif=False)


def uncounted_persons(annotations: Path) -> list[dict[str, Any]]:
    """The annotations that COCO's evaluation ignores: crowds, and persons without a labelled joint.

    Args:
        annotations: a file that :func:`read_coco_keypoints` has read.

    Returns:
        ``image_id``, ``bbox``, ``area`` and ``iscrowd`` of each annotation whose box and image are usable.
    """
    tree = coco_tree(annotations)
    files = _image_files(tree)
    return [
        {
            "image_id": a["image_id"],
            "bbox": a["bbox"],
            "area": a["area"] if _numbers([a.get("area")], 1) else AREA_OF_BOX * a["bbox"][2] * a["bbox"][3],
            "iscrowd": int(is_crowd(a)),
        }
        for a in persons_of(tree)
        if (is_crowd(a) or not any((a.get("keypoints") or ())[2::3]))
        and box_problem(a.get("bbox")) is None
        and _image_problem(a, files) is None
    ]


def persons_of(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations of the person category in a COCO-keypoints tree, including crowds.

    Raises:
        ValueError: no category has joints, or several have and not exactly one of them is named person.
    """
    person = _person_category(tree)
    others = {c["id"] for c in tree["categories"] if c is not person and "id" in c}
    return [a for a in tree["annotations"] if a.get("category_id") not in others]


def _called_persons(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations of categories named person or unnamed; if there are none, of those with joints."""
    categories = tree.get("categories", ())
    called = [c for c in categories if c.get("name", "person") == "person"]
    persons = called or [c for c in categories if c.get("keypoints")]
    others = {c["id"] for c in categories if c not in persons and "id" in c}
    return [a for a in tree["annotations"] if a.get("category_id") not in others]


def _person_category(tree: dict[str, Any]) -> dict[str, Any]:
    located = [c for c in tree["categories"] if c.get("keypoints")]
    named = [c for c in located if c.get("name", "person") == "person"]
    if len(located) != 1 and len(named) != 1:
        names = ", ".join(str(c.get("name")) for c in located) or "none"
        message = f"one category of persons must have keypoints, those that have are: {names}"
        raise ValueError(message)
    category: dict[str, Any] = named[0] if len(named) == 1 else located[0]
    return category


def _person_columns(tree: dict[str, Any]) -> list[str]:
    """The joint names of a file; ValueError as in :func:`persons_of`, or if a name appears twice."""
    columns = [str(joint) for joint in _person_category(tree)["keypoints"]]
    if len(set(columns)) < len(columns):
        message = "a joint appears twice among the keypoints"
        raise ValueError(message)
    return columns


def is_crowd(person: dict[str, Any]) -> bool:
    """Whether a COCO annotation marks a crowd."""
    return person.get("iscrowd") not in (None, 0, "0", False)


def _image_files(tree: dict[str, Any]) -> dict[Any, Path]:
    """The file of every image id in a COCO tree; ValueError if two images share an id."""
    files = {image["id"]: Path(image["file_name"]) for image in tree["images"]}
    if len(files) < len(tree["images"]):
        message = "two images share an id"
        raise ValueError(message)
    return files


def _image_sizes(tree: dict[str, Any]) -> dict[Any, tuple[float, float]]:
    """Width and height by image id, for the images of a COCO tree that have them."""
    sizes = {image["id"]: [image.get("width"), image.get("height")] for image in tree["images"]}
    return {n: (size[0], size[1]) for n, size in sizes.items() if _numbers(size, 2) and min(size) > 0}


def _outside(person: dict[str, Any], sizes: dict[Any, tuple[float, float]]) -> str | None:
    """Why a person's box is outside the image, or None."""
    x, y, wide, tall = person["bbox"]
    width, height = sizes.get(person["image_id"], (math.inf, math.inf))
    if x < width and y < height and x + wide > 0 and y + tall > 0:
        return None
    how_large = f", which is {width} wide and {height} tall" if math.isfinite(width) else ""
    return f"bbox {person['bbox']} is outside its image{how_large}"


def _id_problem(person: dict[str, Any]) -> str | None:
    number = person.get("id")
    whole = type(number) is int and 0 <= number < 2**63
    return None if whole else "it needs an id, a whole number from 0 on"


def _image_problem(person: dict[str, Any], files: dict[Any, Path]) -> str | None:
    image = person.get("image_id")
    known = type(image) is int and 0 <= image < 2**63 and image in files
    return None if known else f"the file has no image {image!r}"


def _place_problem(file: Path) -> str | None:
    inside = not file.is_absolute() and ".." not in file.parts
    return None if inside else f"file_name {str(file)!r} must be relative to the folder of the images"


def _problem(person: dict[str, Any], files: dict[Any, Path], joints: int) -> str | None:
    """Why an annotation cannot be used, or None."""
    if (problem := _id_problem(person) or _image_problem(person, files)) is not None:
        return problem
    keypoints = person["keypoints"]
    if not _numbers(keypoints, 3 * joints):
        return f"keypoints must be x, y, v of {joints} joints, finite numbers"
    if not {0, 1, 2}.issuperset(keypoints[2::3]):
        return "a keypoint's v must be 0 (not labelled), 1 (hidden) or 2 (visible)"
    area = person.get("area") or 0.0
    if not _numbers([area], 1) or area < 0:
        return f"area must be a finite number from 0 on, got {area!r}"
    return None


def box_problem(bbox: Any) -> str | None:
    """Why a COCO ``bbox`` cannot be a person's, or None."""
    if _numbers(bbox, 4) and bbox[2] > 0 and bbox[3] > 0:
        return None
    return f"bbox must be x, y, width, height, finite and with an area, got {bbox!r}"


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, (int, float)) and -_LARGEST < v < _LARGEST for v in values)
    )
