"""A system that allows few descriptors, and more clients than these are enough for."""

import socket
from contextlib import ExitStack
from pathlib import Path

from tests.make.server import serving
from tests.make.wire import BODY, Reply, connect, head, read

Connection = tuple[socket.socket, Reply]
ALLOWED = 256
CLIENTS = 400


def test_without_descriptors_clients_get_503_with_a_sentence_and_the_others_are_served(
    bundle: Path, tmp_path: Path
) -> None:
    predict = head(f"content-length: {len(BODY)}") + BODY
    metrics = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with serving(bundle, tmp_path, workers=1, descriptors=ALLOWED) as server, ExitStack() as open_:
        worker = server.workers()
        held: list[Connection] = []
        refused: list[Connection] = []
        for _ in range(CLIENTS):
            client = open_.enter_context(connect(server))
            client.sendall(predict)
            answer = read(client)
            (held if answer.status == 200 else refused).append((client, answer))
        assert len(held) > ALLOWED / 4 and len(refused) > CLIENTS - ALLOWED
        for _, answer in refused:
            assert answer.status == 503 and answer.headers["retry-after"] == "1"
            assert b"this worker holds as many connections as it may" in answer.body
        for client, _ in (held[0], held[-1]):  # those that are open go on
            for request in (metrics, predict):
                client.sendall(request)
                assert read(client).status == 200
        for client, _ in held[1:]:
            client.close()
        server.wait_for("/readyz")
        with server.client() as asked:
            assert asked.get("/version").status_code == 200
        assert server.workers() == worker, "a worker was started anew"
        (warning,) = (it for it in server.lines() if it["event"] == "few descriptors")
        assert warning["allowed"] == ALLOWED and "ulimit -Hn" in warning["cure"]
