"""Workers of one replica within this process: the service's own parts, without a server."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import httpx

from service.app import create_app
from service.container import Container
from service.inference.bundle import read_bundle
from service.inference.model import Model
from service.registry import client
from service.settings import read_settings
from tests.make.zygote import registry_launcher

T = TypeVar("T")


class Worker:
    """One worker with a model that serves; workers with one state are one replica."""

    def __init__(self, bundle: Path, repository: Path, state: Path, **settings: Any) -> None:
        found = read_settings(repository=str(repository), state=state, bundle=bundle, **settings)
        self.container = Container()
        self.container.settings.override(found)
        self.app = create_app(self.container)
        self.serving = self.container.serving()
        self.serving.switch(Model("local", read_bundle(bundle)))
        self.catalogue: Any = self.container.catalogue()

    def value(self, name: str, **labels: str) -> float:
        """The value of an instrument of this worker."""
        return self.container.metrics().registry.get_sample_value(name, labels) or 0.0

    @property
    def fetches(self) -> float:
        """Bundles that it has fetched."""
        return self.value("model_fetches_total", result="done")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of its application."""
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as found:
            yield found


def within(*workers: Worker, work: Coroutine[Any, Any, T]) -> T:
    """Run in a loop; children of the registry are forks."""

    async def main() -> T:
        try:
            return await work
        finally:
            for worker in workers:
                for task in list(worker.catalogue._tasks.values()):
                    task.cancel()
                await worker.container.registry().close()

    with mock.patch.object(client, "sys", SimpleNamespace(executable=registry_launcher())):
        return asyncio.run(main())
