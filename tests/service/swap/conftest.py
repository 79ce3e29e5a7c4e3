"""Places where a desired model is kept, and models that were published."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.kubernetes import FakeKubernetes, serving
from tests.make.load import Truth, truth
from tests.make.projects import Published, digest_of
from tests.make.swaps import Label


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A repository with nothing in it."""
    return Published(tmp_path_factory.mktemp("project") / "project")


@pytest.fixture(scope="module")
def known(bundles: dict[str, Path]) -> Truth:
    """The right answers of the `bundles` of a module."""
    return truth(bundles)


@pytest.fixture(scope="module")
def label(bundles: dict[str, Path]) -> dict[str, Label]:
    """Tag and digest of them."""
    return {tag: (tag, digest_of(folder)) for tag, folder in bundles.items()}


@pytest.fixture
def api() -> Iterator[FakeKubernetes]:
    with serving() as found:
        yield found


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("token-1\n")
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "wanted.json"
