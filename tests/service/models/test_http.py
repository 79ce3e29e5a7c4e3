"""Models by name over HTTP: `?model=`, `/models/{name}/predict`, and what the list says of them."""

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.inference.bundle import read_bundle
from service.inference.model import Model
from service.schemas import Experiments
from tests.make import harbours
from tests.make.bundles import expected, make_bundle, make_chip
from tests.make.images import npy
from tests.make.projects import Published, digest_of
from tests.make.replicas import Worker, within
from tests.make.server import serving
from tests.make.wire import refusal
from tests.service.models.conftest import HARBOUR, SHIPS, V1, V2

Start = Callable[..., Worker]
KIND = {"content-type": "application/octet-stream"}
CHIP, OF_SHIPS = npy(make_chip(5)), npy(make_chip(5, bands=3))
WAIT = "wait=60"


def ask(worker: Worker, *paths: str, content: bytes = CHIP) -> list[httpx.Response]:
    """Send a chip to each address, one after the other."""

    async def main() -> list[httpx.Response]:
        async with worker.client() as client:
            return [await client.post(path, content=content, headers=KIND) for path in paths]

    return within(worker, work=main())


def read(worker: Worker, path: str) -> httpx.Response:
    async def main() -> httpx.Response:
        async with worker.client() as client:
            return await client.get(path)

    return within(worker, work=main())


def experiments(worker: Worker, query: str = "") -> dict[str, dict[str, Any]]:
    answer = read(worker, f"/get_experiments_metas{query}")
    assert answer.status_code == 200, answer.text
    Experiments.model_validate_json(answer.content)
    return {item["tag"]: item for item in answer.json()["experiments"]}


def test_every_way_to_name_a_model_gives_its_answer(shared: Worker, registry: Path) -> None:
    found = ask(
        shared,
        f"/predict?model={V2}&{WAIT}",
        f"/predict?model=landcover%23staging&{WAIT}",
        f"/models/{V2}/predict?{WAIT}",
        f"/models/landcover%23staging/predict?{WAIT}",
        "/models/landcover/predict",
        "/predict",
    )
    assert {answer.status_code for answer in found} == {200}
    bodies = [answer.json() for answer in found]
    assert [body["model"]["tag"] for body in bodies] == [V2] * 4 + ["local"] * 2
    right = expected(registry / "bundle-2", make_chip(5))
    for body in bodies[:4]:
        assert np.allclose(list(body["probabilities"].values()), right, atol=2e-6)
    assert bodies[0]["probabilities"] == bodies[3]["probabilities"]
    assert bodies[4]["probabilities"] == bodies[5]["probabilities"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/predict?model=landcover@v1.0.9", 404, "near it: landcover@v1.0.0"),
        ("/models/boats/predict", 404, "near it: "),
        ("/predict?model=", 422, "model: name one"),
        ("/predict?model=Landcover", 422, "is not the name of a model: write landcover@v1.2.0"),
        (f"/predict?model={V1}&model={V2}", 422, "model: name one, once"),
        (f"/models/{V1}/predict?model={V2}", 422, "model: name one, once"),
        (f"/predict?model={V1}&wait=soon", 422, "wait: give the seconds"),
        (f"/predict?model={V1}&wait=-1", 422, "wait: give the seconds"),
        (f"/predict?model={V1}&wait=nan", 422, "wait: give the seconds"),
        (f"/predict?model={V1}&wait=inf", 422, "wait: give the seconds"),
        ("/predict?model=experiment/12-345", 403, "SERVICE_MODELS"),
        ("/models/$(id)/predict", 422, "is not the name of a model"),
        ("/models/%00/predict", 422, "is not the name of a model"),
        ("/models/" + "a" * 3000 + "/predict", 422, "is not the name of a model"),
        (f"/predict?model={SHIPS}&{WAIT}", 422, "4 bands"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_and_the_next_request_is_answered(
    shared: Worker, path: str, status: int, words: str
) -> None:
    wrong, right = ask(shared, path, "/predict")
    assert words in refusal(wrong, status)
    assert right.status_code == 200


def test_a_model_that_finds_objects_draws_them_when_it_is_named(shared: Worker) -> None:
    image = npy(harbours.water((8, 4), high=40, wide=56))

    async def main() -> tuple[httpx.Response, httpx.Response]:
        async with shared.client() as client:
            url, picture = f"/predict?model=harbour&{WAIT}", {"accept": "image/png"}
            found = await client.post(url, content=image, headers=KIND)
            return found, await client.post(url, content=image, headers=KIND | picture)

    found, drawn = within(shared, work=main())
    assert found.json()["model"]["tag"] == HARBOUR and len(found.json()["objects"]) == 1
    assert Image.open(io.BytesIO(drawn.content)).format == "PNG"


def test_a_model_on_its_way_is_503_with_retry_after(start: Start) -> None:
    worker = start()
    first, second = ask(worker, f"/predict?model={V1}", f"/predict?model={V1}&{WAIT}")
    assert "is being fetched" in refusal(first, 503)
    assert first.headers["retry-after"] == "1"
    assert second.json()["model"]["tag"] == V1


def test_a_request_that_names_a_model_has_it_whatever_is_switched_meanwhile(
    start: Start, tmp_path: Path, bundle: Path
) -> None:
    worker = start()
    large = npy(np.concatenate([make_chip(1)] * 40, axis=2))  # a thread decodes it

    async def main() -> tuple[httpx.Response, httpx.Response]:
        async with worker.client() as client:
            await worker.catalogue.resolve(V1, 60)
            sent = client.post(f"/predict?fit=stretch&model={V1}", content=large, headers=KIND)
            task = asyncio.ensure_future(sent)
            await asyncio.sleep(0.001)
            for seed in (8, 9):
                other = make_bundle(tmp_path / str(seed), seed=seed)
                worker.serving.switch(Model(f"landcover@v9.0.{seed}", read_bundle(other)))
            return await task, await client.post("/predict", content=CHIP, headers=KIND)

    named, default = within(worker, work=main())
    assert named.json()["model"]["tag"] == V1
    assert default.json()["model"]["tag"] == "landcover@v9.0.9"


def test_named_predictions_do_not_count_among_those_of_predict(start: Start) -> None:
    worker = start()
    ask(worker, "/predict", f"/predict?model={V1}&{WAIT}", "/predict?model=boats")
    counted = {
        (handler, status): worker.value(
            "http_requests_total", handler=handler, method="POST", status=str(status)
        )
        for handler in ("/predict", "/models/{name}/predict")
        for status in (200, 404)
    }
    assert list(counted.values()) == [1, 0, 1, 1], counted


def test_predictions_and_drift_are_counted_by_model_and_only_of_loaded_ones(start: Start) -> None:
    worker = start(models_most=1, drift_samples=2)
    for tag in (V1, V2):
        ask(worker, *[f"/predict?model={tag}&{WAIT}"] * 3)
    ask(worker, *["/predict"] * 2)
    text = read(worker, "/metrics").text
    totals = {
        tag: sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("model_predictions_total{class=") and f'tag="{tag}"' in line
        )
        for tag in (V1, V2, "local")
    }
    assert totals == {V1: 3, V2: 3, "local": 2}
    assert f'model_loaded{{tag="{V2}"}} 1.0' in text
    assert f'model_loaded{{tag="{V1}"}}' not in text
    assert 'model_drift_samples{signal="classes",tag="local"} 2.0' in text
    assert f'model_drift_samples{{signal="classes",tag="{V1}"}}' not in text


def test_a_named_prediction_can_be_labelled_with_the_classes_of_its_model(
    registry: Path, bundle: Path, tmp_path: Path
) -> None:
    with serving(bundle, tmp_path, repository=registry / "project", workers=1) as server:
        url = f"{server.url}/predict?model=areas&{WAIT}"
        chip = npy(make_chip(5, size=32))
        answer = httpx.post(url, content=chip, headers=KIND, timeout=60).json()
        label = {"request_id": answer["request_id"], "label": "Water"}
        given = httpx.post(server.url + "/feedback", json=label, timeout=60)
        assert given.status_code == 200, given.text
        refused = httpx.post(server.url + "/feedback", json=label | {"label": "River"}, timeout=60)
        assert refused.status_code == 422


def test_the_list_says_what_is_here_of_each_model_and_what_it_has_seen(start: Start) -> None:
    worker = start(models_most=1)
    ask(worker, f"/predict?model={V1}&{WAIT}", f"/predict?model={V2}&{WAIT}", "/predict")
    worker.container.observations().flush()
    found = experiments(worker)
    assert {tag: item["state"] for tag, item in found.items()} == {
        V1: "cached",
        V2: "loaded",
        SHIPS: "absent",
        "areas@v1.0.0": "absent",
        HARBOUR: "absent",
        "experiment/12-345": "absent",
    }
    seen = found[V1]["monitoring"]
    assert seen["requests"] == 1 and 0 < seen["mean_confidence"] <= 1
    assert (seen["accuracy"], seen["labels"], seen["drift"]) == (None, 0, None)
    assert found[SHIPS]["monitoring"] is None
    worker.serving.switch(Model(V1, read_bundle(Path(worker.container.settings().bundle))))
    assert (experiments(worker)[V1]["state"], experiments(worker)[V1]["serving"]) == (
        *("serving", True),
    )


@pytest.mark.parametrize(
    ("query", "tags"),
    [
        ("?name=ships", [SHIPS]),
        ("?kind=experiment", ["experiment/12-345"]),
        ("?stage=staging", [V2]),
        ("?q=SHIPS", [SHIPS]),
        ("?q=no%20such%20words", []),
        ("?name=landcover&stage=production", [V1]),
        ("?kind=version&limit=1&offset=1", None),
        ("?offset=1000", []),
    ],
)
def test_the_list_is_filtered_and_paged(shared: Worker, query: str, tags: list[str] | None) -> None:
    answer = read(shared, f"/get_experiments_metas{query}").json()
    found = [item["tag"] for item in answer["experiments"]]
    if tags is None:
        everything = read(shared, "/get_experiments_metas?kind=version").json()
        assert answer["total"] == everything["total"] == 5
        assert found == [everything["experiments"][1]["tag"]]
    else:
        assert found == tags
    assert answer["fresh"] is True


@pytest.mark.parametrize(
    "query", ["?name=Ships", "?kind=tag", "?stage=#1", "?offset=-1", "?q=" + "a" * 65]
)
def test_a_filter_that_cannot_be_used_is_refused(shared: Worker, query: str) -> None:
    refusal(read(shared, f"/get_experiments_metas{query}"), 422)


def test_the_list_names_merge_request_approver_and_who_promoted(
    start: Start, tmp_path: Path
) -> None:
    project = Published(tmp_path / "project")
    message = "Merge branch 'a' into 'main'\n\nBetter rivers\n\nSee merge request team/maps!12\n\n"
    message += "Approved-by: Grace Hopper\nReviewed-by: Alan Turing"
    project.train(b"one", message)
    project.tag(V1)
    project.tag("landcover#production#1", f"{V1}^0")
    project.train(b"two")
    project.tag("experiment/13-400")
    project.tag(V2)
    found = experiments(start(repository=project.folder))
    assert found[V1]["merge_request"] == "team/maps!12"
    assert found[V1]["approvals"] == ["Grace Hopper", "Alan Turing"]
    (promotion,) = found[V1]["promotions"]
    assert (promotion["stage"], promotion["tag"]) == ("production", "landcover#production#1")
    assert promotion["by"] == "Ada Secret"
    assert found[V2]["merge_request"] == found["experiment/13-400"]["merge_request"] == "!13"
    assert (found[V2]["approvals"], found[V2]["promotions"]) == ([], [])
    assert list(experiments(start(repository=project.folder), "?q=hopper")) == [V1]


def test_two_hundred_clients_over_all_workers_fetch_an_absent_model_once(
    bundle: Path, registry: Path, tmp_path: Path
) -> None:
    with serving(bundle, tmp_path, repository=registry / "project") as server:

        async def main() -> list[httpx.Response]:
            limits = httpx.Limits(max_connections=200)
            async with httpx.AsyncClient(limits=limits, timeout=120) as client:
                url = f"{server.url}/models/{SHIPS}/predict?{WAIT}"
                asks = [client.post(url, content=OF_SHIPS, headers=KIND) for _ in range(200)]
                return await asyncio.gather(*asks)

        found = asyncio.run(main())
        text = httpx.get(server.url + "/metrics", timeout=60).text
    right = expected(registry / "bundle-3", make_chip(5, bands=3))
    for answer in found:
        if answer.status_code == 503:  # more wait than a worker's queue holds
            assert answer.headers["retry-after"]
            continue
        body = answer.json()
        assert body["model"] == {
            **{"name": "ships", "tag": SHIPS, "sha256": digest_of(registry / "bundle-3")},
        }
        assert np.allclose(list(body["probabilities"].values()), right, atol=2e-6)
    assert sum(answer.status_code == 200 for answer in found) > 100
    assert 'model_fetches_total{result="done"} 1.0' in text
    assert f'model_loaded{{tag="{SHIPS}"}} 2.0' in text


def test_a_service_without_models_by_name_refuses_one_clearly(start: Start) -> None:
    worker = start()
    worker.container.predict()._catalogue = None
    wrong, right = ask(worker, f"/predict?model={V1}", "/predict")
    assert "no models by name" in refusal(wrong, 404)
    assert right.status_code == 200
    assert json.loads(right.content)["model"]["tag"] == "local"
