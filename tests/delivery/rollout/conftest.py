"""Rollouts that retry after hundredths of a second, and bundles for them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from delivery.rollout import controller, smoke_test, workload
from tests.make.bundles import make_bundle


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Retry after hundredths of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smoke_test, "PAUSE", 0.05)
        patch.setattr(workload, "PAUSE", 0.05)
        patch.setattr(controller, "IMMEDIATE", 0.2)
        yield


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The bundles of v1.1.0 to v1.4.0; that of v1.3.0 fails its self-test."""
    folder = tmp_path_factory.mktemp("bundles")
    found = {number: make_bundle(folder / str(number), seed=number) for number in range(1, 5)}
    manifest = json.loads((found[3] / "model.json").read_bytes())
    for golden in manifest["golden"]:
        golden["probabilities"].reverse()
    (found[3] / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    return found
