"""Loads the model of a tag, step by step up to its self-test, while another model serves."""

import asyncio
import logging
import shutil
from pathlib import Path

from contracts.tags import LOCAL
from service.errors import BundleRefused, NotFound, ServiceError
from service.inference.bundle import Bundle, read_bundle
from service.inference.model import Model
from service.inference.several import GAIN, SHARED, gain_at_once, images_at_once
from service.registry.client import RegistryClient
from service.swap.cache import BundleCache
from service.swap.progress import ProgressTracker
from service.tags import parse_tag

log = logging.getLogger("service.swap.loader")


class ModelLoader:
    """Fetches, verifies, loads and tests models."""

    def __init__(
        self,
        registry: RegistryClient,
        cache: BundleCache,
        folder: Path,
        local_tag: str = LOCAL,
        device: str = "auto",
    ) -> None:
        """Fetch from a registry into a cache; `folder` has the local bundle, named `local_tag`.

        `device` is the setting of this name.
        """
        self._registry = registry
        self._cache = cache
        self._folder = folder
        self.local_tag = local_tag
        self._device = device
        self._gains: dict[tuple[int, ...], float] = {}  # shape of a chip -> by running several

    async def fetch_bundle(self, tag: str, progress: ProgressTracker) -> Bundle:
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

    async def find_bundle(self, tag: str, sha256: str, progress: ProgressTracker) -> Bundle:
        """Find a bundle by its digest: from the cache, the local folder, or by fetching the tag.

        Raises:
            BundleRefused: the tag now names another model.
        """
        try:
            return await self.read_cached(sha256)
        except (NotFound, BundleRefused):
            pass
        if tag == self.local_tag:
            bundle = await asyncio.to_thread(read_bundle, self._folder)
        else:
            bundle = await self.fetch_bundle(tag, progress)
        if bundle.manifest.sha256 != sha256:
            raise BundleRefused(f"{tag} now names another model: set it again")
        return bundle

    async def read_cached(self, sha256: str) -> Bundle:
        """Read a bundle from this replica's disk.

        Raises:
            NotFound: the disk does not have it.
            BundleRefused: it was altered.
        """
        return await asyncio.to_thread(self._cache.read, sha256)

    async def read_local(self) -> Bundle:
        """Read the local bundle, and cache it for a rollback after its replacement.

        Raises:
            BundleRefused: it is missing, or must not serve.
        """
        bundle = await asyncio.to_thread(read_bundle, self._folder)
        try:
            await asyncio.to_thread(self._cache.keep, bundle)
        except ServiceError as error:  # a full disk: the bundle serves from memory
            log.warning("local bundle not cached", extra={"detail": error.detail})
        return bundle

    async def load_model(self, tag: str, bundle: Bundle, progress: ProgressTracker) -> Model:
        """Open, warm up and test a model, while another one serves."""
        with progress.step("load"):
            model = await asyncio.to_thread(Model, tag, bundle, self._device)
        with progress.step("warm-up"):
            await asyncio.to_thread(model.engine.warm_up)
        with progress.step("self-test"):
            await asyncio.to_thread(model.engine.self_test)
            model.at_once = await asyncio.to_thread(self._measure, model)
        return model

    def _measure(self, model: Model) -> int:
        """How many images that wait are to share a run: measured once, for chips of one shape.

        A swap then costs nothing where nothing is gained.
        """
        shape = model.manifest.input.shape
        if shape not in self._gains:
            self._gains[shape] = gain_at_once(model)
            gain = round(self._gains[shape], 2)
            log.info("measured several images at once", extra={"chip": shape, "gain": gain})
        return min(SHARED, images_at_once(model)) if self._gains[shape] >= GAIN else 1
