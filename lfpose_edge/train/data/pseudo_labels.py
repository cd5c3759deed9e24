"""Pseudo-labels: another model (the teacher) labels persons of whom only the boxes are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lfpose_edge import ops
from lfpose_edge.coco import coco_persons
from lfpose_edge.coco_writing import coco_persons_tree, joint_entries
from lfpose_edge.errors import BackendUnavailable, BundleError, SourceError
from lfpose_edge.files import require_writable, write_text_whole
from lfpose_edge.geometry import apply_affine, crop_affines
from lfpose_edge.skeleton import COCO17, Skeleton
from lfpose_edge.sources import load_stored

Image = NDArray[np.uint8]
Box = NDArray[np.float64]
Joints = NDArray[np.float64]


class Teacher(Protocol):
    """Finds one person's joints.

    Attributes:
        skeleton: the K joints that it knows.
    """

    skeleton: Skeleton

    def __call__(self, image: Image, box: Box) -> Joints:
        """(H, W, 3) BGR and x1, y1, x2, y2 to (K, 3): x, y in continuous image coordinates, and score."""
        ...


class BundleTeacher:
    """A pose model of this package."""

    def __init__(self, model: str) -> None:
        from lfpose_edge.estimator import PoseEstimator

        self._estimator = PoseEstimator(model)
        self.skeleton = self._estimator.skeleton

    def __call__(self, image: Image, box: Box) -> Joints:
        """See :class:`Teacher`."""
        found = self._estimator(image, box)
        return np.concatenate([found.keypoints[0], found.scores[0][:, None]], axis=1).astype(np.float64)


class MoveNetTeacher:
    """A single-pose MoveNet in TFLite form: uint8 RGB in, (1, 1, 17, 3) of y, x, score in [0, 1] out."""

    skeleton = COCO17

    def __init__(self, file: Path) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            message = f"{file} needs a TFLite interpreter: pip install ai-edge-litert"
            raise BackendUnavailable(message) from error
        try:
            self._interpreter = Interpreter(str(file))
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, OSError) as error:
            message = f"cannot load {file}: {error}"
            raise BundleError(message) from error
        inlet, outlet = (
            f()[0] for f in (self._interpreter.get_input_details, self._interpreter.get_output_details)
        )
        _, height, width, _ = (int(n) for n in inlet["shape"])
        if inlet["dtype"] is not np.uint8 or [int(n) for n in outlet["shape"]] != [1, 1, 17, 3]:
            message = (
                f"{file} is no single-pose MoveNet with uint8 input: it gives {outlet['shape'].tolist()}"
            )
            raise BundleError(message)
        self._size, self._inlet, self._outlet = (height, width), inlet["index"], outlet["index"]

    def __call__(self, image: Image, box: Box) -> Joints:
        """See :class:`Teacher`."""
        affines = crop_affines(box, self._size, padding=1.0)
        crop = ops.preprocess(image, affines, self._size, swap_rb=True, dtype=np.uint8)
        self._interpreter.set_tensor(self._inlet, np.ascontiguousarray(crop.transpose(0, 2, 3, 1)))
        self._interpreter.invoke()
        y, x, score = self._interpreter.get_tensor(self._outlet)[0, 0].astype(np.float64).T
        places = np.stack([x * self._size[1], y * self._size[0]], axis=1)
        return np.concatenate([apply_affine(affines[0], places), score[:, None]], axis=1)


def open_teacher(name: str) -> Teacher:
    """A MoveNet by its ``.tflite`` file, or a shipped model or bundle."""
    return MoveNetTeacher(Path(name)) if name.lower().endswith(".tflite") else BundleTeacher(name)


@dataclass(frozen=True)
class Views:
    """The views of a person that a teacher is shown.

    Attributes:
        quarter_turns: numbers of counterclockwise quarter turns of the picture. The most confident answer
            among them is taken: a teacher is trained on upright people, and an upside-down person is upright
            after two quarter turns.
        grows: factors by which the person's box is enlarged. A MoveNet takes the box for the whole picture;
            1 is best for boxes around joints, more may be for looser ones.
        mirrored: show the mirrored picture too.
    """

    quarter_turns: tuple[int, ...] = (0, 1, 2, 3)
    grows: tuple[float, ...] = (0.9, 1.0, 1.15, 1.3)
    mirrored: bool = True


AGREE = 0.15  # of the box's longer side: largest distance at which views agree on a joint's place


def look(teacher: Teacher, image: Image, box: Box, views: Views) -> Joints:
    """Ask a teacher about a person in several views, and take what most of them agree on.

    Every size, mirrored or not, has one vote on every joint, weighted by its score. The place with the most
    votes within reach wins; the joint is at the weighted mean of these, and its score is their sum divided by
    the number of views. A place that only one of many views finds thus has a low score, however sure that
    view is.

    Args:
        teacher: the model to ask.
        image: (H, W, 3) BGR.
        box: x1, y1, x2, y2.
        views: the views to show.

    Returns:
        (K, 3) x, y, score.
    """
    height, width = image.shape[:2]
    box = np.clip(box, 0, np.array([width, height, width, height]))
    center, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    answers = []
    for grow in views.grows:
        shown = np.concatenate([center - half * grow, center + half * grow])
        answers.append(_look_in_turns(teacher, image, shown, views.quarter_turns))
        if views.mirrored:
            other_way = np.array([width - shown[2], shown[1], width - shown[0], shown[3]])
            mirrored = np.ascontiguousarray(image[:, ::-1])
            joints = _look_in_turns(teacher, mirrored, other_way, views.quarter_turns)
            joints[:, 0] = width - joints[:, 0]
            answers.append(joints[teacher.skeleton.flip_permutation])
    return _agreed(np.stack(answers), AGREE * float((box[2:] - box[:2]).max()))


def _agreed(answers: Joints, reach: float) -> Joints:
    """Combine the answers of V views, (V, K, 3), to (K, 3)."""
    places, scores = np.nan_to_num(answers[..., :2]), answers[..., 2]
    apart = np.linalg.norm(places[:, None] - places[None], axis=3)  # (V, V, K)
    near = (apart <= reach) * scores
    votes: Joints = near.sum(axis=1)
    joints = np.arange(answers.shape[1])
    winner = votes.argmax(axis=0)
    weights = near[winner, :, joints]  # (K, V)
    total = weights.sum(axis=1)
    mean = np.einsum("kv,vkc->kc", weights, places) / np.where(total > 0, total, 1)[:, None]
    place = np.where(total[:, None] > 0, mean, places[winner, joints])
    return np.concatenate([place, total[:, None] / len(answers)], axis=1)


def _look_in_turns(teacher: Teacher, image: Image, box: Box, quarter_turns: Iterable[int]) -> Joints:
    answers = [_look_turned(teacher, image, box, turns) for turns in quarter_turns]
    return max(answers, key=lambda joints: float(joints[:, 2].mean()))


def _look_turned(teacher: Teacher, image: Image, box: Box, turns: int) -> Joints:
    height, width = image.shape[:2]
    # Affines from image coordinates (x, y) to those of the turned image.
    a = np.array(
        [
            [[1, 0, 0], [0, 1, 0]],
            [[0, 1, 0], [-1, 0, width]],
            [[-1, 0, width], [0, -1, height]],
            [[0, -1, height], [1, 0, 0]],
        ],
        np.float64,
    )[turns % 4]
    corners = apply_affine(a, box.reshape(2, 2))
    turned_box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    joints = teacher(np.ascontiguousarray(np.rot90(image, turns)), turned_box)
    joints[:, :2] = (joints[:, :2] - a[:, 2]) @ a[:, :2]  # the turn's inverse is its transpose
    return joints


@dataclass(frozen=True)
class Labelled:
    """Numbers of persons and joints that a teacher labelled, and of persons it was asked about."""

    persons: int
    joints: int
    asked: int


def label_persons(
    annotations: Path,
    images: Path,
    out: Path,
    teacher: Teacher,
    *,
    teacher_name: str,
    min_score: float = 0.3,
    views: Views = Views(),  # noqa: B008  (frozen)
    show: Callable[[list[Any]], Iterable[Any]] = iter,
    on_unusable: Callable[[SourceError], None] | None = None,
) -> Labelled:
    """Write a COCO-keypoints JSON of what a teacher sees in the boxes of another COCO JSON's persons.

    Joints below ``min_score`` stay without a location, and persons without any joint are left out. A
    recipe that trains on the file says ``unlabelled: unknown``.

    Args:
        annotations: COCO JSON with images and person boxes; its joints, if any, are not used.
        images: folder of its images.
        out: path of the new JSON.
        teacher: the labelling model.
        teacher_name: name for the record in the file.
        min_score: least score of a joint to be kept.
        views: what the teacher is shown of each person.
        show: wraps the loop over persons, to show progress.
        on_unusable: called with the error for each person that is skipped because the image cannot be read
            or does not show the box; if None, the first of these errors is raised.

    Raises:
        SourceError: the file is not COCO, an image cannot be read, or no joint was found at all.
        OSError: ``out`` cannot be written; raised before the work starts.
    """
    if out.resolve() == annotations.resolve():
        message = f"--out {out} is the file to label: give another path"
        raise SourceError(message)
    require_writable(out)
    tree, persons = coco_persons(annotations, anywhere=True)  # boxes are checked against the images
    files = {image["id"]: images / image["file_name"] for image in tree["images"]}

    labelled: list[dict[str, Any]] = []
    unseen = 0
    for person in show(persons):
        try:
            image, box = _shown(person, files[person["image_id"]], annotations)
        except SourceError as error:
            if on_unusable is None:
                raise
            on_unusable(error)
            unseen += 1
            continue
        joints = look(teacher, image, box, views)  # type: ignore[arg-type]
        believed = joints[:, 2] >= min_score
        if believed.any():
            kept = {key: person[key] for key in ("image_id", "bbox", "area") if key in person}
            found = joint_entries(joints[:, :2], 2 * believed, decimals=2)
            labelled.append({"id": person["id"], "category_id": 1, "iscrowd": 0, **kept, **found})
    if unseen == len(persons):
        message = f"{annotations}: of none of its {unseen} persons there is a picture to look at"
        raise SourceError(message)
    if not labelled:
        message = f"{teacher_name} found no joint with a score of {min_score:g} in the boxes of {annotations}"
        raise SourceError(message)
    record = {"labelled_by": teacher_name, "min_score": min_score, **asdict(views)}
    result = coco_persons_tree(tree["images"], labelled, teacher.skeleton, info=record)
    write_text_whole(out, json.dumps(result) + "\n")
    return Labelled(len(labelled), sum(p["num_keypoints"] for p in labelled), len(persons))


def _shown(person: dict[str, Any], path: Path, annotations: Path) -> tuple[Image, Box]:
    """Load a person's image, and the box as x1, y1, x2, y2; SourceError if the image does not show it."""
    image = load_stored(path)
    x, y, width, height = person["bbox"]
    box = np.array([x, y, x + width, y + height], np.float64)
    rows, columns = image.shape[:2]
    if min(box[2], columns) <= max(box[0], 0) or min(box[3], rows) <= max(box[1], 0):
        message = f"{annotations}: annotation {person['id']} has a box outside of {path}"
        raise SourceError(message)
    return image, box
