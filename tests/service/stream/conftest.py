"""A broker that the tests of a module share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.make import kafka


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running broker: host:port."""
    with kafka.broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def topics(brokers: str) -> kafka.Topics:
    """Topics of their own, with four partitions."""
    return kafka.topics(brokers)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with 4 bands of uint16, 16 x 16 pixels: its frames have 2 KB."""
    from tests.make.bundles import make_bundle

    return make_bundle(tmp_path_factory.mktemp("small") / "model", size=16)
