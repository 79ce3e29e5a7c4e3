"""Places where a wanted model is kept: a file, or a ConfigMap of the fake of Kubernetes."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.swap.configmap import ConfigMapStore
from service.swap.desired import DesiredModel, FileStore
from tests.fakes.kubernetes import FakeKubernetes

Store = FileStore | ConfigMapStore


def model(version: int, tag: str = "landcover@v1.0.0") -> DesiredModel:
    """A wanted model of this version."""
    return DesiredModel(
        tag=tag,
        sha256=f"{version:064x}",
        previous_tag="local" if version > 1 else None,
        previous_sha256="0" * 64 if version > 1 else None,
        version=version,
        changed=datetime(2026, 3, 1, 12, tzinfo=UTC),
    )


class Place:
    """Makes stores over one place, each as another process would, and spoils the place."""

    def __init__(self, path: Path, api: FakeKubernetes | None, credentials: Path) -> None:
        self.path = path
        self.api = api
        self.credentials = credentials

    def store(self, timeout: float = 30.0) -> Store:
        """A new store, as another process would make it."""
        if self.api is None:
            return FileStore(self.path)
        return ConfigMapStore(self.api.url, "ml", "wanted-model", self.credentials, timeout)

    def content(self) -> str:
        """What is stored, as it is."""
        if self.api is None:
            return self.path.read_text()
        return str(self.api.configmaps["wanted-model"]["data"]["wanted"])

    def overwrite(self, text: str) -> None:
        """Store any text, as somebody else would."""
        if self.api is None:
            self.path.parent.mkdir(exist_ok=True)
            self.path.write_text(text)
        else:
            self.api.put("wanted-model", {"wanted": text})

    def run(self, work: Callable[[Store], Awaitable[Any]], timeout: float = 30.0) -> Any:
        """Do `work` with a new store in a new event loop, and close it."""

        async def steps() -> Any:
            store = self.store(timeout)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(steps())

    def read(self) -> DesiredModel | None:
        """Read with a new store."""
        found: DesiredModel | None = self.run(lambda store: store.read())
        return found

    def write(self, wanted: DesiredModel) -> None:
        """Write with a new store."""
        self.run(lambda store: store.write(wanted))
