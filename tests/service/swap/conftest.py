"""Places where a desired model is kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.kubernetes import FakeKubernetes, serving


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
