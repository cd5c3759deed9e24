"""The page on which people answer a sheet: what it saves is a sheet, with the answers that were given."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest

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
    found = re.findall(r'<script type="application/json" id="sheet">(.*?)</script>', page.read_text(), re.S)
    data: dict[str, Any] = json.loads(found[0])
    return data


def test_the_page_finds_the_images_and_no_name_ends_it(page: Path, tmp_path: Path) -> None:
    data = _data(page)
    assert list(data["sources"]) == NAMES
    for name, source in data["sources"].items():
        assert (page.parent / unquote(source)).resolve() == tmp_path / "images" / name
        assert not re.search(r'[ "<>&]', source)
    assert page.read_text().count("</script>") == 3


def test_a_page_of_other_questions_has_other_answers(page: Path, sheet: Tags, tmp_path: Path) -> None:
    """What a browser keeps is kept by the key: the same for the same questions, whatever is answered."""
    key = _data(page)["key"]
    for regions, same in ((sheet.regions, True), (sheet.regions + 1, False)):
        answered = np.full_like(sheet.answers, YES)
        other = Tags(sheet.persons, sheet.images, sheet.boxes, regions, answered, LSP14)
        write_page(page, other, tmp_path / "images", "mine.csv")
        assert (_data(page)["key"] == key) == same


def _logic(page: Path, script: str) -> Any:
    """What a script prints as JSON that knows the page's ``sheet``, a Sheet, without its buttons."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("the page's script is run by node, which is not installed")
    (logic,) = re.findall(r'<script id="logic">(.*?)</script>', page.read_text(), re.S)
    page.with_suffix(".js").write_text(
        f"{logic}\nconst sheet = new Sheet({json.dumps(_data(page))});\n{script}"
    )
    done = subprocess.run([node, str(page.with_suffix(".js"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_nobody_changed_is_saved_as_it_was_written(page: Path, sheet: Tags, tmp_path: Path) -> None:
    write_tags(tmp_path / "sheet.csv", sheet)
    saved = _logic(page, "console.log(JSON.stringify([sheet.toCsv(), sheet.given, sheet.done]));")
    assert saved == [(tmp_path / "sheet.csv").read_text(), K, [False, True, False, False]]


def test_answers_are_saved_kept_and_taken_up_again(page: Path, sheet: Tags, tmp_path: Path) -> None:
    marks = ["yes", "", *["no"] * (K - 2)]
    csv, order, again, given = _logic(
        page,
        f"""
        const order = [sheet.nextOpen(0)];
        sheet.answer(0, {json.dumps(marks)});
        order.push(sheet.nextOpen(1), sheet.nextOpen(3));
        const other = new Sheet({{...sheet, answers: sheet.rows.map(() => sheet.joints.map(() => OPEN))}});
        other.state = sheet.state;
        sheet.answer(3, {json.dumps(marks)});
        order.push(sheet.nextOpen(3));
        sheet.answer(2, {json.dumps(marks)});
        order.push(sheet.nextOpen(0));
        console.log(JSON.stringify([sheet.toCsv(), order, other.toCsv(), sheet.given]));
        """,
    )
    assert order == [0, 2, 3, 2, -1]  # from the first of all again, where those behind are answered
    assert given == K + 3 * (K - 1)
    for text, rows in ((csv, [0, 2, 3]), (again, [0])):
        (tmp_path / "saved.csv").write_text(text)
        read = read_tags(tmp_path / "saved.csv", LSP14)
        expected = np.where(np.isin(np.arange(4), [1])[:, None], sheet.answers, OPEN)
        expected[rows] = [YES, OPEN, *[NO] * (K - 2)]
        np.testing.assert_array_equal(read.answers, expected)
        np.testing.assert_array_equal(read.regions, sheet.regions)
        assert read.images == sheet.images


def test_a_browser_shows_the_region_and_takes_keys(page: Path, tmp_path: Path) -> None:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("needs Chromium or Chrome, which is not installed")
    script = """
    <script>
    const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", {key}));
    at("photo").addEventListener("load", () => setTimeout(() => {
      if (at("result")) return;
      const stage = at("stage").getBoundingClientRect(), region = at("region").getBoundingClientRect();
      const photo = at("photo").getBoundingClientRect();
      const places = [photo, region].map(({left, top, width, height}) =>
        [left - stage.left, top - stage.top, width, height]);
      press("1"); press("2"); press("2"); press("Enter");
      const second = row;
      press("Backspace"); press("Backspace");
      const before = marks.slice(0, 3);
      const result = document.createElement("pre");
      result.id = "result";
      result.textContent = JSON.stringify({places, second, row, before, csv: sheet.toCsv()});
      document.body.append(result);
    }), {once: true});
    </script>
    """
    page.write_text(page.read_text().replace("</html>", script + "</html>"))
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        + ["--window-size=1200,800", "--virtual-time-budget=8000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    (text,) = re.findall(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    found = json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert (found["second"], found["row"], found["before"]) == (2, 0, ["yes", "", "no"])
    # The box is 31 pixels high, and a quarter of it is shown above and below, on 560.
    scale = 560 / (31 * 1.5)
    left, top = (1.5 + 21.25) / 2 - 280 / scale, (2.0 + 33.0) / 2 - 280 / scale
    photo, region = found["places"]
    np.testing.assert_allclose(photo, np.array([-left, -top, 30, 40]) * scale, atol=0.5)
    corner = np.array([1.5 - left, 2.0 - top]) * scale
    np.testing.assert_allclose(region, [*corner, 19.75 * scale, 31 * scale], atol=0.5)
    (tmp_path / "saved.csv").write_text(found["csv"])
    assert read_tags(tmp_path / "saved.csv", LSP14).answers[0].tolist() == [YES, OPEN, *[NO] * (K - 2)]


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
