"""Three replicas of the service: one is told, all follow, and no answer is lost or wrong."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.kubernetes import FakeKubernetes
from tests.make.load import Client, Load, Truth, check
from tests.make.processes import children, running_swap, until
from tests.make.projects import Published
from tests.make.server import Server, serving
from tests.make.swaps import Label, replace, version

V1, V2, V3 = "landcover@v1.0.0", "landcover@v1.1.0", "landcover@v2.0.0"
REPLICAS = 3


@pytest.fixture(scope="module")
def bundles(project: Published, bundle: Path) -> dict[str, Path]:
    tags = (V1, V2, V3)
    found = {tag: project.publish_bundle(tag, seed=seed) for seed, tag in enumerate(tags, 1)}
    return {"local": bundle} | found


class Cluster:
    """Replicas, each in its own folder."""

    def __init__(self, bundle: Path, folder: Path, **settings: Any) -> None:
        self.bundle = bundle
        self.folder = folder
        self.settings = {"workers": 1, "reconcile": 0.1} | settings

    def replica(self, number: int) -> Any:
        """A context in which this replica runs."""
        return serving(self.bundle, self.folder / str(number), **self.settings)

    @contextmanager
    def running(self) -> Iterator[list[Server]]:
        """All replicas, started at once."""
        with ExitStack() as stack, ThreadPoolExecutor(REPLICAS) as pool:
            entered = pool.map(lambda n: stack.enter_context(self.replica(n)), range(REPLICAS))
            yield list(entered)


@pytest.fixture
def apart(bundle: Path, project: Published, api: FakeKubernetes, tmp_path: Path) -> Cluster:
    """Replicas that share nothing but a ConfigMap, as pods do."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "token").write_text("token-1")
    return Cluster(
        bundle,
        tmp_path,
        repository=project.folder,
        configmap="ml/wanted-model",
        kubernetes_api=api.url,
        kubernetes_credentials=credentials,
    )


@pytest.fixture
def together(bundle: Path, project: Published, tmp_path: Path) -> Cluster:
    """Replicas on one machine that share a state folder."""
    return Cluster(bundle, tmp_path, repository=project.folder, state=tmp_path / "state")


@pytest.fixture(params=["apart", "together"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    found: Cluster = request.getfixturevalue(request.param)
    return found


def rollback(server: Server) -> httpx.Response:
    with server.client() as client:
        return client.post("/rollback_ml_model")


def serves(server: Server) -> Label:
    model = version(server)["model"]
    return model["tag"], model["sha256"]


def all_serve(servers: list[Server], label: Label) -> bool:
    return {serves(server) for server in servers} == {label}


def test_all_replicas_follow_the_one_that_swaps(
    cluster: Cluster, known: Truth, label: dict[str, Label]
) -> None:
    with cluster.running() as servers:
        urls = [server.url for server in servers]
        with Load(urls, known, clients=2) as load:
            load.wait()
            for number, tag in enumerate((V1, V2)):
                answer = replace(servers[number], tag)
                assert answer.status_code == 200, answer.text
                until(lambda: all_serve(servers, label[tag]))
                load.wait()
            answer = rollback(servers[2])  # by one that was never told what was before
            assert answer.status_code == 200, answer.text
            until(lambda: all_serve(servers, label[V1]))
            load.wait()
        assert load.wrong == []
        assert set(load.answers) == {label["local"], label[V1], label[V2]}
        for server in servers:
            found = version(server)
            assert (found["wanted"]["tag"], found["wanted"]["sha256"]) == label[V1]


def test_one_of_two_simultaneous_swaps_wins_and_both_replicas_agree(
    apart: Cluster, known: Truth, label: dict[str, Label]
) -> None:
    with apart.running() as servers, ThreadPoolExecutor(1) as pool:
        with Load([server.url for server in servers], known, clients=2) as load:
            slow = pool.submit(replace, servers[0], V1)
            worker = until(lambda: running_swap(servers[0]))
            fetch = until(lambda: children(worker))[0]
            os.kill(fetch, signal.SIGSTOP)  # in the middle of its swap
            try:
                fast = replace(servers[1], V2)
            finally:
                os.kill(fetch, signal.SIGCONT)
            assert fast.status_code == 200, fast.text
            late = slow.result()
            assert late.status_code == 409, late.text
            assert late.json()["step"] == "switch"
            assert "Somebody else changed the desired model" in late.json()["detail"]
            until(lambda: all_serve(servers, label[V2]))
            swap = version(servers[0])["swap"]
            assert (swap["tag"], swap["step"], swap["state"]) == (V1, "switch", "failed")
            load.wait()
        assert load.wrong == []
        assert V1 not in {tag for tag, _ in load.answers}
        assert replace(servers[0], V1).status_code == 200
        until(lambda: all_serve(servers, label[V1]))


def test_only_one_of_two_replicas_that_share_a_folder_swaps(
    together: Cluster, label: dict[str, Label]
) -> None:
    with together.running() as servers, ThreadPoolExecutor(1) as pool:
        state = together.folder / "state" / "swap.json"
        first = pool.submit(replace, servers[0], V1)
        until(state.exists)
        second = replace(servers[1], V2)
        assert second.status_code == 409
        assert second.json()["step"] == "lock"
        assert first.result().status_code == 200
        assert all_serve(servers, label[V1]), "its answer comes when all have followed"
        assert len(version(servers[2])["workers"]) == REPLICAS


def test_without_the_api_all_serve_on_and_nothing_can_be_changed(
    apart: Cluster, api: FakeKubernetes, known: Truth, label: dict[str, Label]
) -> None:
    with ExitStack() as leaving, apart.running() as servers:
        assert replace(servers[0], V1).status_code == 200
        until(lambda: all_serve(servers, label[V1]))
        with Load([server.url for server in servers], known, clients=2) as load:
            api.broken = (500, b"the API is down")
            for answer in (replace(servers[1], V2), rollback(servers[2])):
                assert answer.status_code == 503, answer.text
                assert answer.json()["step"] == "lock"
                assert "Kubernetes API answered 500" in answer.json()["detail"]
            load.wait(200)
            assert httpx.get(servers[0].url + "/readyz").status_code == 200
        assert load.wrong == []
        assert set(load.answers) == {label[V1]}
        # One that starts again now serves what it last served, and not the bundle of its image.
        assert servers[2].stop() == 0
        again = leaving.enter_context(apart.replica(2))
        assert serves(again) == label[V1]
        client = Client(again.url)
        assert check(known, 1, *client.predict(1)) == label[V1]
        client.close()
        api.broken = None
        assert replace(again, V2).status_code == 200
        until(lambda: all_serve([*servers[:2], again], label[V2]))


def test_a_joining_replica_serves_the_model_of_the_others(
    apart: Cluster, label: dict[str, Label]
) -> None:
    with apart.replica(0) as first:
        assert replace(first, V3).status_code == 200
        with apart.replica(1) as second:  # a new pod: an empty state folder
            assert serves(second) == label[V3], "it was ready before it had the model"
            assert rollback(second).status_code == 200
            until(lambda: serves(first) == label["local"])


def test_a_killed_replica_restarts_with_the_model_wanted_meanwhile(
    apart: Cluster, label: dict[str, Label]
) -> None:
    with ExitStack() as leaving, apart.running() as servers:
        assert replace(servers[0], V1).status_code == 200
        until(lambda: all_serve(servers, label[V1]))
        for pid in (servers[2].process.pid, *servers[2].workers()):
            os.kill(pid, signal.SIGKILL)
        servers[2].process.wait()
        assert replace(servers[1], V2).status_code == 200
        again = leaving.enter_context(apart.replica(2))
        assert serves(again) == label[V2]
        until(lambda: all_serve(servers[:2], label[V2]))
