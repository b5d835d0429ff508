"""Captions of scenes: streams, series, resumed runs and remote files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rasterio.shutil import copy

from rsicrc.decoding.options import CaptionOptions
from rsicrc.engine import Engine
from rsicrc.errors import ArgumentError, SceneError
from rsicrc.scenes.scene import Scene
from tests.runtime.scenes.files import save, texture

GREEDY = CaptionOptions(beams=1)


def test_tiles_have_the_captions_of_their_pixels(scene_files: tuple[Path, Path], scene_engine: Engine) -> None:
    scene = Scene.open(*scene_files)
    tiles = list(scene.captions(scene_engine, GREEDY, batch_size=5))
    before, after = (Image.open(path) for path in scene_files)
    pairs = [(before.crop(tile.box), after.crop(tile.box)) for tile in tiles]
    captions = scene_engine.caption(pairs, GREEDY)
    assert [tile.index for tile in tiles] == list(range(len(scene.plan(scene_engine.manifest).boxes)))
    assert [tile.caption for tile in tiles] == [caption.text for caption in captions]
    for tile, caption in zip(tiles, captions, strict=True):
        assert tile.score == pytest.approx(caption.score, abs=1e-4)
        assert tile.change_score == pytest.approx(caption.change_score, abs=1e-4)
        assert tile.changed == caption.changed
        assert tile.similarity is not None
    similarity = scene_engine.explain(pairs[0], options=GREEDY).similarity
    assert tiles[0].similarity is not None
    assert np.allclose(tiles[0].similarity, similarity, atol=2e-3)


def test_series_compares_each_date_with_the_one_before(tmp_path: Path, scene_engine: Engine) -> None:
    files = [save(tmp_path / f"{year}.tif", texture(200, 200, year)) for year in (2018, 2020, 2022)]
    scene = Scene.open(*files, dates=("2018-01-01", "2020-01-01", "2022-01-01"))
    tiles = list(scene.captions(scene_engine, GREEDY))
    assert {(tile.before, tile.after) for tile in tiles} == {
        (str(files[0]), str(files[1])),
        (str(files[1]), str(files[2])),
    }
    first = list(Scene.open(*files[:2]).captions(scene_engine, GREEDY))
    assert [tile.caption for tile in tiles if tile.pair == 0] == [tile.caption for tile in first]
    assert {tile.after_datetime for tile in tiles} == {"2020-01-01", "2022-01-01"}
    assert len({tile.id for tile in tiles}) == len(tiles)


def test_interrupted_run_resumes(scene_files: tuple[Path, Path], scene_engine: Engine, tmp_path: Path) -> None:
    whole = list(Scene.open(*scene_files).captions(scene_engine, GREEDY))
    journal = tmp_path / "journal"
    stream = Scene.open(*scene_files).captions(scene_engine, GREEDY, batch_size=2, journal=journal)
    for _ in range(5):
        next(stream)
    stream.close()
    with journal.open("ab") as file:
        file.write(b'{"index": 5, "pa')  # a line that was being written when the process ended
    scene = Scene.open(*scene_files)
    resumed = scene.captions(scene_engine, GREEDY, batch_size=2, journal=journal)
    tiles = list(resumed)
    assert [(tile.box, tile.caption, tile.ring) for tile in tiles] == [(t.box, t.caption, t.ring) for t in whole]
    assert np.array_equal(tiles[0].similarity, whole[0].similarity)  # type: ignore[arg-type]
    scene.write_raster(tmp_path / "change.tif")


def test_resumed_run_captions_only_the_rest(
    scene_files: tuple[Path, Path], scene_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal"
    list(Scene.open(*scene_files).captions(scene_engine, GREEDY, journal=journal))
    monkeypatch.setattr(scene_engine.backend, "run", None)  # a run of any graph fails
    assert len(list(Scene.open(*scene_files).captions(scene_engine, GREEDY, journal=journal))) > 5


def test_journal_of_another_run_is_refused(
    scene_files: tuple[Path, Path], scene_engine: Engine, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    stream = Scene.open(*scene_files).captions(scene_engine, GREEDY, journal=journal)
    next(stream)
    with pytest.raises(SceneError, match="another process"):
        Scene.open(*scene_files).captions(scene_engine, GREEDY, journal=journal)
    stream.close()
    other = Scene.open(*scene_files, overlap=0.5)
    with pytest.raises(SceneError, match="unfinished run with other files, options or another model"):
        other.captions(scene_engine, GREEDY, journal=journal)
    other.captions(scene_engine, GREEDY, journal=journal, restart=True)


def test_file_that_was_cut_is_an_error(tmp_path: Path, scene_engine: Engine) -> None:
    image = np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8)
    whole = save(tmp_path / "a.tif", image)
    cut = tmp_path / "b.tif"
    copy(whole, cut, driver="COG")  # its header comes first, so that the file still opens
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(SceneError, match=r"b\.tif: damaged or incomplete"):
        list(Scene.open(whole, cut).captions(scene_engine, GREEDY))


def test_one_file_is_refused(scene_files: tuple[Path, Path]) -> None:
    with pytest.raises(ArgumentError, match="two files"):
        Scene.open(scene_files[0])


class RangeHandler(SimpleHTTPRequestHandler):
    """A server of files that answers requests for ranges, as object stores do."""

    ranges: list[str]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        header = self.headers.get("Range")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        start, end = 0, len(data) - 1
        if header:
            self.ranges.append(header)
            first, _, last = header.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or end), end)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start + 1))
        self.end_headers()
        self.wfile.write(data[start : end + 1])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def server(folder: Path, ranges: list[str]) -> Iterator[str]:
    handler = type("Handler", (RangeHandler,), {"ranges": ranges})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


def test_remote_files_are_read_by_ranges(tmp_path: Path, scene_engine: Engine) -> None:
    image = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), np.uint8)
    for name in "ab":
        save(tmp_path / f"{name}.tif", image)
    size = (tmp_path / "a.tif").stat().st_size
    box = {"bbox": (500_010, 5_199_900, 500_070, 5_199_960), "bbox_crs": "EPSG:32633"}
    ranges: list[str] = []
    with server(tmp_path, ranges) as address:
        remote = Scene.open(f"{address}/a.tif", f"{address}/b.tif", **box)  # type: ignore[arg-type]
        captions = [tile.caption for tile in remote.captions(scene_engine, GREEDY)]
        with pytest.raises(SceneError, match=r"none\.tif"):
            Scene.open(f"{address}/none.tif", f"{address}/b.tif")
    local = Scene.open(tmp_path / "a.tif", tmp_path / "b.tif", **box)  # type: ignore[arg-type]
    assert captions == [tile.caption for tile in local.captions(scene_engine, GREEDY)]
    read = sum(
        int(last) - int(first) + 1 for first, _, last in (r.removeprefix("bytes=").partition("-") for r in ranges)
    )
    assert 0 < read < size  # of two files
