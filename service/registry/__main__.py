"""The child process of the registry: runs one command, writes one line of JSON, then exits."""

import argparse
import errno
import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.errors import BundleRefused, NotFound, RegistryUnavailable, ServiceError, StorageFull
from service.files import DISK_FULL, FULL
from service.registry import git
from service.registry.protocol import FETCHED, Response, load_snapshot, save_snapshot
from service.tags import parse_tag


def main() -> None:
    """Run the command of the command line; exit code 0 means that stdout has a response."""
    options = _options()
    with _stdout() as stdout:
        _stay_small(options.seconds)
        try:
            answer = options.command(options)
        except Exception as error:
            found = error if isinstance(error, ServiceError) else explain(error)
            log = error.log if isinstance(error, git.GitError) else traceback.format_exc()[-4000:]
            answer = Response(error=type(found).__name__, detail=found.detail, log=log)
        stdout.write(answer.model_dump_json(exclude_defaults=True) + "\n")
    _end_helpers()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.registry")
    parser.set_defaults(seconds=600)
    commands = parser.add_subparsers(required=True)
    listing = commands.add_parser("list", help="list the experiments by tag")
    listing.add_argument("--refresh", action="store_true", help="fetch the tags of a URL first")
    listing.set_defaults(command=_list)
    fetch = commands.add_parser("fetch", help="fetch the bundle of a tag from the DVC remote")
    fetch.add_argument("--tag", required=True, type=parse_tag)
    fetch.add_argument("--into", required=True, help=f"name of a folder below <cache>/{FETCHED}")
    fetch.set_defaults(command=_fetch)
    for command in (listing, fetch):
        command.add_argument("--repository", required=True, help="working tree, bare, or URL")
        command.add_argument("--cache", required=True, type=Path)
        command.add_argument("--seconds", type=int, default=600, help="ends itself after these")
    return parser.parse_args()


def _list(options: argparse.Namespace) -> Response:
    # Imported here, so that a missing PyYAML or DVC is reported as a response.
    from service.registry import experiments

    cache, repository = options.cache, options.repository
    if options.refresh:
        git.refresh(repository, cache)
    folder = git.git_dir(repository, cache)
    snapshot = experiments.read_experiments(repository, folder, load_snapshot(cache, repository))
    with suppress(OSError):  # a full disk only makes the next start slower
        save_snapshot(snapshot, cache)
    return Response(snapshot=snapshot)


def _fetch(options: argparse.Namespace) -> Response:
    from service.registry import download

    folder = options.cache / FETCHED / options.into
    work = folder.with_name(f"{folder.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    os.environ |= {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(work / "site")}
    download.download(options.repository, options.cache, options.tag, folder, work)
    return Response()


def _stdout() -> Any:
    """Keep stdout for the response: send the prints of libraries to stderr."""
    kept = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(kept, "w", encoding="utf-8")


def _stay_small(seconds: int) -> None:
    """Lower the priority, offer this process to the OOM killer first, and limit its time."""
    os.nice(10)
    with suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(seconds)


def _end_helpers() -> None:
    """End helpers that git left behind, such as a transport that waits for a dead server."""
    if os.getpgrp() == os.getpid():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)


def explain(error: BaseException) -> ServiceError:
    """Translate an error of DVC, or below it, into an error of the service."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    codes = {item.errno for item in chain if isinstance(item, OSError)}
    if codes & set(FULL):
        return StorageFull(f"model: {DISK_FULL}")
    if errno.EFBIG in codes:
        return BundleRefused("model: a file in the DVC remote exceeds the limit")
    if isinstance(error, ImportError):
        return RegistryUnavailable(
            "The server lacks packages to read tags: install the extra `registry`."
        )
    if isinstance(error, git.GitError):
        return RegistryUnavailable(str(error))
    kinds = {kind.__name__ for item in chain for kind in type(item).__mro__}
    if "NotDvcRepoError" in kinds:
        return NotFound("tag: its commit has no .dvc/; tag a commit of a DVC project")
    if "ConfigError" in kinds:
        return RegistryUnavailable(
            "The DVC remote of this commit is misconfigured; check .dvc/config and its credentials."
        )
    return RegistryUnavailable(
        f"The DVC remote cannot be read ({type(error).__name__}); check its address and "
        f"credentials, or try again."
    )


if __name__ == "__main__":
    main()
