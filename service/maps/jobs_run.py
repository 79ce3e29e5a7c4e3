"""Runs the jobs of the queue, one after the other, in processes of their own.

Each worker has a runner; the one that holds the lock works, and another takes over when it dies. A
job that was running then goes on where it was.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.files import StillLocked, locked, reason
from service.maps.jobs import FINISHED, Jobs, State, now

TICK = 0.1  # seconds between two looks at the queue, and at what was dismissed
TURN = 1.0  # seconds between two attempts to be the one that runs
WRITE = 0.3  # seconds between two states on disk
PRUNE = 60.0  # seconds between two looks at what is kept
SILENT = 3600.0  # seconds without a finished tile after which a job is given up
LINE = 1 << 20  # bytes of a line, at most

_PACKAGES = str(Path(__file__).resolve().parents[2])

log = logging.getLogger("service.maps")


class Runner:
    """Runs the jobs of all workers, in the one of them that holds the lock."""

    def __init__(self, jobs: Jobs, workers: int) -> None:
        """Map with so many processes."""
        self._jobs = jobs
        self._workers = workers
        self._running = ""

    async def run(self) -> None:
        """Run until it is cancelled. As long as there was no job it touches no disk."""
        while True:
            if not self._jobs.queue.is_dir():
                await asyncio.sleep(TICK)
                continue
            try:
                with locked(self._jobs.root / "runner.lock"):
                    await self._run_jobs()
            except StillLocked:
                pass
            except OSError as error:
                log.warning("queue of maps not usable", extra={"detail": reason(error)})
            await asyncio.sleep(TURN)

    async def _run_jobs(self) -> None:
        await asyncio.to_thread(self._jobs.repair)
        pruned = 0.0
        while True:
            await self._settle_dismissed()
            if waiting := self._jobs.waiting():
                await self._run_job(waiting[0])
                pruned = 0.0
            if time.monotonic() - pruned > PRUNE:
                await asyncio.to_thread(self._jobs.prune)
                pruned = time.monotonic()
            if not waiting:
                await asyncio.sleep(TICK)

    async def _settle_dismissed(self) -> None:
        """Delete the files of jobs that were dismissed; one that runs is stopped before."""
        for id in os.listdir(self._jobs.dismissed):
            if id != self._running:
                await self._settle(id, State("dismissed"))

    async def _run_job(self, id: str) -> None:
        before = self._jobs.state(id)
        if before.status in FINISHED:  # it was settled, but for the queue
            return await self._settle(id, before)
        running = State("running", started=before.started or now())
        await self._write(id, running)
        log.info("map begins", extra={"job": id})
        self._running = id
        process = await self._start(id)
        follow = asyncio.create_task(self._follow(id, process, running))
        try:
            while not follow.done() and not self._jobs.is_dismissed(id):
                await self._settle_dismissed()
                await asyncio.wait({follow}, timeout=TICK)
            ended = follow.result() if follow.done() else State("dismissed")
        finally:
            follow.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            self._running = ""
        await self._settle(id, ended)

    async def _start(self, id: str) -> Process:
        jobs = self._jobs
        paths = os.pathsep.join(filter(None, (_PACKAGES, os.environ.get("PYTHONPATH"))))
        known = {key: at for key, at in os.environ.items() if not key.startswith("SERVICE_")}
        arguments = (jobs.folder(id), jobs.root / "models", jobs.root / "map.lock", self._workers)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "service.maps.jobs_child", *map(str, arguments)),
            stdin=PIPE,
            stdout=PIPE,
            env=known | {"PYTHONPATH": paths},
            start_new_session=True,
            limit=LINE,
        )

    async def _follow(self, id: str, process: Process, state: State) -> State:
        """Read what the process says until it ends; how the job ended."""
        assert process.stdout
        written = 0.0
        while True:
            try:
                line = await asyncio.wait_for(process.stdout.readline(), SILENT)
            except TimeoutError:
                detail = f"no tile was finished for {SILENT:g} s: send the scene again"
                return state._replace(status="failed", problem={"status": 500, "detail": detail})
            if not line:
                return self._died(await process.wait(), state)
            found: dict[str, Any] = json.loads(line)
            if problem := found.get("problem"):
                return state._replace(status="failed", problem=problem)
            if made := found.get("made"):
                return state._replace(status="successful", made=made, done=state.tiles)
            state = state._replace(done=found["tiles"][0], tiles=found["tiles"][1])
            if time.monotonic() - written > WRITE:
                await self._write(id, state)
                written = time.monotonic()

    def _died(self, code: int, state: State) -> State:
        how = f"signal {-code}" if code < 0 else f"code {code}"
        detail = (
            f"the process that made the map ended with {how}: memory was short, most often; send "
            "the scene again, or in parts"
        )
        return state._replace(status="failed", problem={"status": 500, "detail": detail})

    async def _write(self, id: str, state: State) -> None:
        """Say how far it is; on a full disk it says nothing."""
        with suppress(OSError):
            await asyncio.to_thread(self._jobs.write_state, id, state)

    async def _settle(self, id: str, state: State) -> None:
        if not self._jobs.folder(id).is_dir():  # deleted meanwhile
            for folder in (self._jobs.queue, self._jobs.dismissed):
                (folder / id).unlink(missing_ok=True)
            return
        while True:
            try:
                await asyncio.to_thread(self._jobs.settle, id, state)
                break
            except OSError as error:  # its own files are deleted: others filled the disk
                log.warning("map not settled", extra={"job": id, "detail": reason(error)})
                await asyncio.sleep(TURN)
        log.info("map ended", extra={"job": id, "status": state.status, "problem": state.problem})
