"""CrowdPose's average precision and MPII's PCKh, as the field computes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from lfpose_edge.coco import read_coco_boxes, read_coco_keypoints, uncounted_persons
from lfpose_edge.errors import SourceError
from lfpose_edge.metrics.accuracy import measure
from lfpose_edge.metrics.oks_ap import crowd_ap, oks_ap
from lfpose_edge.metrics.pckh import MpiiTruth, pckh, read_mpii_truth
from lfpose_edge.mpii import mpii_as_coco
from lfpose_edge.results import person_scores
from lfpose_edge.skeleton import COCO17, CROWDPOSE14, LSP14, MPII16


def crowd(seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """People in twelve images of every crowd index, and guesses that are the worse the fuller an image is."""
    rng = np.random.default_rng(seed)
    images, annotations, predictions = [], [], []
    for number in range(1, 13):
        index = round(0.09 * (number - 1), 2)
        images.append({"id": number, "crowdIndex": index})
        for _ in range(1 + number // 2):
            corner, size = rng.uniform(0, 300, 2), rng.uniform(60, 200, 2)
            places = corner + rng.uniform(0, 1, (14, 2)) * size
            v = rng.choice([0, 1, 2], 14, p=[0.15, 0.15, 0.7])
            if len(annotations) % 9 == 8:
                v = np.minimum(v, 1)  # nobody sees anything of this one: she is not asked for
            table = np.column_stack([places * (v > 0)[:, None], v])
            common = {"image_id": number, "category_id": 1}
            annotations.append(
                {
                    **common,
                    "id": len(annotations) + 1,
                    "iscrowd": 0,
                    "keypoints": table.ravel().tolist(),
                    "num_keypoints": int((v == 2).sum()),
                    "bbox": [*corner.tolist(), *size.tolist()],
                }
            )
            guess = places + rng.normal(0, 2 + 14 * index, (14, 2))
            predictions.append(
                {
                    **common,
                    "keypoints": np.column_stack([guess, np.ones(14)]).ravel().tolist(),
                    "score": float(rng.uniform()),
                }
            )
    category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE14.keypoints)}
    return {"images": images, "annotations": annotations, "categories": [category]}, predictions


# What xtcocotools 1.14.3 gives for crowd(): iou type keypoints_crowd, use_area=False.
EXPECTED = {
    "ap": 0.255209,
    "ap50": 0.730643,
    "ap75": 0.117939,
    "ar": 0.409302,
    "ar50": 0.860465,
    "ar75": 0.302326,
    "easy": 0.9042,
    "medium": 0.404,
    "hard": 0.07,
}


def test_crowdposes_numbers_are_those_of_its_own_evaluation() -> None:
    truth, predictions = crowd()
    before = json.dumps(truth)
    found = vars(crowd_ap(truth, predictions, CROWDPOSE14))
    assert json.dumps(truth) == before
    assert found == pytest.approx(EXPECTED, abs=1e-4)  # levels are rounded there
    assert found["easy"] > found["medium"] > found["hard"]
    assert set(vars(crowd_ap(truth, [], CROWDPOSE14)).values()) == {0.0}


def test_precision_is_minus_one_where_nobody_counts() -> None:
    truth, _ = crowd()
    unasked = [{**person, "num_keypoints": 0} for person in truth["annotations"]]
    hard = {image["id"] for image in truth["images"] if image["crowdIndex"] >= 0.8}
    some = [a for a, b in zip(unasked, truth["annotations"], strict=True) if b["image_id"] in hard]
    others = [person for person in truth["annotations"] if person["image_id"] not in hard]
    nobody = {**truth, "annotations": unasked}
    assert set(vars(oks_ap(nobody, [], CROWDPOSE14)).values()) == {-1.0}
    assert set(vars(crowd_ap(nobody, [], CROWDPOSE14)).values()) == {-1.0}
    found = vars(crowd_ap({**truth, "annotations": [*others, *some]}, [], CROWDPOSE14))
    assert (found["ap"], found["easy"], found["medium"], found["hard"]) == (0.0, 0.0, 0.0, -1.0)


def test_counts_that_a_file_leaves_out_are_made() -> None:
    truth, predictions = crowd()
    bare = [
        {k: v for k, v in a.items() if k not in ("iscrowd", "num_keypoints")} for a in truth["annotations"]
    ]
    counted = [{**a, "num_keypoints": sum(v > 0 for v in a["keypoints"][2::3])} for a in truth["annotations"]]
    found = crowd_ap({**truth, "annotations": bare}, predictions, CROWDPOSE14)
    assert found == crowd_ap({**truth, "annotations": counted}, predictions, CROWDPOSE14)


def test_a_level_without_images_is_not_0() -> None:
    truth, predictions = crowd()
    empty = {**truth, "images": [{**image, "crowdIndex": 0.1} for image in truth["images"]]}
    found = crowd_ap(empty, predictions, CROWDPOSE14)
    assert (found.medium, found.hard) == (-1.0, -1.0)
    assert found.easy == pytest.approx(found.ap, abs=1e-6)
    del empty["images"][0]["crowdIndex"]
    with pytest.raises(ValueError, match="crowdIndex"):
        crowd_ap(empty, predictions, CROWDPOSE14)


def test_crowdposes_own_people(shared_data: Path) -> None:
    folder = shared_data / "data" / "eval" / "crowdpose"
    persons = read_coco_keypoints(folder / "test_crowdpose.json", folder, CROWDPOSE14)
    truth = json.loads((folder / "test_crowdpose.json").read_text(encoding="utf-8"))
    with_joints = [a for a in truth["annotations"] if any(a["keypoints"][2::3])]
    assert persons.areas.tolist() == [0.53 * a["bbox"][2] * a["bbox"][3] for a in with_joints]
    exact = [{**a, "score": 1.0} for a in with_joints]
    found = crowd_ap(truth, exact, CROWDPOSE14)
    assert found.ap == pytest.approx(1.0)
    levels = {name: getattr(found, name) for name in ("easy", "medium", "hard")}
    indices = [image["crowdIndex"] for image in truth["images"]]
    there = {
        "easy": min(indices) < 0.2,
        "medium": any(0.2 <= i < 0.8 for i in indices),
        "hard": max(indices) >= 0.8,
    }
    assert levels == pytest.approx({name: 1.0 if there[name] else -1.0 for name in levels})


def test_cocos_numbers_are_those_of_its_own_evaluation(shared_data: Path) -> None:
    """MoveNet's joints on real people; pycocotools was given the files as they are."""
    annotations, images = (shared_data / "data" / "coco_mini" / name for name in ("train.json", "images"))
    folder = shared_data / "data" / "eval"
    truth = json.loads(annotations.read_text(encoding="utf-8"))
    guesses = json.loads(
        (folder / "movenet_lightning_int8_on_coco_mini_train_gtbox.json").read_text(encoding="utf-8")
    )
    expected = json.loads((folder / "expected_coco_mini_pycocotools.json").read_text(encoding="utf-8"))[
        "train"
    ]
    stats = dict(zip(expected["names"], expected["stats"], strict=True))
    found = oks_ap(truth, guesses, COCO17)
    names = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_medium": "APm", "ap_large": "APl", "ar": "AR"}
    assert vars(found) == pytest.approx({ours: stats[theirs] for ours, theirs in names.items()})
    # Read as persons the same boxes are asked for, and ranked as the field ranks.
    persons = read_coco_keypoints(annotations, images, COCO17)
    table = np.array([g["keypoints"] for g in guesses]).reshape(-1, 17, 3)
    assert len(table) == len(persons)
    ranked = [
        {**g, "score": score} for g, score in zip(guesses, person_scores(table[..., 2]).tolist(), strict=True)
    ]
    uncounted = uncounted_persons(annotations)
    assert len(uncounted) == len(truth["annotations"]) - len(persons) > 0
    ours = measure(table[..., :2] + 0.5, persons, table[..., 2], uncounted=uncounted).oks
    assert vars(ours) == pytest.approx(vars(oks_ap(truth, ranked, COCO17)))
    held_against = measure(table[..., :2] + 0.5, persons, table[..., 2]).oks
    assert held_against.ap < ours.ap - 0.005


def _perfect() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Everybody's joints, found to the pixel."""
    truth, _ = crowd()
    return truth, [{**a, "score": 1.0} for a in truth["annotations"]]


def test_a_joint_that_is_not_a_number_is_never_right() -> None:
    truth, perfect = _perfect()
    nowhere = [{**p, "keypoints": [math.nan] * len(p["keypoints"])} for p in perfect]
    assert oks_ap(_with_areas(truth), perfect, CROWDPOSE14).ap == pytest.approx(1.0)
    assert set(vars(oks_ap(_with_areas(truth), nowhere, CROWDPOSE14)).values()) == {0.0}
    assert crowd_ap(truth, nowhere, CROWDPOSE14).ap == 0.0
    one = [{**p, "keypoints": [math.inf, *p["keypoints"][1:]]} for p in perfect]
    assert 0 < oks_ap(_with_areas(truth), one, CROWDPOSE14).ap < 1


def _with_areas(truth: dict[str, Any]) -> dict[str, Any]:
    people = [{**a, "area": a["bbox"][2] * a["bbox"][3]} for a in truth["annotations"]]
    return {**truth, "annotations": people}


def test_ids_and_other_categories_are_no_matter() -> None:
    truth, perfect = _perfect()
    expected = crowd_ap(truth, perfect, CROWDPOSE14)
    assert (expected.easy, expected.medium, expected.hard) == pytest.approx((1.0, 1.0, 1.0))
    same = [{**a, "id": 0} for a in truth["annotations"]]
    dog = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 9, 9], "keypoints": []}
    odd = {
        **truth,
        "annotations": [*same, dog],
        "categories": [*truth["categories"], {"id": 2, "name": "dog"}],
    }
    assert crowd_ap(odd, perfect, CROWDPOSE14) == expected
    odd["annotations"] = [*_with_areas(truth)["annotations"], dog]
    assert oks_ap(odd, perfect, CROWDPOSE14) == oks_ap(_with_areas(truth), perfect, CROWDPOSE14)


def _mpii(n: int = 40) -> MpiiTruth:
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 400, (n, 2))
    heads = np.concatenate([corner, corner + rng.uniform(20, 60, (n, 2))], axis=1)
    return MpiiTruth(rng.uniform(1, 600, (n, 16, 2)), rng.random((n, 16)) > 0.2, heads)


def test_pckh_by_hand() -> None:
    """Half of 0.6 of the head's diagonal; MATLAB counts pixels from 1; hips and thorax are left out."""
    truth = MpiiTruth(
        joints=np.full((1, 16, 2), 101.0),
        labelled=np.ones((1, 16), bool),
        head_boxes=np.array([[0.0, 0, 30, 40]]),
    )
    centre_of_pixel_101 = 100.5
    away = np.zeros((1, 16, 2))
    away[0, :, 0] = 15.0  # 0.5 * 0.6 * 50
    assert pckh(centre_of_pixel_101 + away, truth).mean == 1.0
    away[0, :8, 0] = 15.01
    found = pckh(centre_of_pixel_101 + away, truth)
    assert found.counted == 14
    assert found.mean == pytest.approx(8 / 14)
    assert "pelvis" not in found.per_joint
    assert pckh(centre_of_pixel_101 + away, truth, 0.1).mean == 0.0
    away[0, :, 0] = 3.0
    away[0, :8, 0] = 3.01  # at 0.11 of the head, where some count, they would be right
    assert pckh(centre_of_pixel_101 + away, truth, 0.1).mean == pytest.approx(8 / 14)


def test_the_mean_weighs_joints_by_how_often_they_are_labelled() -> None:
    truth = _mpii()
    guess = truth.joints - 0.5 + np.random.default_rng(2).normal(0, 8, truth.joints.shape)
    found = pckh(guess, truth)
    counts = {j: int(truth.labelled[:, MPII16.index(j)].sum()) for j in found.per_joint}
    weighted = sum(found.per_joint[j] * n for j, n in counts.items()) / sum(counts.values())
    assert 0.2 < found.mean < 0.95
    assert found.mean == pytest.approx(weighted)
    with pytest.raises(ValueError, match="as the truth"):
        pckh(guess[:3], truth)


def test_mpiis_mat_file_is_read(tmp_path: Path) -> None:
    truth = _mpii(5)
    file = tmp_path / "gt_valid.mat"
    savemat(
        file,
        {
            "pos_gt_src": truth.joints.transpose(1, 2, 0),
            "jnt_missing": (~truth.labelled).T.astype(np.uint8),
            "headboxes_src": truth.head_boxes.reshape(-1, 2, 2).transpose(1, 2, 0),
        },
    )
    found = read_mpii_truth(file)
    for name in ("joints", "labelled", "head_boxes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(truth, name))
    savemat(
        file,
        {
            "pos_gt_src": np.zeros((3, 2, 5)),
            "jnt_missing": np.zeros((16, 5)),
            "headboxes_src": np.zeros((2, 2, 5)),
        },
    )
    with pytest.raises(SourceError, match="is not MPII's ground truth: shapes"):
        read_mpii_truth(file)
    file.write_bytes(b"no mat file at all, but long enough to be looked at" * 9)
    with pytest.raises(SourceError, match="no MATLAB file with the table 'pos_gt_src' and 'jnt_missing'"):
        read_mpii_truth(file)
    with pytest.raises(SourceError, match="no file"):
        read_mpii_truth(tmp_path / "nothing.mat")


ENTRY = {
    "image": "a.jpg",
    "center": [101.0, 201.0],
    "scale": 2.0,
    "joints": [[11.0 + i, 21.0] for i in range(16)],
    "joints_vis": [1] * 15 + [0],
}


def test_mpiis_list_is_read_as_coco() -> None:
    """A square of 200 pixels at scale 1 around the lowered centre; pixels from 0."""
    tree = mpii_as_coco([ENTRY, {**ENTRY, "scale": 1.0}, {"image": "b.jpg", "center": [1, 1], "scale": 1}])
    assert [image["file_name"] for image in tree["images"]] == ["a.jpg", "b.jpg"]
    first, second, third = tree["annotations"]
    assert first["bbox"] == [100 - 200, 200 + 30 - 200, 400, 400]
    assert second["image_id"] == first["image_id"] != third["image_id"]
    assert first["keypoints"][:6] == [10.0, 20.0, 2, 11.0, 20.0, 2]
    assert first["keypoints"][-3:] == [0.0, 0.0, 0]
    assert (first["num_keypoints"], third["num_keypoints"]) == (15, 0)


def test_boxes_are_read_from_mpiis_list_too(tmp_path: Path) -> None:
    """Everybody in the list has a box, also those without located joints."""
    without = {name: ENTRY[name] for name in ("image", "center", "scale")}
    (tmp_path / "mpii.json").write_text(json.dumps([ENTRY, without]))
    persons = read_coco_boxes(tmp_path / "mpii.json", tmp_path, LSP14, names={"neck": "upper_neck"})
    assert persons.annotation_ids.tolist() == [1, 2]
    assert persons.boxes.tolist() == [[-100, 30, 300, 430]] * 2
    (tmp_path / "mpii.json").write_text("[3]")
    with pytest.raises(SourceError, match="not a COCO JSON with person boxes"):
        read_coco_boxes(tmp_path / "mpii.json", tmp_path, LSP14)


@pytest.mark.parametrize(
    "broken", [{"scale": "?"}, {"center": 3}, {"joints_vis": [1]}, {"image": []}], ids=str
)
def test_a_broken_list_is_refused(broken: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mpii.json").write_text(json.dumps([{**ENTRY, **broken}]))
    with pytest.raises(SourceError, match="not a COCO-keypoints JSON"):
        read_coco_keypoints(tmp_path / "mpii.json", tmp_path, MPII16)


def test_mpiis_own_people_stand_in_their_boxes(shared_data: Path) -> None:
    folder = shared_data / "data" / "eval" / "mpii"
    persons = read_coco_keypoints(folder / "test_mpii.json", folder, MPII16)
    assert len(persons) == 5
    inside = (persons.joints >= persons.boxes[:, None, :2]) & (persons.joints <= persons.boxes[:, None, 2:])
    assert inside.all(axis=2)[persons.labelled].mean() > 0.9
    as_lsp = read_coco_keypoints(folder / "test_mpii.json", folder, LSP14)
    assert as_lsp.labelled[:, LSP14.index("left_wrist")].any()
