"""The bundle that a batch uses: of a folder, or of a tag of the registry."""

import asyncio
import logging
import shutil
from pathlib import Path

from service.errors import Unprocessable
from service.inference.bundle import Bundle, read_bundle
from service.registry.client import RegistryClient
from service.secrets import MountedSecrets
from service.settings import Settings
from service.tags import parse_tag


def find_bundle(folder: Path | None, tag: str | None, settings: Settings) -> Bundle:
    """Read the bundle of a folder, or fetch that of a tag; else the one that would serve.

    Raises:
        ServiceError: it is not there, or must not serve.
    """
    if tag is not None:
        # What it logs for a service that goes on is the sentence that this command ends with.
        logging.getLogger("service.registry").setLevel(logging.CRITICAL)
        return asyncio.run(_fetch(tag, settings))
    folder = folder or settings.bundle
    if not folder.is_dir():
        raise Unprocessable(
            f"--bundle {folder}: there is no such folder: train a model with `dvc repro`, get it "
            "with `dvc pull`, or name one by --tag"
        )
    return read_bundle(folder)


async def _fetch(tag: str, settings: Settings) -> Bundle:
    """Fetch as a swap does; nothing of it stays on the disk."""
    registry = RegistryClient(
        settings.repository,
        settings.state,
        settings.refresh,
        settings.fetch_timeout,
        MountedSecrets(settings.secrets),
    )
    try:
        folder = await registry.fetch(parse_tag(tag))
        try:
            return read_bundle(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        await registry.close()
