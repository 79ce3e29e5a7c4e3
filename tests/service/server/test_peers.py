"""A busy worker hands requests to an idle one; whatever happens to them, they are answered."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from contracts.images import Buffer, Fit
from service.errors import Unprocessable
from service.prediction import Predicted
from service.server import peers as module
from service.server.peers import MOST, Peers
from service.server.shared import ROOM, Inboxes, WorkerTable
from tests.make.bundles import make_chip
from tests.make.images import npy
from tests.make.processes import until
from tests.make.server import serving

ID = "3f2ba7a32787e858"  # as the service makes them
ANSWER = Predicted(b'{"class": "Forest"}', "landcover@v1.0.0", 3, 0.75, 0.001)


class Workers:
    """Several workers in one process: what each was asked, and how it answers."""

    def __init__(self, count: int) -> None:
        self.table, self.inboxes = WorkerTable(count), Inboxes(count)
        self.asked: list[tuple[int, bytes, Fit, str]] = []
        self.peers = [self.start(slot) for slot in range(count)]

    def start(self, slot: int) -> Peers:
        async def answer(content: Buffer, fit: Fit, prediction_id: str) -> Predicted:
            self.asked.append((slot, bytes(content), fit, prediction_id))
            return await self.answer()

        self.table.reset_worker(slot)
        self.table.ready[slot] = 1
        return Peers(self.table, slot, self.inboxes, answer)

    async def answer(self) -> Predicted:
        return ANSWER


@pytest.fixture
def workers() -> Iterator[Workers]:
    found = Workers(3)
    yield found
    for slot in range(3):
        for end in found.inboxes._pairs[slot]:
            end.close()


def playing(workers: Workers, play: Callable[[Peers], Awaitable[Predicted | None]]) -> object:
    async def run() -> object:
        for one in workers.peers:
            one.start()
        return await play(workers.peers[0])

    return asyncio.run(run())


def test_an_idle_worker_answers_for_a_busy_one(workers: Workers) -> None:
    workers.table.busy[1] = 1
    found = playing(workers, lambda own: own.ask(b"pixels", "crop", ID))

    assert found == ANSWER
    assert workers.asked == [(2, b"pixels", "crop", ID)]


@pytest.mark.parametrize("id", ["a", ID, 36 * "b"])
def test_the_id_of_a_prediction_stays_what_it_is(workers: Workers, id: str) -> None:
    playing(workers, lambda own: own.ask(b"pixels", "", id))
    assert workers.asked == [(1, b"pixels", "", id)]


def test_two_requests_go_to_two_workers_and_a_third_stays(workers: Workers) -> None:
    async def play(own: Peers) -> None:
        found = await asyncio.gather(*(own.ask(b"pixels", "", ID) for _ in range(3)))
        assert found == [ANSWER, ANSWER, None]

    playing(workers, play)
    assert sorted(slot for slot, *_ in workers.asked) == [1, 2]


@pytest.mark.parametrize("case", ["all are busy", "none has a model", "the image is large"])
def test_a_request_stays_where_no_other_worker_may_take_it(workers: Workers, case: str) -> None:
    content = b"pixels"
    if case == "all are busy":
        workers.table.busy[1] = workers.table.busy[2] = 1
    elif case == "none has a model":
        workers.table.ready[1] = workers.table.ready[2] = 0
    else:
        content = bytes(MOST + 1)

    assert playing(workers, lambda own: own.ask(content, "", ID)) is None
    assert workers.asked == []


def test_an_image_of_the_largest_size_is_handed_over_or_stays(workers: Workers) -> None:
    """What a system allows for a datagram differs; either way nothing is cut."""
    content = os.urandom(MOST)
    found = playing(workers, lambda own: own.ask(content, "", ID))

    assert found is None or workers.asked == [(1, content, "", ID)]


def test_an_image_that_another_worker_refuses_is_decided_by_its_own(workers: Workers) -> None:
    async def refuse() -> Predicted:
        raise Unprocessable("the image has 2 bands")

    workers.answer = refuse  # type: ignore[method-assign]
    assert playing(workers, lambda own: own.ask(b"pixels", "", ID)) is None


def test_an_answer_that_is_too_large_to_send_is_given_by_the_own_worker_at_once(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def large() -> Predicted:
        return ANSWER._replace(body=bytes(ROOM))

    monkeypatch.setattr(module, "SECONDS", 3600)
    workers.answer = large  # type: ignore[method-assign]
    assert playing(workers, lambda own: own.ask(b"pixels", "", ID)) is None


def test_an_image_that_another_worker_loses_comes_back_in_time(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never() -> Predicted:
        await asyncio.Event().wait()
        return ANSWER

    monkeypatch.setattr(module, "SECONDS", 0.05)
    workers.answer = never  # type: ignore[method-assign]
    assert playing(workers, lambda own: own.ask(b"pixels", "", ID)) is None
    assert len(workers.asked) == 1


def test_an_answer_that_comes_late_is_nobodys(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def late() -> Predicted:
        await gate.wait()
        return ANSWER

    async def play(own: Peers) -> None:
        workers.answer = late  # type: ignore[method-assign]
        assert await own.ask(b"first", "", ID) is None
        gate.set()
        workers.table.busy[1] = 0
        other = ANSWER._replace(body=b"{}")

        async def at_once() -> Predicted:
            return other

        workers.answer = at_once  # type: ignore[method-assign]
        assert await own.ask(b"second", "", ID) == other

    monkeypatch.setattr(module, "SECONDS", 0.05)
    playing(workers, play)


def test_a_worker_that_starts_again_forgets_what_was_asked_of_the_last_one(
    workers: Workers,
) -> None:
    async def play(own: Peers) -> None:
        own.start()
        waiting = asyncio.ensure_future(own.ask(b"for the dead", "", ID))
        await asyncio.sleep(0)  # sent, and nobody has read it
        workers.peers[1] = workers.start(1)
        workers.peers[1].start()
        workers.table.busy[2] = 1
        assert await own.ask(b"for the new", "", ID) == ANSWER
        waiting.cancel()

    asyncio.run(play(workers.peers[0]))
    assert [content for _, content, *_ in workers.asked] == [b"for the new"]


def test_a_worker_that_ends_is_handed_nothing(workers: Workers) -> None:
    for ending in workers.peers[1:]:
        ending.stop()

    assert playing(workers, lambda own: own.ask(b"pixels", "", ID)) is None


def test_a_worker_that_hangs_keeps_only_its_own_connections_waiting(
    bundle: Path, tmp_path: Path
) -> None:
    body = {"file": npy(make_chip(5))}
    with serving(bundle, tmp_path, program=True) as server, ExitStack() as stack:
        # Connections are dealt in turn: each of the two workers has four.
        clients = [stack.enter_context(server.client()) for _ in range(8)]
        assert {client.post("/predict", files=body).status_code for client in clients} == {200}
        hanging = server.workers()[-1]
        os.kill(hanging, signal.SIGSTOP)
        try:
            pool = stack.enter_context(ThreadPoolExecutor(len(clients)))
            asked = [pool.submit(client.post, "/predict", files=body) for client in clients]
            until(lambda: sum(future.done() for future in asked) == 4)
        finally:
            os.kill(hanging, signal.SIGCONT)
        assert {future.result().status_code for future in asked} == {200}
