"""A model that maps and a scene, made once; they are read only."""

from pathlib import Path

import pytest

from tests.make import maps

HEIGHT, WIDTH = 203, 331
"""Of the scene: no multiple of any stride, tile or block."""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentation model, exact in tiles."""
    return maps.make_bundle(tmp_path_factory.mktemp("maps") / "model")


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene with a corner that has no data."""
    pixels = maps.ground(HEIGHT, WIDTH)
    pixels[:, 150:, :190] = 0
    return maps.write_scene(tmp_path_factory.mktemp("scenes") / "scene.tif", pixels)


@pytest.fixture(scope="session")
def long_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of a dozen strips, one tile each."""
    pixels = maps.ground(6000, 500)
    path = tmp_path_factory.mktemp("scenes") / "long.tif"
    return maps.write_scene(path, pixels, blockxsize=256, blockysize=256)
