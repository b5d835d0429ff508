"""The page of a scene in a headless browser: swipe, threshold, tiles, keyboard, and 10,000 tiles."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import playwright.sync_api as browsers
import pytest

import rsicrc
from rsicrc.errors import SceneError
from rsicrc.reports.scene_page import MOST_CROPS, write_scene_page
from rsicrc.scenes.result import SceneResult
from rsicrc.scenes.scene import Scene
from tests.runtime.scenes.files import save

SIDE = 400
HOSTILE = "</script><b>a road</b> & 'more'"


@pytest.fixture(scope="module")
def result(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SceneResult:
    folder = tmp_path_factory.mktemp("scene")
    before = np.full((SIDE, SIDE, 3), (200, 40, 40), np.uint8)
    after = np.full((SIDE, SIDE, 3), (40, 40, 200), np.uint8)
    save(folder / "before.tif", before)
    save(folder / "after.tif", after)
    scene = Scene.open(folder / "before.tif", folder / "after.tif")
    list(scene.captions(rsicrc.load(model_folder, threads=1)))
    assert scene.result is not None
    return scene.result


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("needs the program chromium")
    with browsers.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


def opened(browser: Any, path: Path) -> Any:
    """Open a page; any request to the network, error of the script or line on the console fails the test."""
    page = browser.new_page(viewport={"width": 1100, "height": 700})
    problems: list[str] = []
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url)
    )
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    assert not problems, problems
    page.problems = problems
    return page


def pixel(page: Any, x: float, y: float) -> list[int]:
    """Return the color at a share of the width and the height of the map."""
    script = """([x, y]) => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
        const c = document.getElementById('view');
        done([...c.getContext('2d').getImageData(c.width * x, c.height * y, 1, 1).data]);
    })))"""
    return list(page.evaluate(script, [x, y]))


def with_tiles(result: SceneResult, scores: list[float]) -> SceneResult:
    """Return a result whose tiles have made-up scores and captions."""
    tiles = [
        replace(tile, index=number, change_score=score, changed=score >= 0.5, caption=f"{HOSTILE} {number}", score=-0.5)
        for number, score in enumerate(scores)
        for tile in [result.tiles[number % len(result.tiles)]]
    ]
    return replace(result, tiles=tiles, threshold=0.5)


def test_page_shows_both_dates_under_a_swipe(browser: Any, result: SceneResult, tmp_path: Path) -> None:
    write_scene_page(with_tiles(result, [0.1] * len(result.tiles)), tmp_path / "map.html")
    page = opened(browser, tmp_path / "map.html")
    page.locator("#raster").uncheck()
    red, blue = pixel(page, 0.4, 0.5), pixel(page, 0.6, 0.5)
    assert red[0] > 150 > red[2]
    assert blue[2] > 150 > blue[0]
    page.locator("#swipe").fill("80")
    moved = pixel(page, 0.6, 0.5)
    assert moved[0] > 150 > moved[2]
    page.locator("#view").press(",")
    assert page.locator("#swipe").input_value() == "75"
    page.close()


def test_threshold_selects_tiles_and_raster(browser: Any, result: SceneResult, tmp_path: Path) -> None:
    count = len(result.tiles)
    scores = [0.9] + [0.55] * (count - 1)
    write_scene_page(with_tiles(result, scores), tmp_path / "map.html")
    page = opened(browser, tmp_path / "map.html")
    status = page.locator("#count")
    assert status.inner_text() == f"{count} of {count} tiles"
    page.locator("#threshold").fill("60")
    assert status.inner_text() == f"1 of {count} tiles"
    page.locator("#threshold").fill("0")
    tinted = pixel(page, 0.6, 0.5)
    page.locator("#raster").uncheck()
    assert pixel(page, 0.6, 0.5) != tinted
    page.close()


def test_tiles_open_by_click_and_by_keyboard(browser: Any, result: SceneResult, tmp_path: Path) -> None:
    scores = [0.6 + 0.01 * number for number in range(len(result.tiles))]
    write_scene_page(with_tiles(result, scores), tmp_path / "map.html")
    page = opened(browser, tmp_path / "map.html")
    view, details = page.locator("#view"), page.locator("#details")
    view.press("n")
    # Text of the scene is shown as text, not as markup.
    assert details.locator("h2").inner_text() == f"{HOSTILE} {len(scores) - 1}"
    assert f"{scores[-1]:.3f}" in details.inner_text()
    assert re.search(r"\d+\.\d{6}, \d+\.\d{6}", details.inner_text())
    page.wait_for_function("document.querySelectorAll('#crops canvas[data-ready=yes]').length === 2")
    crops = "[...document.querySelectorAll('#crops canvas')]"
    colors = page.evaluate(f"{crops}.map(c => [...c.getContext('2d').getImageData(9, 9, 1, 1).data])")
    assert colors[0][0] > 150 > colors[0][2]
    assert colors[1][2] > 150 > colors[1][0]
    view.press("n")
    assert details.locator("h2").inner_text() == f"{HOSTILE} {len(scores) - 2}"
    view.press("Escape")
    assert details.locator("h2").count() == 0
    view.press("0")
    box = view.bounding_box()
    view.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    assert details.locator("h2").count() == 1
    page.locator("#next").focus()
    page.keyboard.press("Enter")
    assert details.locator("h2").count() == 1
    assert page.problems == []
    page.close()


@pytest.mark.slow
def test_page_of_ten_thousand_tiles_is_small_and_works(browser: Any, result: SceneResult, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scores = random.random(10_000).round(4).tolist()
    write_scene_page(with_tiles(result, scores), tmp_path / "map.html")
    assert (tmp_path / "map.html").stat().st_size < 20_000_000
    page = opened(browser, tmp_path / "map.html")
    expected = sum(score >= 0.5 for score in scores)
    assert page.locator("#count").inner_text() == f"{expected} of 10000 tiles"
    for value in (90, 10, 50):
        page.locator("#threshold").fill(str(value))
        expected = sum(score >= value / 100 for score in scores)
        assert page.locator("#count").inner_text() == f"{expected} of 10000 tiles"
    page.locator("#view").press("p")  # the weakest, which has no crops of its own
    page.wait_for_function("document.querySelectorAll('#crops canvas[data-ready=yes]').length === 2")
    assert "from the overview" in page.locator("#crops").inner_text()
    assert page.problems == []
    page.close()


@pytest.mark.slow
def test_page_embeds_a_bounded_number_of_crops(result: SceneResult, tmp_path: Path) -> None:
    write_scene_page(with_tiles(result, [0.9] * 500), tmp_path / "map.html")
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    document = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert document is not None
    data = json.loads(document[1])
    assert sum("crops" in tile for tile in data["tiles"]) == MOST_CROPS
    assert not re.search(r'(src|href)="', text)


def test_page_is_not_replaced_without_being_asked(result: SceneResult, tmp_path: Path) -> None:
    path = tmp_path / "map.html"
    path.write_text("mine")
    with pytest.raises(SceneError, match="exists"):
        write_scene_page(result, path)
    assert path.read_text() == "mine"
    write_scene_page(result, path, overwrite=True)
    with pytest.raises(SceneError, match="must end in"):
        write_scene_page(result, tmp_path / "map.txt")
