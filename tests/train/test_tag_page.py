"""The page on which people answer a sheet: what it saves is a sheet, with the answers that were given."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from pictures import turned_jpeg

from lfpose_edge.errors import SourceError
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.data.tag_page import write_page
from lfpose_edge.train.data.tags import NO, OPEN, YES, Tags, read_tags, write_tags

NAMES = ["a b.png", 'sub/</script>, "c" & ü.png']  # as hard on a URL, a page and a table as names may be
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
K = len(LSP14)


@pytest.fixture
def sheet(tmp_path: Path) -> Tags:
    """Two regions of each of two persons; the second of the first is answered."""
    for name in NAMES:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", np.full((40, 30, 3), 90, np.uint8))[1].tobytes())
    answers = np.full((4, K), OPEN, np.int8)
    answers[1] = np.arange(K) % 2
    boxes = np.array([[1.5, 2.0, 21.25, 33.0]] * 4)
    regions = boxes + np.array([[0.0], [1.0], [0.0], [2.0]]) * [1, 1, 0, 0]
    return Tags(
        np.array([7, 7, 9, 9]), [NAMES[0], NAMES[0], NAMES[1], NAMES[1]], boxes, regions, answers, LSP14
    )


@pytest.fixture
def page(sheet: Tags, tmp_path: Path) -> Path:
    path = tmp_path / "out/page.html"
    path.parent.mkdir()
    write_page(path, sheet, tmp_path / "images", "mine.csv")
    return path


def _data(page: Path) -> dict[str, Any]:
    found = re.findall(
        r'<script type="application/json" id="sheet">(.*?)</script>', page.read_text(encoding="utf-8"), re.S
    )
    data: dict[str, Any] = json.loads(found[0])
    return data


def test_the_page_finds_the_images_and_no_name_ends_it(page: Path, tmp_path: Path) -> None:
    data = _data(page)
    assert list(data["sources"]) == NAMES
    for name, source in data["sources"].items():
        assert (page.parent / unquote(source)).resolve() == tmp_path / "images" / name
        assert not re.search(r'[ "<>&]', source)
    assert page.read_text(encoding="utf-8").count("</script>") == 3


def test_a_browser_keeps_answers_for_this_sheet_and_these_images_alone(
    page: Path, sheet: Tags, tmp_path: Path
) -> None:
    """By the key: a page of the same sheet reuses them, one of another or of a corrected sheet does not."""
    key, images = _data(page)["key"], tmp_path / "images"
    shutil.copytree(images, tmp_path / "others")
    corrected = replace(sheet, answers=np.full_like(sheet.answers, YES))
    for tags, folder, same in (
        (sheet, images, True),
        (replace(sheet, regions=sheet.regions + 1), images, False),
        (corrected, images, False),
        (sheet, tmp_path / "others", False),
    ):
        write_page(page, tags, folder, "mine.csv")
        assert (_data(page)["key"] == key) == same


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("name", "a page's name ends in .html"),
        ("gone", "which is not there"),
        ("kind", "browsers do not show .*a b.tif"),
        ("turned", "is turned by its EXIF entry"),
        ("damaged", "is damaged, or not an image"),
    ],
)
def test_what_a_page_cannot_show_is_refused(case: str, words: str, sheet: Tags, tmp_path: Path) -> None:
    path, image = tmp_path / "page.html", tmp_path / "images" / NAMES[0]
    if case == "name":
        path = tmp_path / "questions.csv"
        path.write_text("answers")
    elif case == "gone":
        image.unlink()
    elif case == "kind":
        image.rename(image.with_suffix(".tif"))
        sheet = replace(sheet, images=["a b.tif", *sheet.images[1:]])
    elif case == "turned":
        image.write_bytes(turned_jpeg(np.full((40, 30, 3), np.arange(40)[:, None, None], np.uint8)))
    else:
        image.write_bytes(b"no image")
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(SourceError, match=words):
        write_page(path, sheet, tmp_path / "images", "mine.csv")
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def _logic(page: Path, script: str) -> Any:
    """What a script prints as JSON that knows the page's ``sheet``, a Sheet, without its buttons."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("the page's script is run by node, which is not installed")
    (logic,) = re.findall(r'<script id="logic">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    given = f"const data = {json.dumps(_data(page))}, sheet = new Sheet(data);"
    page.with_suffix(".js").write_text(f"{logic}\n{given}\n{script}", encoding="utf-8")
    done = subprocess.run([node, str(page.with_suffix(".js"))], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_nobody_changed_is_saved_as_it_was_written(page: Path, sheet: Tags, tmp_path: Path) -> None:
    write_tags(tmp_path / "sheet.csv", sheet)
    saved = _logic(page, "console.log(JSON.stringify([sheet.toCsv(), sheet.given, sheet.done]));")
    assert saved == [(tmp_path / "sheet.csv").read_text(encoding="utf-8"), K, [False, True, False, False]]


def test_answers_are_saved_kept_and_taken_up_again(page: Path, sheet: Tags, tmp_path: Path) -> None:
    marks = ["yes", "", *["no"] * (K - 2)]
    csv, order, again, given = _logic(
        page,
        f"""
        const order = [sheet.nextOpen(0)];
        sheet.answer(0, {json.dumps(marks)});
        order.push(sheet.nextOpen(1), sheet.nextOpen(3));
        const other = new Sheet(data);
        other.answer(2, sheet.joints.map(() => YES));
        other.takeUp(sheet.state + "");
        sheet.takeUp(other.state);
        sheet.answer(3, {json.dumps(marks)});
        order.push(sheet.nextOpen(3));
        order.push(sheet.nextOpen(0));
        console.log(JSON.stringify([sheet.toCsv(), order, other.toCsv(), sheet.given]));
        """,
    )
    assert order == [0, 2, 3, -1, -1]
    assert given == 2 * K + 2 * (K - 1)
    marked = [YES, OPEN, *[NO] * (K - 2)]
    for text, rows in ((csv, {0: marked, 3: marked}), (again, {0: marked})):
        (tmp_path / "saved.csv").write_text(text, encoding="utf-8")
        read = read_tags(tmp_path / "saved.csv", LSP14)
        expected = sheet.answers.copy()
        for row, answers in {**rows, 2: [YES] * K}.items():  # the third was answered in the other tab
            expected[row] = answers
        np.testing.assert_array_equal(read.answers, expected)
        np.testing.assert_array_equal(read.regions, sheet.regions)
        assert read.images == sheet.images


def test_cannot_tell_stays_so_when_a_saved_sheet_becomes_a_page(sheet: Tags, tmp_path: Path) -> None:
    sheet.answers[0] = [YES, OPEN, *[NO] * (K - 2)]
    write_page(tmp_path / "again.html", sheet, tmp_path / "images", "mine.csv")
    done, answers = _logic(
        tmp_path / "again.html", "console.log(JSON.stringify([sheet.done, sheet.answers[0]]));"
    )
    assert done == [True, True, False, False]
    assert answers == ["yes", "", *["no"] * (K - 2)]


BROWSING = """
const press = (key, more) =>
  document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, ...more}));
const seen = () => new Promise((done) => {
  const wait = () => (shown ? done() : setTimeout(wait, 20));
  setTimeout(wait);
});
async function browse() {
  const result = {};
  press("1"); press("ArrowRight"); press("ArrowLeft"); press("Enter");
  result.unseen = row;
  await seen();
  const stage = at("stage").getBoundingClientRect();
  result.places = ["photo", "person", "region"].map((id) => {
    const {left, top, width, height} = at(id).getBoundingClientRect();
    return [left - stage.left, top - stage.top, width, height];
  });
  press("1"); press("2"); press("é", {code: "Digit2"}); press("Q"); press("3", {repeat: true});
  for (let i = 0; i < 3; i++) press("-", {code: "Digit6"});  // a French keyboard's 6: yes, open, no
  press("Enter");
  result.second = row;
  await seen();
  press("Enter", {repeat: true});
  result.held = row;
  press("5"); press("ArrowLeft"); press("ArrowLeft");
  result.back = row;
  result.before = marks.slice(0, 3);
  await seen();
  press("Enter");  // of an answered region to the next one, answered too
  result.review = row;
  await seen();
  press("ArrowRight"); press("ArrowRight"); await seen(); press("-");
  result.last = [row, at("trouble").textContent];
  result.csv = sheet.toCsv();
  at("place").value = "2.5"; at("place").onchange();
  result.whole = row;
  result.kept = localStorage.getItem(kept) === sheet.state;
  const pre = document.createElement("pre");
  pre.id = "result";
  pre.textContent = JSON.stringify(result);
  document.body.append(pre);
}
browse();
"""


def test_in_a_browser(page: Path, tmp_path: Path) -> None:
    """Where things are, what keys do, and that nothing unseen is answered and nothing marked is lost."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("needs Chromium or Chrome, which is not installed")
    page.write_text(
        page.read_text(encoding="utf-8").replace("</html>", f"<script>{BROWSING}</script></html>"),
        encoding="utf-8",
    )
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        + ["--window-size=1400,900", "--virtual-time-budget=8000", "--dump-dom", page.as_uri()],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    (text,) = re.findall(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    found = json.loads(html.unescape(text))
    assert (found["unseen"], found["second"], found["held"]) == (0, 2, 2)  # the second is answered already
    assert (found["back"], found["before"], found["review"]) == (0, ["yes", "", "no"], 1)
    assert found["last"] == [3, "All regions are answered: save the sheet."]
    assert (found["kept"], found["whole"]) == (True, 1)
    # The box is 31 pixels high, and a quarter of it is shown above and below, on 560.
    scale = 560 / (31 * 1.5)
    left, top = (1.5 + 21.25) / 2 - 280 / scale, (2.0 + 33.0) / 2 - 280 / scale
    photo, person, region = found["places"]
    np.testing.assert_allclose(photo, np.array([-left, -top, 30, 40]) * scale, atol=0.5)
    corner = np.array([1.5 - left, 2.0 - top]) * scale
    for place in (person, region):
        np.testing.assert_allclose(place, [*corner, 19.75 * scale, 31 * scale], atol=0.5)
    (tmp_path / "saved.csv").write_text(found["csv"], encoding="utf-8")
    answers = read_tags(tmp_path / "saved.csv", LSP14).answers
    q = "1234567890q".index("q")
    assert answers[0].tolist() == [YES, OPEN, *(YES if k == q else NO for k in range(2, K))]
    assert answers[2].tolist() == [YES if k == 4 else NO for k in range(K)]  # marked, and taken when left
    assert answers[3].tolist() == [OPEN] * K


def test_the_command_writes_the_page(command: Callable[..., Any], sheet: Tags, tmp_path: Path) -> None:
    from lfpose_edge.cli.main import main

    write_tags(tmp_path / "q.csv", sheet)
    done = command(main, "lfpose", "tags", "page", "q.csv", "images", "--out", "page.html")
    assert done.code == 0, done.err
    assert "wrote page.html: 4 regions of 2 persons" in done.err
    assert _data(tmp_path / "page.html")["name"] == "q-answered.csv"
    (tmp_path / "images" / NAMES[0]).unlink()
    done = command(main, "lfpose", "tags", "page", "q.csv", "images", "--out", "other.html")
    assert (done.code, "a b.png, which is not there" in done.err) == (1, True)
    assert not (tmp_path / "other.html").exists()
    done = command(
        main, "lfpose", "tags", "page", "q.csv", "images", "--out", "p.html", "--skeleton", "coco17"
    )
    assert (done.code, "no joint of skeleton" in done.err) == (1, True)
