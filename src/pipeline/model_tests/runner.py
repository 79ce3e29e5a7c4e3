"""Runs tests in processes: ordered by needs and priority, watched, repeated after an error.

An error (a crash, no memory, no answer in time) is not a failure of the model: it is tried again,
then with nothing beside it. A test that needs one that failed is skipped.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import NamedTuple

from contracts.model_tests import ModelTest, ModelTestPoint
from pipeline.model_tests.definition import Case

LOST = ("failed", "error", "skipped")
"""States after which what needs the test is not run."""
Work = Callable[[str], "Answer"]
"""Runs the test of a name, in a process of its own; it has to be picklable."""
Say = Callable[[str], None]
PRELOADED = ["pipeline.model_tests.work", "scipy.stats"]
"""What takes a second to import: once, in the process from which all are forked."""


class Answer(NamedTuple):
    """What comes back from a process: of a test, or of an error."""

    state: str
    """held | missed | not applicable | error"""
    text: str
    measure: str = ""
    points: tuple[ModelTestPoint, ...] = ()
    cpu_seconds: float = 0
    peak_mib: float = 0


@dataclass
class _Running:
    name: str
    process: ForkServerProcess
    pipe: Connection
    until: float
    alone: bool


@dataclass
class Runner:
    """One run of all tests.

    Args:
        at_a_time: processes at once.
        seconds: after which no more tests are started.
    """

    tests: Mapping[str, Case]
    work: Work
    at_a_time: int
    seconds: float
    say: Say = print
    results: dict[str, ModelTest] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _running: list[_Running] = field(default_factory=list)

    def run(self) -> list[ModelTest]:
        """Run them all; the results are in the order of tests.yaml."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        sorter = TopologicalSorter({name: test.needs for name, test in self.tests.items()})
        sorter.prepare()
        place = {name: number for number, name in enumerate(self.tests)}
        waiting: list[str] = []
        end = time.monotonic() + self.seconds
        try:
            while sorter.is_active():
                waiting += sorter.get_ready()
                waiting.sort(key=lambda name: (-self.tests[name].priority, place[name]))
                for name in [name for name in waiting if self._is_skipped(name, end)]:
                    waiting.remove(name)
                    sorter.done(name)
                while waiting and self._has_room(waiting[0]):
                    self._start(waiting.pop(0), context)
                for name in self._finished():
                    sorter.done(name) if name in self.results else waiting.append(name)
        finally:
            for running in self._running:
                running.process.kill()
                running.process.join()
        return [self.results[name] for name in self.tests]

    def _is_skipped(self, name: str, end: float) -> bool:
        lost = [n for n in self.tests[name].needs if self.results[n].state in LOST]
        if lost:
            self._end(name, "skipped", f"needs {lost[0]}, which is {self.results[lost[0]].state}")
        elif time.monotonic() >= end and not self._attempts.get(name):
            self._end(name, "skipped", "the budget is used up: raise budget, or chips less")
        return name in self.results

    def _has_room(self, name: str) -> bool:
        """One that runs alone waits for the others, and they for it."""
        if self._is_alone(name) or any(running.alone for running in self._running):
            return not self._running
        return len(self._running) < self.at_a_time

    def _is_alone(self, name: str) -> bool:
        """Of one that has not begun: a second attempt has the machine to itself."""
        return self.tests[name].ALONE or name in self._attempts

    def _start(self, name: str, context: multiprocessing.context.ForkServerContext) -> None:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(self.work, name, theirs), daemon=True)
        process.start()
        theirs.close()
        until = time.monotonic() + self.tests[name].timeout
        self._running.append(_Running(name, process, ours, until, self._is_alone(name)))
        self._attempts[name] = self._attempts.get(name, 0) + 1

    def _finished(self) -> list[str]:
        """Wait for an answer; names of tests that have ended, or have to be tried again."""
        if not self._running:
            return []
        soonest = min(running.until for running in self._running)
        ready = wait(
            [running.pipe for running in self._running], max(0, soonest - time.monotonic())
        )
        ended = []
        for running in list(self._running):
            if running.pipe in ready:
                answer = _receive(running)
            elif time.monotonic() >= running.until:
                limit = self.tests[running.name].timeout
                answer = Answer("error", f"no result within {limit:g} s: raise timeout")
            else:
                continue
            running.process.kill()
            running.process.join()
            running.pipe.close()
            self._running.remove(running)
            self._judge(running.name, answer)
            ended.append(running.name)
        return ended

    def _judge(self, name: str, answer: Answer) -> None:
        """Record what a process answered; nothing of an error that is tried again."""
        test = self.tests[name]
        if answer.state == "error" and self._attempts[name] <= test.retries:
            self.say(f"again {name}: {answer.text}")
        else:
            states = {
                "held": "passed",
                "missed": "failed" if test.severity == "fails" else "warned",
            }
            self._end(name, states.get(answer.state, answer.state), answer.text, answer)

    def _end(self, name: str, state: str, text: str, answer: Answer | None = None) -> None:
        answer = answer or Answer(state, text)
        self.results[name] = ModelTest.model_validate(
            {
                "name": name,
                "kind": self.tests[name].kind,
                "severity": self.tests[name].severity,
                "state": state,
                "text": text,
                "measure": answer.measure,
                "points": answer.points,
                "attempts": self._attempts.get(name, 0),
                "cpu_seconds": round(answer.cpu_seconds, 2),
                "peak_mib": round(answer.peak_mib, 1),
            }
        )
        self.say(f"{len(self.results)}/{len(self.tests)} {state} {name}: {text}")


def _receive(running: _Running) -> Answer:
    try:
        answer: Answer = running.pipe.recv()
        return answer
    except EOFError:
        running.process.join()
        code = running.process.exitcode or 0
        ended = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with {code}"
        cure = ", memory may have run out" if code == -signal.SIGKILL else ""
        return Answer("error", f"its process ended {ended}{cure}")


def _child(work: Work, name: str, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send(work(name))


def _end_with_parent() -> None:
    """End this process when the run has gone, killed for example: no one takes its answer."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
