"""Lists experiments and fetches bundles by Git tag, through a child process.

    python -m service.registry list --repository=. --cache=artifacts/service
    python -m service.registry fetch --repository=. --cache=... --tag=landcover@v1.0.0 --into=NAME

The child parses untrusted files and imports DVC: it has its own time and memory, and can be killed
at any moment. The server itself only runs `git for-each-ref`, at most once a second, and starts the
child when the tags have changed.
"""

import asyncio
import logging
import os
import secrets
import shutil
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from contracts.tags import Tag
from service.errors import RegistryUnavailable, ServiceError
from service.files import birth, disk_error, is_alive
from service.registry import git
from service.registry.protocol import (
    FETCHED,
    KINDS,
    REFERENCES,
    Response,
    Snapshot,
    fingerprint,
    load_snapshot,
)
from service.schemas import Listing
from service.secrets import MountedSecrets

PAUSE = 1.0  # seconds between two checks of Git
RETRY = 5.0  # seconds between two tries to reach a URL
LOOK_SECONDS = 10.0  # longest listing of the names of the tags
LIST_SECONDS = 150.0  # longest reading of all tags, the first fetch of a URL included
LEFTOVER_SECONDS = 3600.0  # age above which a fetched folder is a leftover

_log = logging.getLogger(__name__)
_PACKAGES = str(Path(__file__).resolve().parents[2])


class RegistryClient:
    """The tags of one repository. Belongs to one event loop; processes may share the cache."""

    def __init__(
        self,
        repository: str,
        cache: Path,
        refresh: float = 30.0,
        seconds: float = 600.0,
        secrets: MountedSecrets | None = None,
    ) -> None:
        """Remember the repository and the cache; nothing is read yet.

        Args:
            repository: path of a working tree or bare repository, or a URL.
            cache: folder for the mirror, the listing and running fetches.
            refresh: seconds after which the mirror of a URL is brought up to date.
            seconds: longest fetch of a bundle.
            secrets: credentials of the repository and of the DVC remote, read at each use.
        """
        self._mirrored = git.is_url(repository)
        self._repository = repository if self._mirrored else str(Path(repository).absolute())
        self._cache = cache.absolute()
        self._refresh = refresh
        self._seconds = seconds
        self._secrets = secrets or MountedSecrets("")
        self._reading = asyncio.Lock()
        self._read_at = -PAUSE
        self._answer: Listing | RegistryUnavailable | None = None
        self._snapshot: Snapshot | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = -refresh
        self._refresh_error: str | None = None

    async def experiments(self) -> Listing:
        """Return the experiments, newest first; from the cache while Git is unavailable.

        Raises:
            RegistryUnavailable: Git is unavailable and the cache is empty.
        """
        if not isinstance(self._answer, Listing) or not self._reading.locked():
            async with self._reading:
                if time.monotonic() - self._read_at >= PAUSE:
                    self._answer = await self._read_listing()
                    self._read_at = time.monotonic()
        if isinstance(self._answer, Listing):
            return self._answer
        assert self._answer is not None
        raise RegistryUnavailable(self._answer.detail)

    async def fetch(self, tag: Tag) -> Path:
        """Return a new folder with model.onnx and model.json of a tag, from the DVC remote.

        The md5 of every file is verified. The caller checks whether the bundle may serve, then
        moves or deletes the folder.

        Raises:
            NotFound: the tag does not exist, or its commit or the remote has no model.
            BundleRefused: the remote holds altered files, or not the two files of a bundle.
            RegistryUnavailable: Git or the remote is unreachable or took too long.
            StorageFull: the disk is full.
        """
        base = self._cache / FETCHED
        name = f"{os.getpid()}-{birth(os.getpid())}-{secrets.token_hex(8)}"
        work = base / f"{name}.work"
        try:
            await asyncio.to_thread(_remove_leftovers, base)
            work.mkdir(parents=True)
            await self._run_child(
                "fetch", f"--tag={tag.tag}", f"--into={name}", seconds=self._seconds, folder=work
            )
        except BaseException as error:
            shutil.rmtree(base / name, ignore_errors=True)
            if isinstance(error, OSError):
                raise _unwritable(error) from error
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return base / name

    async def close(self) -> None:
        """Stop the background refresh."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await self._refreshing

    async def _read_listing(self) -> Listing | RegistryUnavailable:
        if self._snapshot is None:
            self._snapshot = await asyncio.to_thread(load_snapshot, self._cache, self._repository)
        checked, stale = None, None
        try:
            if self._mirrored:
                checked, stale = await self._check_mirror()
            references = fingerprint(await self._references())
            if self._snapshot is None or self._snapshot.references != references:
                await self._list()
        except RegistryUnavailable as error:
            if self._snapshot is None:
                return error
            checked, stale = checked or self._snapshot.checked, error.detail
        assert self._snapshot is not None
        return Listing(
            experiments=self._snapshot.experiments,
            fresh=stale is None,
            detail=stale,
            checked=checked or datetime.now(UTC),
        )

    async def _check_mirror(self) -> tuple[datetime, str | None]:
        """Return the time of the last refresh of the mirror, and why it is stale.

        Only the first call waits for a fetch; later calls use the mirror as it is.
        """
        stamp = git.git_dir(self._repository, self._cache) / git.STAMP
        if self._snapshot is None and not stamp.exists():
            await self._list("--refresh")
        try:
            checked = stamp.stat().st_mtime
        except FileNotFoundError:
            checked = None
        if checked is not None and time.time() - checked <= self._refresh:
            return datetime.fromtimestamp(checked, UTC), None
        running = self._refreshing is not None and not self._refreshing.done()
        if not running and time.monotonic() - self._refreshed_at >= min(self._refresh, RETRY):
            self._refreshing = asyncio.create_task(self._refresh_mirror())
        detail = self._refresh_error or "Git was not checked for a while; a new check is under way."
        if checked is None:
            raise RegistryUnavailable(detail)
        return datetime.fromtimestamp(checked, UTC), detail

    async def _refresh_mirror(self) -> None:
        try:
            await self._list("--refresh")
            self._refresh_error = None
        except ServiceError as error:
            self._refresh_error = error.detail
        self._refreshed_at = time.monotonic()
        self._read_at = -PAUSE  # the next request reads the new listing

    async def _list(self, *words: str) -> None:
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(error) from error
        answer = await self._run_child("list", *words, seconds=LIST_SECONDS)
        self._snapshot = answer.snapshot

    async def _references(self) -> bytes:
        folder = git.git_dir(self._repository, self._cache)
        try:
            code, output, said = await _run(
                git.arguments(folder, *REFERENCES), git.environment(), LOOK_SECONDS, PIPE
            )
        except FileNotFoundError:
            raise RegistryUnavailable("git is not installed on the server; install it.") from None
        if code:
            error = git.failure(REFERENCES[0], code, said.decode(errors="replace"))
            _log.warning("git: %s", error.log)
            raise RegistryUnavailable(str(error))
        return output

    async def _run_child(self, *words: str, seconds: float, folder: Path | None = None) -> Response:
        """Run one command of service/registry/__main__.py; raise its errors."""
        command = [sys.executable, "-P", "-m", "service.registry", *words]
        command += [f"--repository={self._repository}", f"--cache={self._cache}"]
        command += [f"--seconds={int(seconds) + 10}"]
        paths = os.pathsep.join(filter(None, (_PACKAGES, os.environ.get("PYTHONPATH"))))
        environment = os.environ | self._secrets.variables() | {"PYTHONPATH": paths}
        environment = git.with_credentials(environment, self._repository, self._secrets)
        if folder is not None:
            environment |= {"TMPDIR": str(folder)}
        code, output, _ = await _run(command, environment, seconds, DEVNULL)
        try:
            answer = await asyncio.to_thread(Response.model_validate_json, output)
        except ValidationError:
            raise RegistryUnavailable(
                f"Reading the repository was stopped before it was done ({_ending(code)}); "
                f"try again."
            ) from None
        if answer.error is not None:
            _log.warning("%s: %s\n%s", words[0], answer.detail, answer.log)
            raise KINDS.get(answer.error, RegistryUnavailable)(answer.detail)
        return answer


async def _run(
    command: list[str], environment: dict[str, str], seconds: float, errors: int
) -> tuple[int, bytes, bytes]:
    """Run a program in its own process group; the whole group ends with this call."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=errors,
        env=environment,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds):
            output, said = await process.communicate()
    except TimeoutError:
        raise RegistryUnavailable(
            f"Git and the DVC remote did not answer within {seconds:g} seconds; try again."
        ) from None
    finally:
        await _end(process)
    assert process.returncode is not None
    return process.returncode, output, said or b""


async def _end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


def _ending(code: int) -> str:
    return f"signal {-code}: perhaps out of memory" if code < 0 else f"exit code {code}"


def _unwritable(error: OSError) -> ServiceError:
    return disk_error(
        error,
        RegistryUnavailable(
            "The server cannot write its state; check the setting state and its permissions."
        ),
    )


def _remove_leftovers(base: Path) -> None:
    """Remove folders of fetches whose server has ended, or that were left for an hour."""
    for folder in base.glob("*-*"):
        with suppress(OSError, ValueError):
            old = time.time() - folder.stat().st_mtime > LEFTOVER_SECONDS
            owner = folder.name.split("-")  # pid, birth, and a random part
            if old or not is_alive(int(owner[0]), owner[1]):
                shutil.rmtree(folder, ignore_errors=True)
