"""From a tag to a model that has passed its self-test, step by step, beside the one that serves."""

import asyncio
import logging
import shutil
from pathlib import Path

from contracts.tags import LOCAL
from service.errors import BundleRefused, NotFound, ServiceError
from service.inference.bundle import Bundle, read_bundle
from service.inference.model import Model
from service.registry.client import RegistryClient
from service.swap.cache import BundleCache
from service.swap.progress import ProgressTracker
from service.tags import parse_tag

log = logging.getLogger("service.swap.loader")


class ModelLoader:
    """From a tag to a model that has passed its self-test."""

    def __init__(
        self, registry: RegistryClient, cache: BundleCache, folder: Path, local_tag: str = LOCAL
    ) -> None:
        """Fetch from a registry into a cache; `folder` has the local bundle, named `local_tag`."""
        self._registry = registry
        self._cache = cache
        self._folder = folder
        self.local_tag = local_tag

    async def fetch(self, tag: str, progress: ProgressTracker) -> Bundle:
        """Fetch the bundle of a tag, verified, into the cache."""
        with progress.step("fetch"):
            folder = await self._registry.fetch(parse_tag(tag))
        try:
            with progress.step("verify"):
                bundle = await asyncio.to_thread(read_bundle, folder)
                await asyncio.to_thread(self._cache.keep, bundle)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)
        return bundle

    async def find(self, tag: str, sha256: str, progress: ProgressTracker) -> Bundle:
        """Find a bundle by its digest: from the cache, the local folder, or by fetching the tag.

        Raises:
            BundleRefused: the tag has come to name another model.
        """
        try:
            return await self.cached(sha256)
        except (NotFound, BundleRefused):
            pass
        if tag == self.local_tag:
            bundle = await asyncio.to_thread(read_bundle, self._folder)
        else:
            bundle = await self.fetch(tag, progress)
        if bundle.manifest.sha256 != sha256:
            raise BundleRefused(f"{tag} has come to name another model: set it again")
        return bundle

    async def cached(self, sha256: str) -> Bundle:
        """Read a bundle from this replica's disk.

        Raises:
            NotFound: it is not there.
            BundleRefused: it was altered.
        """
        return await asyncio.to_thread(self._cache.read, sha256)

    async def local(self) -> Bundle:
        """Read the local bundle, and keep it for a rollback after it has been replaced.

        Raises:
            BundleRefused: it is not there, or must not serve.
        """
        bundle = await asyncio.to_thread(read_bundle, self._folder)
        try:
            await asyncio.to_thread(self._cache.keep, bundle)
        except ServiceError as error:  # a full disk: what can be read can serve
            log.warning("the local bundle is not kept", extra={"detail": error.detail})
        return bundle

    async def load(self, tag: str, bundle: Bundle, progress: ProgressTracker) -> Model:
        """Open, warm up and test a model, beside the one that serves."""
        with progress.step("load"):
            model = await asyncio.to_thread(Model, tag, bundle)
        with progress.step("warm-up"):
            await asyncio.to_thread(model.engine.warm_up)
        with progress.step("self-test"):
            await asyncio.to_thread(model.engine.self_test)
        return model
