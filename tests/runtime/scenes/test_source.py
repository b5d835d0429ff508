"""Files of scenes: drivers, bands, positions and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine

from rsicrc.errors import SceneError
from rsicrc.scenes.source import Source
from tests.runtime.scenes.files import ORIGIN, PIXEL, UTM, save, texture

VRT = """<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:32633</SRS>
<GeoTransform>500000, 0.5, 0, 5200000, 0, -0.5</GeoTransform>
<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename>{}</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""


def test_vrt_with_the_name_of_a_geotiff_is_refused(tmp_path: Path) -> None:
    secret = save(tmp_path / "secret.tif", texture(64, 64))
    disguised = tmp_path / "scene.tif"
    disguised.write_text(VRT.format(secret))
    with rasterio.open(disguised) as dataset:  # GDAL itself opens the other file
        assert dataset.read(1).any()
    with pytest.raises(SceneError, match="cannot be opened as GeoTIFF"):
        Source.read(str(disguised), None)


@pytest.mark.parametrize("suffix", [".ovr", ".msk"])
def test_vrt_next_to_a_geotiff_is_refused(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / "scene.tif", texture(64, 64))
    Path(f"{path}{suffix}").write_text(VRT.format(path))
    with pytest.raises(SceneError, match="not a TIFF file"):
        Source.read(str(path), None)


@pytest.mark.parametrize("name", ["/vsicurl/https://example.com/a.tif", "ftp://example.com/a.tif", "file:///a.tif"])
def test_other_addresses_are_refused(name: str) -> None:
    with pytest.raises(SceneError, match="https://"):
        Source.read(name, None)


def test_bands_are_found_by_color(tmp_path: Path) -> None:
    image = np.concatenate([texture(64, 64)[..., ::-1], texture(64, 64, 1)[..., :1]], axis=2)
    path = save(tmp_path / "bgrn.tif", image, photometric="MINISBLACK", descriptions=("Blue", "Green", "Red", "NIR"))
    source = Source.read(str(path), None)
    assert (source.bands, source.named) == ((3, 2, 1), True)


def test_bands_without_names_are_the_first_three_of_four_but_not_of_more(tmp_path: Path) -> None:
    image = np.concatenate([texture(64, 64)] * 2, axis=2)
    four = save(tmp_path / "four.tif", image[..., :4], photometric="MINISBLACK")
    assert (Source.read(str(four), None).bands, Source.read(str(four), None).named) == ((1, 2, 3), False)
    six = save(tmp_path / "six.tif", image, photometric="MINISBLACK")
    with pytest.raises(SceneError, match="--bands"):
        Source.read(str(six), None)
    assert Source.read(str(six), (6, 5, 4)).bands == (6, 5, 4)
    with pytest.raises(SceneError, match="has 6 bands, not 7"):
        Source.read(str(six), (7, 2, 1))


def test_one_band_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "gray.tif", texture(64, 64)[..., :1])
    with pytest.raises(SceneError, match="has 1 band; the model needs red, green and blue"):
        Source.read(str(path), None)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_files_without_position_are_refused(tmp_path: Path) -> None:
    no_system = save(tmp_path / "crs.tif", texture(64, 64), crs=None)
    with pytest.raises(SceneError, match="no coordinate reference system"):
        Source.read(str(no_system), None)
    no_transform = save(tmp_path / "transform.tif", texture(64, 64), transform=Affine.identity())
    with pytest.raises(SceneError, match="no position"):
        Source.read(str(no_transform), None)


def test_ground_control_points_give_the_transform(tmp_path: Path) -> None:
    path = tmp_path / "gcps.tif"
    x, y = ORIGIN
    points = [GroundControlPoint(r, c, x + c * PIXEL, y - r * PIXEL) for r, c in ((0, 0), (0, 64), (64, 64), (64, 0))]
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=3, dtype="uint8", photometric="RGB"
    ) as file:
        file.write(texture(64, 64).transpose(2, 0, 1))
        file.gcps = (points, rasterio.crs.CRS.from_string(UTM))
    source = Source.read(str(path), None)
    assert source.transform.almost_equals(Affine(PIXEL, 0, x, 0, -PIXEL, y), precision=1e-6)
    assert source.crs.to_epsg() == 32633


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="no such file"):
        Source.read(str(tmp_path / "none.tif"), None)
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(SceneError, match="cannot be opened"):
        Source.read(str(broken), None)


def test_time_is_read_from_the_file(scene_files: tuple[Path, Path]) -> None:
    assert [Source.read(str(path), None).time for path in scene_files] == [
        "2018-05-01T10:00:00Z",
        "2020-06-02T11:30:00Z",
    ]


def test_overviews_in_another_file_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "scene.tif", texture(64, 64))
    Path(f"{path}.aux.xml").write_text(
        '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/etc/other.tif</MDI></Metadata></PAMDataset>'
    )
    with pytest.raises(SceneError, match="names another file with overviews"):
        Source.read(str(path), None)


def test_jpeg_2000_is_read(tmp_path: Path) -> None:
    path = tmp_path / "scene.jp2"
    profile = {"width": 128, "height": 128, "count": 3, "dtype": "uint8", "crs": UTM}
    transform = rasterio.transform.from_origin(*ORIGIN, PIXEL, PIXEL)
    with rasterio.open(path, "w", driver="JP2OpenJPEG", transform=transform, **profile) as file:
        file.write(texture(128, 128).transpose(2, 0, 1))
    assert Source.read(str(path), (1, 2, 3)).transform == transform
