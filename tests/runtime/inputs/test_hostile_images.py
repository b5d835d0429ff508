"""Hostile and damaged files: each is an `ImageError` of one line, soon, and nothing else is raised."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsicrc.errors import ImageError
from rsicrc.inputs.headers import MAX_CHUNKS, check_jpeg
from rsicrc.inputs.images import Pair, load_image
from rsicrc.inputs.limits import MAX_SCANS, PixelBudget
from rsicrc.inputs.prefetch import PairReader
from rsicrc.preprocessing import Preprocessing
from rsicrc.results import PairFailure
from tests.runtime.inputs.tiff_writer import tiff

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
DATA = zlib.compress(bytes(64 * 193))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, header: bytes = HEADER) -> bytes:
    return SIGNATURE + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", DATA) + chunk(b"IEND", b"")


def jpeg(*, progressive: bool = True) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        file, "JPEG", progressive=progressive
    )
    return file.getvalue()


def with_scans(content: bytes, scans: int) -> bytes:
    """Repeat the last scan of a JPEG file until it has `scans` scans."""
    last = content[content.rfind(b"\xff\xda") : -2]
    return content[:-2] + last * (scans - content.count(b"\xff\xda")) + b"\xff\xd9"


BAD = {
    "short header": png(header=HEADER[:8]),
    "16 bits": png(header=struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)),
    "16 bits gray": png(header=struct.pack(">IIBBBBB", 64, 64, 16, 0, 0, 0, 0)),
    "16 bits in a second header": png(chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0))),
    "short animation": png(chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fcTL", bytes(4))),
    "text bomb": png(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000)))),
    "many text bombs": png(*[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20)))] * 80),
    "profile bomb": png(chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(100_000_000)))),
    "many chunks": png(chunk(b"tEXt", b"k\0") * (MAX_CHUNKS + 1)),
    "12 bits": jpeg().replace(b"\xff\xc2\x00\x11\x08", b"\xff\xc2\x00\x11\x0c"),
    "many scans": with_scans(jpeg(), MAX_SCANS + 1),
    "many segments": b"\xff\xd8" + b"\xff\xfe\0\x02" * 1_000_000 + jpeg()[2:],
    "fill bytes": b"\xff\xd8" + b"\xff" * 10_000_000 + jpeg()[2:],
    "no frame": b"\xff\xd8\xff\xd9",
    "empty": b"",
    "width 0": tiff(np.zeros((20, 20, 3), np.uint8), tags={256: (0,)}),
    "no bands": tiff(np.zeros((20, 20, 3), np.uint8), tags={277: (0,)}),
    "many bands": tiff(np.zeros((20, 20, 3), np.uint8), tags={277: (65535,)}),
    "run lengths": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 2000, 0, 0, 1078, 40, 8192, 8192, 1, 8, 1, 0, 0, 0, 0, 0)
    + bytes(20_000),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_image_errors_soon(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(BAD[name])
    for image in (path, BAD[name]):
        begin = time.perf_counter()
        with pytest.raises(ImageError) as caught:
            load_image(image)
        assert time.perf_counter() - begin < 1.5
        assert str(caught.value).isprintable()


@pytest.mark.filterwarnings("ignore")
def test_damage_of_any_byte_raises_nothing_else() -> None:
    black = np.zeros((20, 20, 3), np.uint8)
    files = [png(), jpeg(), jpeg(progressive=False), tiff(black), tiff(black, deflate=True, tile=16, planar=2)]
    for suffix in ("WEBP", "BMP"):
        file = io.BytesIO()
        Image.new("RGB", (20, 20)).save(file, suffix)
        files.append(file.getvalue())
    choose = random.Random(0)
    for content in files:
        for _ in range(300):
            damaged = bytearray(content)
            for _ in range(choose.randint(1, 4)):
                damaged[choose.randrange(len(damaged))] = choose.choice([0, 1, 255, choose.randrange(256)])
            with suppress(ImageError):
                load_image(bytes(damaged))


def test_usual_progressive_files_are_read() -> None:
    assert load_image(jpeg()).size == (64, 64)
    assert load_image(with_scans(jpeg(), MAX_SCANS)).size == (64, 64)
    appended = jpeg() + b"\xff\xda" * 1000  # for example a video behind the image
    assert load_image(appended).size == (64, 64)
    assert load_image(png(chunk(b"tEXt", b"k\0") * 1000)).size == (64, 64)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    long, surrogate, nul = "x" * 5000, "\ud800.png", "a\0b.png"
    names: list[str | bytes | Path] = [
        tmp_path / "fifo.png",
        tmp_path / "folder.png",
        "/dev/zero",
        long,
        surrogate,
        nul,
        "",
        b"/\xff.png",
    ]
    for name in names:
        with pytest.raises(ImageError) as caught:
            load_image(name if isinstance(name, (str, Path)) else os.fsdecode(name))
        assert str(caught.value).isprintable()


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(png())
    assert load_image(path).size == (64, 64)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"caf\\udce9\.png: the file is empty"):
        load_image(path)


def test_one_bad_pair_does_not_end_the_rest(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(png())
    good = (tmp_path / "good.png", tmp_path / "good.png")
    os.mkfifo(tmp_path / "fifo.png")
    bad: list[tuple[Path, str | Path]] = [
        (good[0], other) for other in ("a\0b", "\ud800", "/dev/zero", str(tmp_path / "fifo.png"), "x" * 5000)
    ]
    for number, name in enumerate(BAD):
        (tmp_path / f"{number}.png").write_bytes(BAD[name])
        bad.append((good[0], str(tmp_path / f"{number}.png")))
    pairs: list[Pair] = [good, *bad, good]
    reader = PairReader(pairs, Preprocessing(32), 100, workers=2)
    (batch,) = reader
    assert len(batch.images) == 2
    assert [isinstance(failure, PairFailure) for failure in batch.failures] == [False, *[True] * len(bad), False]


def test_memory_errors_are_image_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(ImageError, match="not enough memory"):
        load_image(png())


def test_budget_bounds_pixels_and_grants_them_in_order() -> None:
    budget = PixelBudget(10)
    used, peak, order = 0, 0, []
    lock = threading.Lock()

    def work(number: int, pixels: int) -> None:
        nonlocal used, peak
        with budget.hold(pixels):
            with lock:
                used += pixels
                peak = max(peak, used)
                order.append(number)
            time.sleep(0.02)
            with lock:
                used -= pixels

    threads = [threading.Thread(target=work, args=(number, pixels)) for number, pixels in enumerate([6, 10, 1, 6, 4])]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert peak == 10
    assert order == [0, 1, 2, 3, 4]


def test_large_pairs_of_all_threads_share_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 256
    Image.new("RGB", (size, size)).save(tmp_path / "image.png")
    monkeypatch.setattr("rsicrc.inputs.images.pixel_budget", PixelBudget(size * size))
    alive, peak, lock = 0, 0, threading.Lock()
    prepare = Preprocessing.prepare

    def counted(self: Preprocessing, image: Image.Image) -> np.ndarray:
        nonlocal alive, peak
        with lock:
            alive += 1
            peak = max(peak, alive)
        time.sleep(0.005)
        with lock:
            alive -= 1
        return prepare(self, image)

    monkeypatch.setattr(Preprocessing, "prepare", counted)
    path = tmp_path / "image.png"
    (batch,) = PairReader([(path, path)] * 8, Preprocessing(32), 8, workers=4)
    assert len(batch.images) == 8
    assert peak == 1


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_memory_of_progressive_files_is_bounded(subsampling: str) -> None:
    """Libjpeg holds all coefficients of a progressive image, so 8192 x 8192 pixels would need 2.4 to 3.4 images."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=True, subsampling=subsampling)
    largest, small = (resized(file.getvalue(), side) for side in (8192, 6144))
    with pytest.raises(ImageError, match="takes too much memory"):
        check_jpeg(io.BytesIO(largest), "a.jpg")
    check_jpeg(io.BytesIO(small), "a.jpg")
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", subsampling=subsampling)
    check_jpeg(io.BytesIO(resized(file.getvalue(), 8192)), "a.jpg")
    one_component_per_scan = resized(file.getvalue(), 8192).replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x08\x01")
    with pytest.raises(ImageError, match="takes too much memory"):
        check_jpeg(io.BytesIO(one_component_per_scan), "a.jpg")


def resized(jpeg: bytes, side: int) -> bytes:
    """Return a JPEG file whose header declares another size."""
    frame = next(at for kind in (0xC0, 0xC2) if (at := jpeg.find(bytes((0xFF, kind, 0, 17, 8)))) > 0) + 5
    return jpeg[:frame] + struct.pack(">HH", side, side) + jpeg[frame + 4 :]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_reading_a_large_image_needs_little_memory(suffix: str, tmp_path: Path) -> None:
    """Pillow stores RGB in 4 bytes, so 1.33 times the decoded size is the least; a copy would make it 2.67."""
    side = 4096
    path = tmp_path / f"large.{suffix}"
    Image.new("RGB", (side, side), (10, 20, 30)).save(path)
    program = """
import sys
from rsicrc.inputs.prefetch import prepare_pair
from rsicrc.preprocessing import Preprocessing
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
from PIL import Image
Image.new("RGB", (64, 64)).save(sys.argv[2])
prepare_pair((sys.argv[2], sys.argv[2]), Preprocessing(224))
before = peak()
prepare_pair((sys.argv[1], sys.argv[1]), Preprocessing(224))
print((peak() - before) / (3 * int(sys.argv[3]) ** 2))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, path, tmp_path / f"small.{suffix}", str(side)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(ended.stdout) < 1.7
