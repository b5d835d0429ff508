"""Imaging conditions: sun, season, atmosphere and camera, whose differences are not a change of the scene."""

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from rsicrc_train.synth.terrain import BANK, SIZE, Color, crop, noise, texture

_GRAIN_SEED = 20242


@dataclass(frozen=True, slots=True)
class Weather:
    """Conditions that differ between before and after image although the scene is unchanged.

    Attributes:
        azimuth: Direction of the shadows, radians from the right, clockwise in the image.
        elevation: Elevation of the sun, radians.
        drought: Dryness of the vegetation, from 0 (green) to 1 (yellow).
        gains: Factors of red, green and blue.
        gamma: Exponent of the tone curve.
        contrast: Factor around mid-gray.
        haze: Haze from 0 (clear) to 1 (white).
        blur: Standard deviation of the lens's Gaussian blur, pixels.
        grain: Amplitude of the sensor noise, 0 to 1.
        shift: Shift of the image, (x, y) pixels, at most 2 each.
        autumn: Share of the trees that are yellow or brown.
        leafless: Share of the trees without leaves.
        clouds: Strength of soft cloud shadows, 0 to 1.
        mist: Strength of patches of mist, 0 to 1.
        seed: Seed of irrelevant differences: cars, wear of the ground, grain.
    """

    azimuth: float
    elevation: float
    drought: float
    gains: tuple[float, float, float]
    gamma: float
    contrast: float
    haze: float
    blur: float
    grain: float
    shift: tuple[float, float]
    seed: int
    autumn: float = 0.0
    leafless: float = 0.0
    clouds: float = 0.0
    mist: float = 0.0

    @property
    def shadow(self) -> tuple[float, float]:
        """Shadow (x, y) in pixels of an object that is one pixel high."""
        length = 1 / math.tan(self.elevation)
        return length * math.cos(self.azimuth), length * math.sin(self.azimuth)

    def light_on(self, direction: float, pitch: float) -> float:
        """Return the brightness of a slope that falls towards a direction (radians), relative to level ground."""
        toward = math.cos(direction - self.azimuth - math.pi)
        incidence = math.cos(pitch) + math.sin(pitch) * toward / math.tan(self.elevation)
        return min(1.3, 0.42 + 0.58 * max(0.0, incidence))

    def vegetation_color(self, color: Color) -> Color:
        """Return the color of grass or leaves at this dryness."""
        red, green, blue = color
        dry = self.drought
        return red * (0.84 + 0.38 * dry), green * (1.02 + 0.05 * dry), blue * (0.94 + 0.1 * dry)


def draw_weather(rng: np.random.Generator) -> Weather:
    """Draw the weather of one image."""
    warmth = rng.normal(0, 0.04)
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2)
    return Weather(
        # The sun is in the south, so shadows point roughly to the top of the image.
        azimuth=float(-np.pi / 2 + rng.uniform(-1.2, 1.2)),
        elevation=float(rng.uniform(0.7, 1.15)),
        drought=float(rng.random()),
        gains=(float(1 + warmth + rng.normal(0, 0.012)), 1.0, float(1 - warmth + rng.normal(0, 0.012))),
        gamma=float(np.exp(rng.normal(0, 0.15))),
        contrast=float(rng.uniform(0.75, 1.2)),
        haze=float(rng.choice([0.0, rng.uniform(0, 0.18)])),
        blur=float(rng.uniform(0.4, 0.85)),
        grain=float(rng.uniform(0.05, 0.6)),
        shift=(float(reach * np.cos(angle)), float(reach * np.sin(angle))),
        seed=int(rng.integers(1 << 30)),
        autumn=float(rng.choice([0.0, rng.uniform(0.1, 0.6)])),
        leafless=float(rng.uniform(0.1, 0.45)) if rng.random() < 0.25 else 0.0,
        clouds=float(rng.uniform(0.15, 0.4)) if rng.random() < 0.3 else 0.0,
        mist=float(rng.uniform(0.1, 0.3)) if rng.random() < 0.25 else 0.0,
    )


def photograph(image: NDArray[np.uint8], weather: Weather) -> NDArray[np.uint8]:
    """Simulate atmosphere and camera on a rendered scene, RGB uint8 [256, 256, 3]; return the same format."""
    curve = (np.linspace(0, 1, 256) ** weather.gamma - 0.45) * weather.contrast + 0.45
    toned = cv2.LUT(image, np.clip(curve * 255, 0, 255).astype(np.uint8))
    gains = np.diag(weather.gains) * (1 - weather.haze)
    aired = cv2.transform(toned, np.column_stack([gains, np.full(3, 0.72 * 255 * weather.haze)]))
    place = (weather.seed % 511, weather.seed // 511 % 511)
    if weather.clouds:
        cv2.multiply(aired, 255 - _veil(place, weather.clouds), aired, 1 / 255)
    if weather.mist:
        aired = cv2.add(
            cv2.multiply(aired, 255 - _veil(place, weather.mist), None, 1 / 255), _veil(place, 0.75 * weather.mist)
        )
    # Shift and blur are one separable filter: a Gaussian that is not centered on its anchor.
    (across, x), (down, y) = (_lens(weather.blur, part) for part in weather.shift)
    blurred = cv2.sepFilter2D(aired, -1, across, down, anchor=(x, y), borderType=cv2.BORDER_REFLECT_101)
    origin = (weather.seed % (BANK - SIZE), weather.seed // 1024 % (BANK - SIZE))
    grain = crop(_grain_bank(), origin, weather.seed % 4)
    return np.asarray(cv2.addWeighted(blurred, 1.0, grain, weather.grain, -128 * weather.grain), np.uint8)


def _lens(blur: float, shift: float) -> tuple[NDArray[np.float64], int]:
    """Return a Gaussian of six taps and its anchor, which together blur and shift by -2 to 2 pixels."""
    whole = math.floor(shift)
    gauss = np.exp(-0.5 * (np.arange(-2, 3) / blur) ** 2)
    kernel = np.zeros(6)
    # To shift an image to one side, a filter reads from the other side; fractions of a pixel are interpolated.
    kernel[1:] += (1 - (shift - whole)) * gauss
    kernel[:-1] += (shift - whole) * gauss
    return np.asarray(kernel / kernel.sum(), np.float64), whole + 3


def _veil(place: tuple[int, int], strength: float) -> NDArray[np.uint8]:
    """Return soft patches [256, 256, 3] up to a strength from 0 to 1."""
    return np.asarray(cv2.convertScaleAbs(crop(_veil_bank(), place), None, strength), np.uint8)


@cache
def _veil_bank() -> NDArray[np.uint8]:
    """Return soft patches, uint8 [768, 768, 3]; half of the pixels are 0."""
    field = noise(np.random.default_rng(_GRAIN_SEED + 1), BANK, ((5, 1.0), (11, 0.4)))
    return cv2.merge([np.clip(160 * field, 0, 255).astype(np.uint8)] * 3).astype(np.uint8)


@cache
def _grain_bank() -> NDArray[np.uint8]:
    """Return sensor noise and JPEG artifacts, uint8 [768, 768, 3] around 128."""
    rng = np.random.default_rng(_GRAIN_SEED)
    ground = texture("rubble")
    _, packed = cv2.imencode(".jpg", ground, [cv2.IMWRITE_JPEG_QUALITY, 40])
    blocks = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.float32) - ground
    sensor = np.stack([noise(rng, BANK, ((BANK, 1.0),)) for _ in range(3)], -1)
    return np.clip(128 + 5 * sensor + 0.7 * blocks, 0, 255).astype(np.uint8)
