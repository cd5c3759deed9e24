"""Bundles: what opens, and what is refused with its name."""

from __future__ import annotations

import http.client
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import write_spot_bundle

from lfpose_edge import zoo
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BundleError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_spot_bundle(tmp_path / "spot")


def test_a_good_bundle_opens(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.skeleton.keypoints == ("nose", "left_hand", "right_hand")
    assert bundle.skeleton.flip_permutation.tolist() == [0, 2, 1]
    assert bundle.model_file("fp32") == folder / "model.onnx"
    assert set(bundle.manifest.files) == {"model.onnx", "card.md"}


def _edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "manifest.json"
        tree = json.loads(path.read_text(encoding="utf-8"))
        change(tree)
        path.write_text(json.dumps(tree))

    return edit


def _flip_byte(folder: Path) -> None:
    path = folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped byte": (_flip_byte, ["model.onnx is damaged", "copy the bundle again"]),
    "missing file": (lambda f: (f / "card.md").unlink(), ["card.md is missing"]),
    "missing manifest": (lambda f: (f / "manifest.json").unlink(), ["is not a bundle", "manifest.json"]),
    "broken manifest": (lambda f: (f / "manifest.json").write_text("{"), ["cannot be read"]),
    "deep manifest": (lambda f: (f / "manifest.json").write_text("[" * 100_000), ["cannot be read"]),
    "manifest is a list": (lambda f: (f / "manifest.json").write_text("[]"), ["schema version None"]),
    "newer schema": (_edit(lambda t: t.update(schema_version=99)), ["schema version 99", "reads version 1"]),
    "unknown key": (_edit(lambda t: t["input"].update(sise=1)), ["input.sise"]),
    "bad value": (_edit(lambda t: t["decode"].update(upsample=0)), ["decode.upsample"]),
    "blurs too far": (_edit(lambda t: t["decode"].update(blur_sigma=9)), ["decode.blur_sigma"]),
    "looks too far": (_edit(lambda t: t["decode"].update(window=17)), ["decode.window"]),
    "divides by zero": (_edit(lambda t: t["input"].update(std=[1, 0, 1])), ["input.std"]),
    "mean is not a number": (_edit(lambda t: t["input"].update(mean=[1, math.nan, 1])), ["input.mean"]),
    "endless padding": (_edit(lambda t: t["input"].update(padding=math.inf)), ["input.padding"]),
    "endless stride": (_edit(lambda t: t["decode"].update(cam_stride=math.inf)), ["decode.cam_stride"]),
    "sigma is not a number": (_edit(lambda t: t["joints"].update(sigmas=[math.nan] * 3)), ["joints.sigmas"]),
    "absurd size": (_edit(lambda t: t["input"].update(size=[10**9, 64])), ["input.size"]),
    "unlisted model": (
        _edit(lambda t: t["models"].update({"int8-cpu": "x.onnx"})),
        ["'x.onnx' has no checksum"],
    ),
    "file outside": (
        _edit(lambda t: t["files"].update({"../x": t["files"]["card.md"]})),
        ["names a file outside the bundle"],
    ),
    "edge to nowhere": (_edit(lambda t: t["joints"].update(edges=[["nose", "tail"]])), ["no joint 'tail'"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(folder: Path, damage: str) -> None:
    change, words = DAMAGES[damage]
    change(folder)
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.open(tmp_path / "none")


def test_a_precision_that_is_not_there(folder: Path) -> None:
    with pytest.raises(BundleError, match=r"has no int8-cpu model \(it has fp32\)"):
        Bundle.open(folder).model_file("int8-cpu")


def test_the_same_files_give_the_same_manifest(tmp_path: Path) -> None:
    first, second = (write_spot_bundle(tmp_path / name) for name in "ab")
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()


def test_the_file_of_a_bundle_is_not_the_bundle(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"is a file; a model is the folder of a bundle, here {folder}$"):
        zoo.bundle_path(folder / "model.onnx")
    (tmp_path / "last.pt").touch()
    with pytest.raises(BundleError, match=r"lfpose-export \S*last\.pt --out BUNDLE makes one$"):
        zoo.bundle_path(tmp_path / "last.pt")


def test_zoo_names() -> None:
    assert "lfpose-lite" in zoo.model_names()
    assert zoo.bundle_path("lfpose-lite").is_dir()
    with pytest.raises(BundleError, match="did you mean 'lfpose-lite'"):
        zoo.bundle_path("lfpose-light")
    with pytest.raises(BundleError, match="did you mean 'yolox-nano'"):
        zoo.detector_path("yolox-nana")


def test_a_download_is_kept_only_when_its_checksum_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "file.onnx"
    source.write_bytes(b"not the detector")
    known = zoo.DETECTORS["yolox-nano"]
    wrong = zoo.Download(source.as_uri(), known.sha256, known.licence)
    monkeypatch.setitem(zoo.DETECTORS, "yolox-nano", wrong)
    with pytest.raises(BundleError, match="it was not kept"):
        zoo.detector_path("yolox-nano", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()

    import hashlib

    right = zoo.Download(source.as_uri(), hashlib.sha256(b"not the detector").hexdigest(), known.licence)
    monkeypatch.setitem(zoo.DETECTORS, "yolox-nano", right)
    path = zoo.detector_path("yolox-nano", tmp_path / "cache")
    assert path.read_bytes() == b"not the detector"
    source.unlink()
    assert zoo.detector_path("yolox-nano", tmp_path / "cache") == path  # fetched once


def test_a_download_that_breaks_off_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        def read(self, *_: object) -> bytes:
            half = b"not the whole"
            raise http.client.IncompleteRead(half)

    monkeypatch.setattr(zoo.urllib.request, "urlopen", lambda *_, **__: Broken())
    with pytest.raises(BundleError, match="give the file's path instead"):
        zoo.detector_path("yolox-nano", tmp_path / "cache")


def test_where_it_could_not_be_kept_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(zoo.urllib.request, "urlopen", lambda *_, **__: pytest.fail("it was fetched"))
    with pytest.raises(BundleError, match=r"file is no folder that can be written to; .*LFPOSE_CACHE"):
        zoo.detector_path("yolox-nano", tmp_path / "file" / "cache")


@pytest.mark.parametrize("find", [zoo.bundle_path, zoo.detector_path])
def test_a_name_that_is_too_long_for_a_file_is_no_name(find: Callable[[str], Path]) -> None:
    with pytest.raises(BundleError, match="no (model|detector) 'aaaa"):
        find("a" * 5000)


def test_a_named_cache_needs_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError

    monkeypatch.setattr(zoo.Path, "home", nobody)
    monkeypatch.setenv("LFPOSE_CACHE", "kept")
    assert zoo.default_cache_dir() == Path("kept")


def test_an_unreachable_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = zoo.Download((tmp_path / "none").as_uri(), "0" * 64, "")
    monkeypatch.setitem(zoo.DETECTORS, "yolox-nano", gone)
    with pytest.raises(BundleError, match="give the file's path instead"):
        zoo.detector_path("yolox-nano", tmp_path / "cache")
