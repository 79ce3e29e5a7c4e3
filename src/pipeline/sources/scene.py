"""The ground of one simulated chip: randomness, season, and the shapes that painters share."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import fft

from pipeline.sources.spectra import SPECTRA

Array = npt.NDArray[np.floating]  # what grows on (GRID, GRID) or, with bands, (4, GRID, GRID)
Labels = npt.NDArray[np.int64]

GRID = 128  # cells of the ground along a side
CELL = 5.0  # metres


class Scene:
    """The ground of one chip: randomness, season, and the shapes that painters share."""

    def __init__(self, rng: np.random.Generator, vigour: float) -> None:
        """Take `vigour` 0 for the dry season to 1 for full growth."""
        self.rng = rng
        self.vigour = vigour

    def draw(self, low: float, high: float) -> float:
        """Draw one number."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Toss a coin."""
        return bool(self.rng.random() < probability)

    def land(self, *painters: "Callable[[Scene], Array]") -> Array:
        """Paint one of several land covers, (4, GRID, GRID) reflectance."""
        return painters[self.rng.integers(len(painters))](self)

    def material(self, name: str) -> Array:
        """Vary a spectrum as the season and its kind do, (4, 1, 1) reflectance."""
        fresh, fades = SPECTRA[name]
        faded = fades * (1 - self.vigour)
        pure = mix(np.array(fresh), np.array(SPECTRA["straw"].reflectance), faded)
        brightness, colour = self.rng.normal(0, 0.08), self.rng.normal(0, 0.03, 4)
        varied: Array = pure * np.exp(brightness + colour)
        return varied.astype(np.float32)[:, None, None]

    def field(self, metres: float) -> Array:
        """Draw a natural-looking random surface (GRID, GRID) of mean 0 and deviation 1.

        A von Karman spectrum: smooth above `metres`, rougher below.
        """
        noise = fft.rfft2(self.rng.standard_normal((GRID, GRID), dtype=np.float32))
        south, east = fft.fftfreq(GRID, CELL)[:, None], fft.rfftfreq(GRID, CELL)
        wave = 2 * np.pi * metres / 4 * np.hypot(south, east)
        surface: Array = fft.irfft2(noise * ((1 + wave**2) ** -1.75).astype(np.float32))
        surface = (surface - surface.mean()) / surface.std()
        return surface

    def patches(self, metres: float, share: float, edge: float = 0.3) -> Array:
        """Cover about `share` of the ground with patches, (GRID, GRID) from 0 to 1."""
        surface = self.field(metres)
        return soft((surface - np.quantile(surface, 1 - share)) / edge)

    def texture(self, metres: float, contrast: float) -> Array:
        """Draw a factor around 1 for the light and shade within a surface, (GRID, GRID)."""
        return 1 + contrast * self.field(metres)

    def axes(self, bend: float = 0.0) -> tuple[Array, Array]:
        """Lay metric axes at a random angle, (GRID, GRID) each, wavy by `bend` metres."""
        east, south = np.meshgrid(*2 * [(np.arange(GRID, dtype=np.float32) - GRID / 2) * CELL])
        angle = self.draw(0, 2 * np.pi)
        along = np.cos(angle) * east + np.sin(angle) * south
        across = np.cos(angle) * south - np.sin(angle) * east
        if bend:
            across = across + bend * self.field(400)
        return along, across

    def parcels(self, count: int) -> Labels:
        """Divide the ground as heirs divide land: halve the largest parcel, again and again."""
        axes = self.axes()
        labels: Labels = np.zeros((GRID, GRID), dtype=np.int64)
        for new in range(1, count):
            largest = labels == np.bincount(labels.ravel()).argmax()
            axis = max(axes, key=lambda axis: np.ptp(axis[largest]))
            labels[largest & (axis > np.quantile(axis[largest], self.draw(0.3, 0.7)))] = new
        return labels

    def each(self, labels: Labels, low: float, high: float) -> Array:
        """Draw one number for every parcel, (GRID, GRID)."""
        numbers: Array = self.rng.uniform(low, high, labels.max() + 1).astype(np.float32)
        return numbers[labels]


def mix(ground: Array, cover: Array, share: Array | float) -> Array:
    """Mix two surfaces linearly, as reflectance does within a pixel."""
    return ground + (cover - ground) * share


def soft(height: Array) -> Array:
    """Mark what lies above 0 with a ramp from -0.5 to 0.5 in place of a hard edge, 0 to 1."""
    ramp: Array = np.clip(height + 0.5, 0, 1)
    return ramp


def band(distance: Array, width: Array | float) -> Array:
    """Mark what lies within half a width of a line, in metres, with a soft edge of one cell."""
    return soft((width / 2 - np.abs(distance)) / CELL)
