"""Runs a function of the tests in several processes that train together, forked from a zygote."""

import importlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.conftest import ROOT
from tests.make.zygote import fork_rank


def run(function: Callable[..., Any], *arguments: Any, **environment: str) -> list[Any]:
    """Call a function of a module in WORLD_SIZE (2) ranks, or in `only` (`0,1`) some of them.

    The ranks work in the directory of the caller. Returns what each returned; of an exception
    `Name: message`; None of one that was killed.
    """
    call = (function.__module__, function.__name__, json.dumps(arguments))
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
    }
    only = environment.pop("only", "")
    shared |= environment
    ranks = only.split(",") if only else [str(rank) for rank in range(int(shared["WORLD_SIZE"]))]
    with TemporaryDirectory() as folder:
        answers = [Path(folder, f"{place}.json") for place in range(len(ranks))]
        started = [
            fork_rank(
                os.environ | shared | {"RANK": rank},
                answer.with_suffix(".log"),
                __name__,
                *(*call, str(answer)),
            )
            for rank, answer in zip(ranks, answers, strict=True)
        ]
        for process in started:
            process.wait()
        for answer in answers:
            print(answer.with_suffix(".log").read_text(encoding="utf-8"))
        return [json.loads(one.read_bytes()) if one.exists() else None for one in answers]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def main(module: str, name: str, arguments: str, path: str) -> None:
    """Be a rank."""
    try:
        answer = getattr(importlib.import_module(module), name)(*json.loads(arguments))
    except Exception as error:
        traceback.print_exc()
        answer = f"{type(error).__name__}: {error}"
    Path(path).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
