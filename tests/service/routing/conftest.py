"""Workers of one replica with rules of the traffic, beside a registry of several models."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.routing.router import NOT_YET, Router
from tests.make.bundles import make_chip
from tests.make.images import npy
from tests.make.replicas import Worker
from tests.service.models.conftest import V1, V2, counters, registry, start

__all__ = ["counters", "registry", "start"]
KIND = {"content-type": "application/octet-stream"}
CHIP = npy(make_chip(5))
SPLIT = f"name: trial\narms: {{default: 0.5, {V2}: 0.5}}\n"
LEARN = f"{SPLIT}learn: {{floor: 0.05, labels: 4}}\n"
ALL_TO_V2 = f"name: trial\narms: {{default: 0, {V2}: 1}}\n"


class Traffic:
    """A worker with a file of rules."""

    def __init__(self, worker: Worker, file: Path) -> None:
        self.worker = worker
        self.file = file

    @property
    def router(self) -> Router:
        """Its router."""
        found: Any = self.worker.container.router()
        assert isinstance(found, Router)
        return found

    async def follow(self, text: str | None = None) -> None:
        """Write the file, and wait until its models have arrived or cannot."""
        if text is not None:
            self.file.write_text(text, encoding="utf-8")
        await self.router.read()
        for _ in range(600):
            await self.router.resolve()
            plan = self.router.plan
            arms = [*plan.arms, *([plan.shadow] if plan.shadow else [])] if plan else []
            if not any(arm.problem.startswith(NOT_YET) for arm in arms):
                break
            await asyncio.sleep(0.05)
        await self.router.read()

    async def predict(self, query: str = "", **headers: str) -> httpx.Response:
        """Predict a chip."""
        async with self.worker.client() as client:
            return await client.post(f"/predict{query}", content=CHIP, headers=KIND | headers)

    async def get(self, path: str = "/routing") -> Any:
        """Read a route."""
        async with self.worker.client() as client:
            answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.headers["content-type"] != "text/plain" else answer.text

    async def arm(self, reference: str) -> dict[str, Any]:
        """What `GET /routing` says of an arm."""
        found: dict[str, Any] = next(
            arm for arm in (await self.get())["arms"] if arm["arm"] == reference
        )
        return found

    async def label(self, answer: httpx.Response, right: bool) -> None:
        """Say whether an answer was right."""
        found = answer.json()
        label = found["class"]
        if not right:
            label = next(name for name in found["probabilities"] if name != label)
        async with self.worker.client() as client:
            body = {"request_id": found["request_id"], "label": label}
            given = await client.post("/feedback", json=body)
        assert given.status_code == 200, given.text


@pytest.fixture
def traffic(
    start: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Traffic]:
    """Start a worker with a file of rules, which its replica shares."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")  # all workers here are one process

    def begin(**settings: object) -> Traffic:
        file = tmp_path / "routing.yaml"
        return Traffic(start(routing=str(file), **settings), file)

    return begin


__all__ += ["ALL_TO_V2", "CHIP", "KIND", "LEARN", "SPLIT", "V1", "V2"]
