"""The process that makes the map of one job. GDAL runs only here, and not in the service.

It answers with lines of JSON: `tiles` as it goes on, at the end `made` or `problem`. It ends with
the service: its standard input is then closed. Predictions come first.
"""

import json
import logging
import os
import re
import signal
import sys
import threading
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.bundle import Segmentation
from service.errors import INTERNAL, ServiceError, StorageFull, Unavailable
from service.files import DISK_FULL, StillLocked, is_full, locked, reason, replace_file
from service.inference.bundle import read_bundle
from service.maps.jobs import ITEM, MAP, SCENE, Job
from service.maps.make import Made, Options, make_map
from service.maps.pictures import draw_map, draw_scene
from service.maps.scene import open_scene

NICE = 15
TURN = 60.0  # seconds until the process of a service that was killed has ended, too
OPTION = re.compile(r"--(bands|offset)\b(?: (?=-?[0-9A-Z]))?")

log = logging.getLogger("service.maps")


def make(folder: Path, models: Path, workers: int, say: Any) -> None:
    """Make map, item and pictures of the job in a folder.

    Raises:
        ServiceError, OSError: it cannot be made.
    """
    job = Job(**json.loads((folder / "job.json").read_bytes()))
    bundle = models / job.sha256
    manifest = read_bundle(bundle).manifest
    assert isinstance(manifest, Segmentation)  # or the job would not have been accepted
    with open_scene(folder / SCENE, manifest, job.bands, job.offset) as scene:
        draw_scene(scene, manifest.input.bands, folder / "scene.png")
    options = Options(
        workers=workers,
        bands=tuple(job.bands),
        offset=job.offset,
        tag=job.tag,
        scene_href=address(job.scene_sha256),
        model_href=address(job.sha256),
    )
    made = make_map(
        *(folder / SCENE, folder / MAP, bundle),
        options,
        lambda done, of: say({"tiles": [done, of]}),
    )
    draw_map(folder / MAP, manifest.colours, folder / "map.png", folder / "values.png")
    say({"made": summary(made, folder)})


def summary(made: Made, folder: Path) -> dict[str, Any]:
    """What the status says of a map; the words of the command become those of HTTP."""
    made.item["id"] = f"map-{folder.name}"
    properties = made.item["properties"]
    properties["map:warnings"] = [in_words_of_http(line) for line in made.warnings]
    replace_file(folder / ITEM, json.dumps(made.item, indent=2) + "\n")
    return {
        "warnings": properties["map:warnings"],
        "square_kilometres": properties["map:square_kilometres"],
        "confidence": properties["map:confidence"],
    }


def in_words_of_http(text: str) -> str:
    """`--offset -1000` is `?offset=-1000` in a request."""
    return OPTION.sub(r"?\1=", text)


def address(sha256: str) -> str:
    """Name a file by its digest (RFC 6920): a client sends a scene, and no address of it."""
    digest = urlsafe_b64encode(bytes.fromhex(sha256)).rstrip(b"=").decode()
    return f"ni:///sha-256;{digest}"


@contextmanager
def explained(say: Any) -> Iterator[None]:
    """Say what failed."""
    try:
        yield
    except StorageFull as error:
        say({"problem": {"status": error.status, "detail": DISK_FULL}})
    except ServiceError as error:
        detail = in_words_of_http(error.detail)
        say({"problem": {"status": error.status, "detail": detail}})
    except StillLocked:
        detail = "another process of this service still makes a map: send the scene again"
        say({"problem": {"status": Unavailable.status, "detail": detail}})
    except OSError as error:
        status = StorageFull.status if is_full(error) else 500
        detail = DISK_FULL if is_full(error) else f"the map cannot be written: {reason(error)}"
        say({"problem": {"status": status, "detail": detail}})
    except Exception:
        log.exception("map failed")
        say({"problem": {"status": 500, "detail": INTERNAL}})


def end_with_parent() -> None:
    """Wait until the service closes the pipe, or dies; then end, with all workers."""
    os.read(sys.stdin.fileno(), 1)  # not by `sys.stdin`, whose lock an exit would wait for
    os.killpg(0, signal.SIGKILL)


def let_predictions_first() -> None:
    """Run where nothing else wants to; some sandboxes refuse that, and know `nice` only."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        os.nice(NICE)


def main() -> None:
    """Make one map: FOLDER MODELS LOCK WORKERS."""
    # What libraries print must not get between the lines.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    let_predictions_first()
    threading.Thread(target=end_with_parent, daemon=True).start()
    folder, models, lock, workers = sys.argv[1:]

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=lines, flush=True)

    with explained(say), locked(Path(lock), TURN):
        make(Path(folder), Path(models), int(workers), say)


if __name__ == "__main__":
    if os.getpgrp() != os.getpid():
        os.setsid()
    main()
