"""Replacing the model while it answers: nothing lost, nothing mixed, everywhere, and back again."""

import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.make.bundles import make_bundle
from tests.make.load import BODIES, Load, check, percentile, truth
from tests.make.processes import memory, until
from tests.make.projects import digest_of, train_with_dvc
from tests.make.server import DEPLOY_KEY, Server, serving

V1, V2, STAGE = "landcover@v1.0.0", "landcover@v1.1.0", "landcover#production"
EXPERIMENTS = [f"experiment/7-{number}" for number in range(32)]
QUICKLY = {"reconcile": 0.05}  # seconds; the tests need not wait for half a second a swap
FETCHED, ROLLED_BACK = 4, 96  # swaps under load: a fetch by DVC costs seconds of a core
GROWTH = 16 << 10  # KiB that a worker may grow by in a hundred swaps, each of which opens a session


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "local": bundle,
        V1: make_bundle(folder / "one", seed=1),
        V2: make_bundle(folder / "two", seed=2),
    }


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, bundles: dict[str, Path]) -> Path:
    """Two versions through DVC itself, and more tags on the same commits."""
    folder = tmp_path_factory.mktemp("repository") / "project"
    train_with_dvc(folder, {tag: bundles[tag] for tag in (V1, V2)})
    for number, tag in enumerate(EXPERIMENTS):
        subprocess.run(["git", "-C", folder, "tag", tag, (V1, V2)[number % 2]], check=True)
    subprocess.run(["git", "-C", folder, "tag", STAGE, V2], check=True)
    return folder


@pytest.fixture
def running(bundle: Path, repository: Path, tmp_path: Path) -> Iterator[Server]:
    with serving(bundle, tmp_path, repository=repository, **QUICKLY) as server:
        yield server


@pytest.fixture
def client(running: Server) -> Iterator[httpx.Client]:
    with running.client() as client:
        yield client


def replace(client: httpx.Client, tag: str) -> httpx.Response:
    return client.post("/replace_ml_model", json={"tag": tag})


def serves(client: httpx.Client) -> set[tuple[str, str]]:
    workers = client.get("/version").json()["workers"]
    assert len(workers) == 2
    return {(worker["tag"], worker["sha256"]) for worker in workers}


def test_a_hundred_swaps_under_load_lose_and_mix_nothing(
    running: Server, client: httpx.Client, bundles: dict[str, Path]
) -> None:
    for tag in (V1, V2, V1, V2):
        assert replace(client, tag).status_code == 200
    for _ in range(10):
        assert client.post("/rollback_ml_model").status_code == 200
    with Load(running.url, truth(bundles)) as load:
        load.wait(200)
        until(lambda: (running.log.parent / "state" / "spool" / "live.json").exists())
        before = {pid: memory(pid) for pid in running.workers()}
        swapping = time.monotonic()
        for number in range(FETCHED + ROLLED_BACK):
            tag = (V1, V2)[number % 2]
            if number < FETCHED:
                answer = replace(client, tag)
            else:
                answer = client.post("/rollback_ml_model")
            assert answer.status_code == 200, answer.text
            label = (tag, digest_of(bundles[tag]))
            body = answer.json()
            assert (body["model"]["tag"], body["model"]["sha256"]) == label
            found = [(worker["tag"], worker["sha256"]) for worker in body["workers"]]
            assert found == [label, label]
        swapped = time.monotonic()
        load.wait(200)
    assert load.wrong == []
    assert set(load.answers) == {(tag, digest_of(bundles[tag])) for tag in (V1, V2)}
    assert running.workers() == list(before), "a worker was started again"
    growth = {pid: memory(pid) - was for pid, was in before.items()}
    assert max(growth.values()) < GROWTH, growth
    calm = [took for start, took in load.seconds if start < swapping or start > swapped]
    busy = [took for start, took in load.seconds if swapping <= start <= swapped]
    print(f"{len(calm)} calm: p50 {percentile(calm, 50):.1f} p99 {percentile(calm, 99):.1f} ms;")
    print(f"{len(busy)} while swapping: p50 {percentile(busy, 50):.1f}", end=" ")
    print(f"p99 {percentile(busy, 99):.1f} max {max(busy) * 1000:.1f} ms; growth {growth} KiB")


def test_all_workers_serve_the_new_model_when_the_answer_comes(
    running: Server, client: httpx.Client, bundles: dict[str, Path]
) -> None:
    known = truth(bundles)
    for tag in (V1, V2, V1):
        assert replace(client, tag).status_code == 200
        label = (tag, digest_of(bundles[tag]))
        assert serves(client) == {label}
        for _ in range(6):  # each on a connection of its own, so that both workers are asked
            answer = httpx.post(running.url + "/predict", files={"file": BODIES[0]})
            assert check(known, 0, answer.status_code, answer.json()) == label


def test_one_of_32_concurrent_replacements_wins_and_the_others_get_409(
    running: Server, bundles: dict[str, Path]
) -> None:
    digests = {tag: digest_of(bundles[(V1, V2)[n % 2]]) for n, tag in enumerate(EXPERIMENTS)}
    known = truth({tag: bundles[(V1, V2)[n % 2]] for n, tag in enumerate(EXPERIMENTS)})
    together = threading.Barrier(len(EXPERIMENTS))

    def ask(tag: str) -> tuple[str, httpx.Response]:
        with running.client() as client:
            client.get("/version")
            together.wait()
            return tag, replace(client, tag)

    with ThreadPoolExecutor(len(EXPERIMENTS)) as pool, running.client() as client:
        with Load(running.url, known | truth({"local": bundles["local"]}), 2) as load:
            for _ in range(2):
                answers = dict(pool.map(ask, EXPERIMENTS))
                winners = [tag for tag, answer in answers.items() if answer.status_code == 200]
                # A second one could only win by asking after the first had ended.
                assert winners, "nobody won"
                for tag, answer in answers.items():
                    if tag in winners:
                        assert answer.json()["model"]["sha256"] == digests[tag]
                    else:
                        assert answer.status_code == 409, answer.text
                        assert answer.json()["step"] == "lock"
                        assert "another swap is running" in answer.json()["detail"]
                (label,) = serves(client)
                assert label in {(tag, digests[tag]) for tag in winners}
                wanted = client.get("/version").json()["wanted"]
                assert (wanted["tag"], wanted["sha256"]) == label
                load.wait()
    assert load.wrong == []


def test_rollback_toggles_between_two_models(
    client: httpx.Client, bundles: dict[str, Path]
) -> None:
    local, first, second = ((tag, digest_of(bundles[tag])) for tag in ("local", V1, V2))
    answer = client.post("/rollback_ml_model")
    assert answer.status_code == 409
    assert answer.json()["step"] == "lock"
    assert "no model before this one" in answer.json()["detail"]
    replace(client, V1)
    for label, before in ((local, first), (first, local), (local, first)):
        answer = client.post("/rollback_ml_model")
        assert answer.status_code == 200, answer.text
        assert serves(client) == {label}
        assert tuple(answer.json()["previous"].values()) == before
    replace(client, V2)
    client.post("/rollback_ml_model")
    assert serves(client) == {local}
    client.post("/rollback_ml_model")
    assert serves(client) == {second}


def test_rollback_works_without_registry_and_after_a_restart(
    bundle: Path, repository: Path, bundles: dict[str, Path], tmp_path: Path
) -> None:
    first, second = ((tag, digest_of(bundles[tag])) for tag in (V1, V2))
    with serving(bundle, tmp_path, repository=repository, **QUICKLY) as server:
        with server.client() as client:
            assert [replace(client, tag).status_code for tag in (V1, V2)] == [200, 200]
    # The repository of this one does not exist.
    with serving(bundle, tmp_path, **QUICKLY) as server, server.client() as client:
        assert serves(client) == {second}
        assert client.post("/rollback_ml_model").status_code == 200
        assert serves(client) == {first}
        assert client.post("/rollback_ml_model").status_code == 200
        assert serves(client) == {second}


def test_replacing_by_another_tag_of_the_same_model_shows_that_tag(
    client: httpx.Client, bundles: dict[str, Path]
) -> None:
    assert replace(client, V2).status_code == 200
    answer = replace(client, STAGE)
    assert answer.status_code == 200
    assert serves(client) == {(STAGE, digest_of(bundles[V2]))}
    assert answer.json()["previous"]["tag"] == V2


def test_the_tag_that_serves_can_be_set_again(
    client: httpx.Client, bundles: dict[str, Path]
) -> None:
    assert [replace(client, V1).status_code for _ in range(2)] == [200, 200]
    assert serves(client) == {(V1, digest_of(bundles[V1]))}
    assert client.post("/rollback_ml_model").json()["model"]["tag"] == "local"


def test_metrics_show_the_served_model_and_the_results_of_swaps(
    client: httpx.Client, bundles: dict[str, Path]
) -> None:
    def series(name: str) -> dict[str, float]:
        text = client.get("/metrics").text
        found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
        return {labels: float(value) for labels, value in found if float(value)}

    def info(tag: str) -> dict[str, float]:
        return {f'sha256="{digest_of(bundles[tag])}",tag="{tag}"': 2.0}

    until(lambda: series("model_info") == info("local"))  # ready is when the first worker is
    assert replace(client, V1).status_code == 200
    assert series("model_info") == info(V1)
    assert replace(client, "landcover@v9.0.0").status_code == 404
    assert replace(client, V2).status_code == 200
    assert series("model_info") == info(V2)
    assert client.post("/rollback_ml_model").status_code == 200
    assert series("model_info") == info(V1)
    assert series("model_wanted_mismatch") == {}
    counts = {
        'result="done",step="switch"': 3.0,  # the worker that was asked
        'result="done",step="follow"': 3.0,  # the other one, which counts after it has switched
        'result="failed",step="fetch"': 1.0,
    }
    until(lambda: sum(series("model_swaps_total").values()) >= sum(counts.values()))
    assert series("model_swaps_total") == counts


def test_a_swap_goes_on_when_its_client_leaves(
    running: Server, client: httpx.Client, bundles: dict[str, Path]
) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    body = b'{"tag": "%s"}' % V1.encode()
    with Load(running.url, truth(bundles), 2) as load:
        with socket.create_connection((host, int(port))) as leaving:
            leaving.sendall(
                b"POST /replace_ml_model HTTP/1.1\r\nhost: here\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n"
                b"authorization: Bearer %s\r\n\r\n%s" % (len(body), DEPLOY_KEY.encode(), body)
            )
            until(lambda: client.get("/version").json()["swap"])
        label = (V1, digest_of(bundles[V1]))
        until(lambda: serves(client) == {label})
        until(lambda: client.get("/version").json()["swap"]["state"] == "done")
        load.wait()
    assert load.wrong == []
    assert replace(client, V2).status_code == 200


def test_version_shows_each_step_while_it_is_done(running: Server, client: httpx.Client) -> None:
    seen: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: replace(client, V1))
        with running.client() as watching:
            while not asked.done():
                swap = watching.get("/version").json()["swap"]
                if swap and (not seen or seen[-1] != swap["step"]):
                    seen.append(swap["step"])
                    assert swap["tag"] == V1
    order = ["fetch", "verify", "load", "warm-up", "self-test", "switch"]
    assert seen == [step for step in order if step in seen]
    assert "fetch" in seen
