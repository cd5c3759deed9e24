"""Tags: yes/no answers about which joints can be seen in a picture or a part of it, without their locations.

A question sheet has a row for every region of a person's picture that is asked about, and a column for every
joint. The paper (Location-Free Human Pose Estimation, CVPR 2022) has one row per person, the whole box; more
rows are this project's own: an answer costs a second, and ten of them say more about a joint's place than
one. Sheets are made from person boxes alone, once, before any training: this fixes, and allows to count, what
the answers may reveal about locations.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.errors import SourceError, did_you_mean
from lfpose_edge.files import write_text_whole
from lfpose_edge.persons import PersonTable
from lfpose_edge.skeleton import Skeleton

YES, NO, OPEN = 1, 0, -1
_WORDS = {"yes": YES, "no": NO, "": OPEN}
_ROUNDING = 0.02  # pixels
_LEAST_SIDE, _FARTHEST = 1.0, 1e6  # pixels: least side and largest coordinate of a box to ask about
_GRID = 40  # cells along each side of a box
PLACE = ("person", "image", "box_x1", "box_y1", "box_x2", "box_y2", "x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Tags:
    """What was asked about R regions, and the answers.

    Attributes:
        persons: (R,) int64, COCO annotation id of the person that a region belongs to.
        images: R image file names, relative to the folder of images.
        boxes: (R, 4) float64, the person's box, x1, y1, x2, y2 in image pixels; itself a weak location.
        regions: (R, 4) float64, the region that was asked about, likewise.
        answers: (R, K) int8: 1 the joint can be seen inside the region, 0 it cannot, -1 not answered.
        skeleton: the K joints.
    """

    persons: NDArray[np.int64]
    images: list[str]
    boxes: NDArray[np.float64]
    regions: NDArray[np.float64]
    answers: NDArray[np.int8]
    skeleton: Skeleton

    def __len__(self) -> int:
        return len(self.images)

    @property
    def given(self) -> int:
        """The number of answers given, i.e. of bits of supervision."""
        return int((self.answers != OPEN).sum())

    def rows_by_person(self) -> list[list[int]]:
        """The rows of each of P persons, in the sheet's order; a person is an image and an annotation id."""
        rows: dict[tuple[str, int], list[int]] = {}
        for row, key in enumerate(zip(self.images, self.persons.tolist(), strict=True)):
            rows.setdefault(key, []).append(row)
        return list(rows.values())

    def rates(self) -> NDArray[np.float64]:
        """(K,) rate of yes among the answers about a joint; NaN where there is no answer."""
        return _rates(self.answers)

    def without(self, persons: PersonTable, folder: Path) -> Tags:
        """The sheet without these persons.

        Args:
            persons: the persons to leave out, by image and annotation id.
            folder: folder of this sheet's images.
        """
        images = {name: (folder / name).resolve() for name in set(self.images)}
        out = {
            (path.resolve(), int(number))
            for path, number in zip(persons.images, persons.annotation_ids, strict=True)
        }
        kept = [
            row
            for row, (name, number) in enumerate(zip(self.images, self.persons, strict=True))
            if (images[name], int(number)) not in out
        ]
        return replace(
            self,
            persons=self.persons[kept],
            images=[self.images[row] for row in kept],
            boxes=self.boxes[kept],
            regions=self.regions[kept],
            answers=self.answers[kept],
        )


def make_questions(persons: PersonTable, folder: Path, regions: int, seed: int = 0) -> Tags:
    """Choose the regions to ask about: every person's whole box, then tiles of it.

    Tiles depend on (seed, annotation id) and the box alone, and are 30 to 70 % of it along each side: a
    person gets the same tiles in every sheet, and a sheet with more regions begins with those of fewer.

    Args:
        persons: the persons to ask about; their joints are not used.
        folder: folder of their images.
        regions: regions per person, each with K questions.
        seed: seed of the tiles.

    Raises:
        SourceError: two persons of an image share an id, or a box is too small or too far away.
    """
    if regions < 1:
        message = f"at least one region a person is asked about, not {regions}"
        raise ValueError(message)
    sides = persons.boxes[:, 2:] - persons.boxes[:, :2]
    for number, path, box, side in zip(
        persons.annotation_ids.tolist(), persons.images, persons.boxes.tolist(), sides, strict=True
    ):
        if side.min() < _LEAST_SIDE or np.abs(box).max() > _FARTHEST:
            message = f"nobody can be asked about person {number} of {path.name}, whose box is {box}"
            raise SourceError(message)
    keys = Counter(zip(persons.images, persons.annotation_ids.tolist(), strict=True))
    twice = next((key for key, count in keys.items() if count > 1), None)
    if twice is not None:
        message = f"two persons of {twice[0].name} have the id {twice[1]}: answers could not tell them apart"
        raise SourceError(message)
    rows = np.repeat(np.arange(len(persons)), regions)
    boxes = persons.boxes[rows]
    tiles = np.concatenate(
        [
            _tiles(box, regions, np.random.default_rng((seed, int(number))))
            for box, number in zip(persons.boxes, persons.annotation_ids, strict=True)
        ]
    )
    return Tags(
        persons=persons.annotation_ids[rows],
        images=[persons.images[row].relative_to(folder).as_posix() for row in rows],
        boxes=boxes,
        regions=tiles,
        answers=np.full((len(rows), len(persons.skeleton)), OPEN, np.int8),
        skeleton=persons.skeleton,
    )


def _tiles(box: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, 4): a box and tiles of it, rounded to hundredths of a pixel, as a sheet stores them."""
    corner, extent = box[:2], box[2:] - box[:2]
    drawn = rng.uniform(0, 1, (count - 1, 4))
    side = extent * (0.3 + 0.4 * drawn[:, :2])
    first = corner + drawn[:, 2:] * (extent - side)
    return np.concatenate([box[None], np.concatenate([first, first + side], axis=1)]).round(2)


def simulate_answers(tags: Tags, persons: PersonTable, *, mistakes: float = 0.0, seed: int = 0) -> Tags:
    """Answer every question from located joints; for research.

    A joint counts as seen in a region if its location is there. Unknown joints stay open, as do all questions
    about persons who are not in the table.

    Args:
        tags: the questions.
        persons: persons whose joints answer them.
        mistakes: the probability that an answer is inverted, drawn once for the sheet.
        seed: seed of the mistakes.

    Raises:
        SourceError: the skeletons differ, or a person of the sheet has another image or box in the table.
    """
    if tags.skeleton.keypoints != persons.skeleton.keypoints:
        message = f"the sheet asks about {tags.skeleton.name!r}, the persons have {persons.skeleton.name!r}"
        raise SourceError(message)
    rows = located_rows(tags, persons)
    found = (rows >= 0)[:, None]
    joints, labelled, known = persons.joints[rows], persons.labelled[rows], persons.known[rows] & found
    low, high = tags.regions[:, None, :2], tags.regions[:, None, 2:]
    inside = labelled & (joints >= low).all(axis=2) & (joints < high).all(axis=2)
    wrong = np.random.default_rng(seed).random(inside.shape) < mistakes
    return replace(tags, answers=np.where(known, inside ^ wrong, OPEN).astype(np.int8))


def located_rows(tags: Tags, persons: PersonTable) -> NDArray[np.intp]:
    """For each row of a sheet, its person's row in a table, or -1.

    Raises:
        SourceError: no person is in the table, or one has another image or box there.
    """
    places: dict[int, list[int]] = {}
    for row, number in enumerate(persons.annotation_ids.tolist()):
        places.setdefault(number, []).append(row)
    found = []
    for number, name in zip(tags.persons.tolist(), tags.images, strict=True):
        same = places.get(number, [-1])  # ids may be unique only within an image
        found.append(next((row for row in same if persons.images[row].name == Path(name).name), same[0]))
    rows = np.array(found, np.intp)
    if (rows < 0).all():
        message = "no person of the sheet is among the located persons"
        raise SourceError(message)
    for number, name, box, row in zip(tags.persons, tags.images, tags.boxes, rows, strict=True):
        if row < 0:
            continue
        if persons.images[row].name != Path(name).name or np.abs(persons.boxes[row] - box).max() > _ROUNDING:
            message = f"person {number} of the sheet has another image or box among the located persons"
            raise SourceError(message)
    return rows


def places_left(tags: Tags) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The part of each box where a joint may be, if all answers are right.

    Returns:
        (P, K) that part's share of the box, for the P persons in the sheet's order; and (P, K, 2) its centre,
        in image pixels. If no place agrees with all answers, it is the whole box.
    """
    cells = (np.arange(_GRID) + 0.5) / _GRID
    grid = np.stack(np.meshgrid(cells, cells), axis=2).reshape(-1, 2)  # of a box of side 1
    persons = tags.rows_by_person()
    left = np.empty((len(persons), len(tags.skeleton)))
    middle = np.empty((*left.shape, 2))
    for i, rows in enumerate(persons):
        box = tags.boxes[rows[0]]
        corner, extent = box[:2], box[2:] - box[:2]
        places = corner + grid * extent
        against = _against(tags, rows, places)
        agreed = (against == 0) | (against > 0).all(axis=1, keepdims=True)
        left[i] = agreed.mean(axis=1)
        middle[i] = agreed @ places / agreed.sum(axis=1, keepdims=True)
    return left, middle


def _against(tags: Tags, rows: list[int], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, N) how many of the answers in these rows are wrong if a joint is at each of N places, (N, 2)."""
    regions, answers = tags.regions[rows, None], tags.answers[rows].T
    inside = ((places >= regions[..., :2]) & (places < regions[..., 2:])).all(axis=2).astype(float)
    return (answers == YES) @ (1 - inside) + (answers == NO) @ inside  # type: ignore[no-any-return]


def contradictions(tags: Tags) -> NDArray[np.bool_]:
    """(P, K) whether the answers about a person's joint contradict each other: there is a yes, but no place
    that is in all regions with a yes and in none with a no.
    """
    persons = tags.rows_by_person()
    found = np.zeros((len(persons), len(tags.skeleton)), bool)
    for i, rows in enumerate(persons):
        regions = tags.regions[rows]
        columns, lines = (np.unique(regions[:, axis::2]) for axis in (0, 1))  # nothing changes in between
        places = np.stack(np.meshgrid(columns, lines), axis=2).reshape(-1, 2)
        found[i] = (tags.answers[rows] == YES).any(axis=0) & (_against(tags, rows, places) > 0).all(axis=1)
    return found


def write_tags(path: Path, tags: Tags) -> None:
    """Write a sheet as CSV, for people and spreadsheets, or as JSON, depending on the path's suffix."""
    rows = [{**place, **answers} for place, answers in sheet_rows(tags)]
    if _is_json(path):
        tree = {"joints": list(tags.skeleton.keypoints), "regions": rows}
        write_text_whole(path, json.dumps(tree, indent=1) + "\n")
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, [*PLACE, *tags.skeleton.keypoints], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_whole(path, text.getvalue())


def sheet_rows(tags: Tags) -> Iterator[tuple[dict[str, int | str | float], dict[str, str]]]:
    """Yield a sheet's rows as they are written: the place by ``PLACE`` column, and the answers by joint."""
    words = {value: word for word, value in _WORDS.items()}
    numbers = np.concatenate([tags.boxes, tags.regions], axis=1).tolist()
    for person, image, place, answers in zip(tags.persons, tags.images, numbers, tags.answers, strict=True):
        yield (
            dict(zip(PLACE, [int(person), image, *place], strict=True)),
            {joint: words[int(a)] for joint, a in zip(tags.skeleton.keypoints, answers, strict=True)},
        )


def sheet_cells(path: Path) -> list[dict[str, Any]]:
    """The raw cells of a sheet's rows, by column: ``PLACE``, and the joints of any skeleton.

    Raises:
        SourceError: the file is not a sheet.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
        rows = json.loads(text)["regions"] if _is_json(path) else _csv_rows(text)
        columns = list(rows[0])
    except FileNotFoundError as error:
        message = f"no tag sheet at {path}"
        raise SourceError(message) from error
    except IndexError as error:
        message = f"{path} has no region in it"
        raise SourceError(message) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        message = f"{path}: not a tag sheet ({type(error).__name__}: {error})"
        raise SourceError(message) from error
    lacking = [name for name in PLACE if name not in columns]
    if lacking:
        message = f"{path}: a tag sheet has a column {lacking[0]!r}"
        raise SourceError(message)
    return rows  # type: ignore[no-any-return]


def read_tags(path: Path, skeleton: Skeleton) -> Tags:
    """Read a sheet; joints without a column are left open.

    Raises:
        SourceError: the file is not a sheet, has a joint that the skeleton lacks, an answer other than yes,
            no or nothing, a region without area, or a person with two boxes; the message says where.
    """
    rows = sheet_cells(path)
    joints = [name for name in rows[0] if name not in PLACE]
    for joint in joints:
        if joint not in skeleton.keypoints:
            hint = did_you_mean(joint, skeleton.keypoints)
            message = f"{path}: {joint!r} is no joint of skeleton {skeleton.name!r}; {hint} (--skeleton)"
            raise SourceError(message)

    answers = np.full((len(rows), len(skeleton)), OPEN, np.int8)
    places = np.zeros((len(rows), 8))
    persons = np.zeros(len(rows), np.int64)
    for i, row in enumerate(rows):
        try:
            if row.keys() != rows[0].keys():
                other = ", ".join(sorted(map(str, row.keys() ^ rows[0].keys())))
                message = f"it has not the columns of the first: {other}"
                raise ValueError(message)
            persons[i], places[i] = int(str(row["person"])), [float(row[name]) for name in PLACE[2:]]
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            message = f"{path}: region {i + 1}: a place is a number ({error})"
            raise SourceError(message) from error
        for joint in joints:
            word = "" if row[joint] is None else str(row[joint]).strip()
            if word.lower() not in _WORDS:
                message = f"{path}: region {i + 1}, {joint}: an answer is yes, no or nothing, not {word!r}"
                raise SourceError(message)
            answers[i, skeleton.index(joint)] = _WORDS[word.lower()]
    corners = places.reshape(len(rows), 2, 2, 2)
    bad = ~(np.isfinite(places).all(axis=1) & (corners[:, :, 1] > corners[:, :, 0]).all(axis=(1, 2)))
    if bad.any():
        message = f"{path}: region {int(bad.argmax()) + 1} or its box has no area"
        raise SourceError(message)
    images = [str(row["image"]) for row in rows]
    tags = Tags(persons, images, places[:, :4], places[:, 4:], answers, skeleton)
    for one in tags.rows_by_person():
        if np.ptp(tags.boxes[one], axis=0).max() > _ROUNDING:
            message = f"{path}: person {persons[one[0]]} of {images[one[0]]} has several boxes"
            raise SourceError(message)
    return tags


def _csv_rows(text: str) -> list[dict[str, str]]:
    """Rows of a table separated by commas or, as some spreadsheets write it, semicolons or tabs.

    Their additions are skipped: a first line that names the separator, empty rows, and unnamed empty columns.
    """
    if text.startswith("sep="):
        text = text.partition("\n")[2]
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=next((c for c in ";\t" if c in header), ","))
    names = [name for name in reader.fieldnames or () if name]
    if len(set(names)) != len(names):
        message = "a column appears twice"
        raise ValueError(message)
    rows = [row for row in reader if any(row.values())]
    for row in rows:
        if not row.get(""):
            row.pop("", None)
    longer = next((i for i, row in enumerate(rows) if None in row), None)
    if longer is not None:
        message = f"region {longer + 1} has more cells than there are columns"
        raise ValueError(message)
    return rows


def _rates(answers: NDArray[np.int8]) -> NDArray[np.float64]:
    asked = (answers != OPEN).sum(axis=0)
    return np.divide((answers == YES).sum(axis=0), asked, where=asked > 0, out=np.full(len(asked), np.nan))


def require_both_answers(sheets: Sequence[Tags], where: str, taught: Collection[str] = ()) -> None:
    """Raise SourceError if a joint lacks a yes or a no over all sheets, unless located persons have it."""
    faults: dict[str, list[str]] = {}
    rates = _rates(np.concatenate([tags.answers for tags in sheets])).tolist()
    for joint, rate in zip(sheets[0].skeleton.keypoints, rates, strict=True):
        if joint not in taught and not 0 < rate < 1:
            said = {0.0: "never yes", 1.0: "always yes"}.get(rate, "never given")
            faults.setdefault(said, []).append(joint)
    if faults:
        parts = (f"the answer about {', '.join(joints)} is {said}" for said, joints in faults.items())
        message = f"{where}: {', and '.join(parts)}; a training needs examples of both for every joint"
        raise SourceError(message)


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"
