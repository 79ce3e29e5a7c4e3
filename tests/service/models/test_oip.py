"""The Open Inference Protocol: the numbers of `/predict`, as JSON and bytes; bad requests."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.inference.bundle import read_bundle
from service.inference.model import Model
from tests.conftest import ROOT
from tests.make import harbours, maps
from tests.make.bundles import CLASSES, make_chip
from tests.make.images import npy
from tests.make.replicas import Worker, within
from tests.make.server import serving
from tests.make.wire import refusal
from tests.service.models.conftest import AREAS, V1

Start = Callable[..., Worker]
LENGTH = "inference-header-content-length"
CHIP = make_chip(5)
KIND = {"content-type": "application/octet-stream"}
INFER = "/v2/models/landcover/infer"


@pytest.fixture(scope="module")
def alone(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    """A worker without a registry, for requests that are refused."""
    folder = tmp_path_factory.mktemp("alone")
    return Worker(bundle, folder / "none", folder / "state")


def tensor(chips: np.ndarray[Any, Any], **changes: Any) -> dict[str, Any]:
    data = {} if "parameters" in changes else {"data": chips.tolist()}
    fields = {"name": "chips", "shape": list(chips.shape), "datatype": chips.dtype.name.upper()}
    return fields | data | changes


def binary(
    chips: np.ndarray[Any, Any], request: Mapping[str, Any] = {}, **changes: Any
) -> tuple[bytes, dict[str, str]]:
    """A body with its tensor as bytes, and the headers."""
    content = chips.astype(chips.dtype.newbyteorder("<")).tobytes()
    size = {"binary_data_size": len(content)}
    document = {"inputs": [tensor(chips, **{"parameters": size} | changes)], **request}
    text = json.dumps(document).encode()
    return text + content, {LENGTH: str(len(text)), **KIND}


def call(worker: Worker, *calls: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    async def main() -> list[httpx.Response]:
        async with worker.client() as client:
            return [await client.request(method, path, **more) for method, path, more in calls]

    return within(worker, work=main())


def infer(worker: Worker, path: str = INFER, **more: Any) -> httpx.Response:
    return call(worker, ("POST", path, more))[0]


def arrays(answer: httpx.Response) -> dict[str, Any]:
    """The outputs of an answer, read as its clients do."""
    content, end = answer.content, int(answer.headers.get(LENGTH, len(answer.content)))
    found, place = {}, end
    for output in json.loads(content[:end])["outputs"]:
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = output["data"]
            continue
        piece, place = content[place : place + size], place + size
        kind = {"FP32": "<f4", "UINT8": "u1"}.get(output["datatype"])
        found[output["name"]] = np.frombuffer(piece, kind).tolist() if kind else piece
    assert place == len(content)
    return found


def test_the_server_describes_itself(start: Start) -> None:
    worker = start()
    server, live, ready = call(
        worker, *(("GET", path, {}) for path in ("/v2", "/v2/health/live", "/v2/health/ready"))
    )
    assert server.json() == {
        **{"name": "conveyor", "version": "1", "extensions": ["binary_tensor_data"]},
    }
    assert (live.json(), ready.json()) == ({"live": True}, {"ready": True})
    worker.serving.draining = True
    stopping = call(worker, ("GET", "/v2/health/ready", {}))[0]
    assert "is stopping" in refusal(stopping, 503)


def test_a_model_describes_what_it_takes_and_gives(shared: Worker) -> None:
    worker = shared
    default, ships, areas = call(
        worker,
        ("GET", "/v2/models/landcover", {}),
        ("GET", "/v2/models/ships/versions/1.0.0?wait=60", {}),
        ("GET", f"/v2/models/{AREAS}?wait=60", {}),
    )
    assert default.json()["inputs"] == [
        {"name": "chips", "datatype": "UINT16", "shape": [-1, 4, 64, 64]}
    ]
    assert [(it["name"], it["shape"]) for it in default.json()["outputs"]] == [
        *(("probabilities", [-1, 10]), ("class", [-1])),
    ]
    assert (ships.json()["name"], ships.json()["versions"]) == ("ships", ["v1.0.0"])
    assert [(it["name"], it["datatype"]) for it in areas.json()["outputs"]] == [
        *(("labels", "UINT8"), ("confidence", "UINT8"), ("class", "BYTES")),
    ]


def test_a_model_is_ready_when_it_is_here_and_to_ask_begins_its_fetch(start: Start) -> None:
    worker = start()
    first, default, unknown = call(
        worker,
        ("GET", "/v2/models/ships/versions/v1.0.0/ready", {}),
        ("GET", "/v2/models/landcover/ready", {}),
        ("GET", "/v2/models/boats/ready", {}),
    )
    assert "is being fetched" in refusal(first, 503)
    assert default.json() == {"name": "landcover", "ready": True}
    assert refusal(unknown, 404) == unknown.json()["error"]


def test_numbers_are_those_of_predict_as_json_and_as_bytes(shared: Worker) -> None:
    worker = shared
    path = "/v2/models/landcover/versions/v1.0.0/infer?wait=60"
    body, headers = binary(CHIP[None], {"parameters": {"binary_data_output": True}})
    named, text, bytes_, staged = call(
        worker,
        ("POST", f"/predict?model={V1}&wait=60", {"content": npy(CHIP), "headers": KIND}),
        ("POST", path, {"json": {"id": "mine", "inputs": [tensor(CHIP[None])]}}),
        ("POST", path, {"content": body, "headers": headers}),
        (
            *("POST", "/v2/models/landcover/versions/production/infer?wait=60"),
            {"json": {"inputs": [tensor(CHIP[None], data=CHIP.ravel().tolist())]}},
        ),
    )
    right = named.json()
    assert list(right["probabilities"].values()) == arrays(text)["probabilities"]
    assert arrays(staged) == arrays(text)
    assert arrays(text)["class"] == [right["class"]]
    found = arrays(bytes_)
    assert found["probabilities"] == np.array(arrays(text)["probabilities"], np.float32).tolist()
    assert found["class"] == len(right["class"]).to_bytes(4, "little") + right["class"].encode()
    answer = text.json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (
        *("landcover", "v1.0.0", "mine"),
    )
    assert answer["parameters"]["tag"] == V1
    assert answer["parameters"]["request_ids"] == text.headers["x-request-id"]


def test_several_chips_are_several_predictions(start: Start) -> None:
    worker = start()
    chips = np.stack([make_chip(number) for number in range(3)])
    answer = infer(worker, json={"inputs": [tensor(chips)]})
    found = answer.json()["outputs"][0]
    assert (found["name"], found["shape"]) == ("probabilities", [3, len(CLASSES)])
    single = [arrays(infer(worker, json={"inputs": [tensor(chip[None])]})) for chip in chips]
    assert found["data"] == [value for one in single for value in one["probabilities"]]
    assert len(set(answer.json()["parameters"]["request_ids"].split(","))) == 3
    worker.container.observations().flush()
    totals = worker.container.observations().totals()
    assert sum(float(record["predictions"].sum()) for _, record in totals) == 6


def test_a_model_that_maps_answers_with_the_class_of_each_pixel(
    shared: Worker, registry: Path
) -> None:
    chip = maps.ground(32, 32, 3)
    wanted = Model(AREAS, read_bundle(registry / "areas")).infer(chip)
    body, headers = binary(chip[None], {"outputs": [{"name": "labels"}]})
    answer = infer(shared, "/v2/models/areas/infer?wait=60", content=body, headers=headers)
    assert wanted.labels is not None
    assert arrays(answer) == {"labels": wanted.labels.ravel().tolist()}


def test_a_model_that_finds_objects_takes_any_size_and_answers_with_boxes(shared: Worker) -> None:
    images = np.stack([harbours.water((8, 4), high=40, wide=56)] * 2)
    path = "/v2/models/harbour"
    described, answer, thin = call(
        shared,
        ("GET", f"{path}?wait=60", {}),
        ("POST", f"{path}/infer", {"json": {"inputs": [tensor(images)]}}),
        ("POST", f"{path}/infer", {"json": {"inputs": [tensor(images[..., :1])]}}),
    )
    found = described.json()
    assert found["inputs"][0]["shape"] == [-1, 4, -1, -1]
    assert [it["name"] for it in found["outputs"]] == ["boxes", "scores", "labels"]
    outputs = {it["name"]: it for it in answer.json()["outputs"]}
    assert {(it["name"], it["datatype"]) for it in found["outputs"]} == {
        (name, it["datatype"]) for name, it in outputs.items()
    }
    assert outputs["boxes"]["shape"][0] == 2 and outputs["boxes"]["shape"][2] == 4
    assert np.allclose(outputs["boxes"]["data"][:4], (8, 4, 12, 8), atol=0.5)
    assert "at least" in refusal(thin, 422)


GOOD = tensor(CHIP[None])
TEXT = json.dumps({"inputs": [GOOD]}).encode()
BODY, HEADERS = binary(CHIP[None])


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"content": b"garbage"}, 400, "not JSON"),
        ({"content": b""}, 400, "not JSON"),
        ({"content": b"\xff\xfe{}"}, 400, "not JSON"),
        ({"content": b"[" * 100_000}, 400, "not JSON"),
        ({"json": []}, 422, "the body"),
        ({"json": {}}, 422, "inputs"),
        ({"json": {"inputs": []}}, 422, "send one tensor, chips, not 0"),
        ({"json": {"inputs": [GOOD, GOOD]}}, 422, "one name"),
        ({"json": {"inputs": [GOOD, GOOD | {"name": "more"}]}}, 422, "not 2"),
        ({"json": {"inputs": [GOOD | {"name": "image"}]}}, 422, "takes chips"),
        ({"json": {"inputs": [GOOD | {"datatype": "FP32"}]}}, 422, "takes UINT16"),
        ({"json": {"inputs": [GOOD | {"datatype": "CHIPS"}]}}, 422, "takes UINT16"),
        ({"json": {"inputs": [GOOD | {"shape": [1, 3, 64, 64]}]}}, 422, "[-1, 4, 64, 64]"),
        ({"json": {"inputs": [GOOD | {"shape": [4, 64, 64]}]}}, 422, "[-1, 4, 64, 64]"),
        ({"json": {"inputs": [GOOD | {"shape": [1]}]}}, 422, "[-1, 4, 64, 64]"),
        ({"json": {"inputs": [GOOD | {"shape": [2, 4, 64, 64]}]}}, 422, "wanted 32768"),
        ({"json": {"inputs": [GOOD | {"shape": [65, 4, 64, 64]}]}}, 413, "may have 64"),
        ({"json": {"inputs": [GOOD | {"shape": [0, 4, 64, 64]}]}}, 422, "shape"),
        ({"json": {"inputs": [GOOD | {"shape": [-1, 4, 64, 64]}]}}, 422, "shape"),
        ({"json": {"inputs": [GOOD | {"shape": ["1", 4, 64, 64]}]}}, 422, "shape"),
        ({"json": {"inputs": [GOOD | {"data": None}]}}, 422, "data are missing"),
        ({"json": {"inputs": [GOOD | {"data": "AAAA"}]}}, 422, "data are missing"),
        ({"json": {"inputs": [GOOD | {"data": [1, 2, 3]}]}}, 422, "3 values"),
        ({"json": {"inputs": [GOOD | {"data": [[1], [2, 3]]}]}}, 422, "differ in length"),
        ({"json": {"inputs": [GOOD | {"data": ["1"] * CHIP.size}]}}, 422, "wanted 16384"),
        ({"json": {"inputs": [GOOD | {"data": [0.5] * CHIP.size}]}}, 422, "wanted 16384"),
        ({"json": {"inputs": [GOOD | {"data": [70000] * CHIP.size}]}}, 422, "0 to 65535"),
        ({"json": {"inputs": [GOOD | {"data": [-1] * CHIP.size}]}}, 422, "0 to 65535"),
        ({"json": {"inputs": [GOOD | {"data": [10**30] * CHIP.size}]}}, 422, "wanted 16384"),
        ({"json": {"inputs": [GOOD | {"data": [0] * CHIP.size}]}}, 422, "no pixel"),
        ({"json": {"inputs": [GOOD], "outputs": [{"name": "boxes"}]}}, 422, "none of prob"),
        ({"content": TEXT, "headers": {LENGTH: "9999999"}}, 400, "is not the length"),
        ({"content": TEXT, "headers": {LENGTH: "9" * 40}}, 400, "is not the length"),
        ({"content": TEXT, "headers": {LENGTH: "-1"}}, 422, "length"),
        ({"content": TEXT, "headers": {LENGTH: "ten"}}, 422, "length"),
        ({"content": TEXT, "headers": {LENGTH: "10"}}, 400, "not JSON"),
        ({"content": TEXT + b"xx", "headers": {LENGTH: str(len(TEXT))}}, 400, "2 bytes follow"),
        ({"content": BODY[:-2], "headers": HEADERS}, 400, "32766 bytes are left"),
        ({"content": BODY + b"xx", "headers": HEADERS}, 400, "2 bytes follow"),
        ({"content": TEXT, "headers": {"content-encoding": "gzip"}}, 415, "not compressed"),
        ({"content": TEXT, "headers": {"content-length": "99999999999"}}, 413, "more than"),
    ],
    ids=range(41),
)
def test_a_bad_request_is_refused_and_the_next_one_is_answered(
    alone: Worker, more: dict[str, Any], status: int, words: str
) -> None:
    wrong, right = call(alone, ("POST", INFER, more), ("POST", INFER, {"json": {"inputs": [GOOD]}}))
    assert words in refusal(wrong, status)
    assert wrong.json()["error"] == wrong.json()["detail"]
    assert right.status_code == 200, right.text


def test_a_binary_tensor_of_another_size_than_its_shape_is_refused(alone: Worker) -> None:
    body, headers = binary(CHIP[None], shape=[2, 4, 64, 64])
    assert "65536 bytes, 32768 came" in refusal(infer(alone, content=body, headers=headers), 422)
    for size in (-1, 10**9, "32768", True, 1.5):
        body, headers = binary(CHIP[None], parameters={"binary_data_size": size})
        assert "binary_data_size" in refusal(infer(alone, content=body, headers=headers), 400)


def test_a_body_over_the_limit_of_uploads_is_refused(start: Start) -> None:
    worker = start(max_upload=4096)
    assert "more than 4096 bytes" in refusal(infer(worker, json={"inputs": [GOOD]}), 413)


@pytest.mark.parametrize("name", ["boats", "ships@v9.9.9", "Landcover", "%7Bname%7D"])
def test_a_model_that_is_not_there_is_refused_as_elsewhere(shared: Worker, name: str) -> None:
    for answer in call(
        shared,
        ("POST", f"/v2/models/{name}/infer", {"json": {"inputs": [GOOD]}}),
        ("GET", f"/v2/models/{name}", {}),
        ("GET", f"/v2/models/{name}/ready", {}),
    ):
        refusal(answer, 404, 422)


def test_the_client_of_triton_works_unchanged(bundle: Path, registry: Path, tmp_path: Path) -> None:
    python = ROOT / ".venv-checks" / "bin" / "python"
    if not list(python.parent.parent.glob("lib/python*/site-packages/tritonclient")):
        pytest.skip("tritonclient is not installed: make setup-e2e")
    (tmp_path / "chip.npy").write_bytes(npy(CHIP))
    with serving(bundle, tmp_path, repository=registry / "project", workers=1) as server:
        address = server.url.removeprefix("http://")
        words = [address, "landcover", "1.0.0", str(tmp_path / "chip.npy")]
        script = str(ROOT / "tests" / "make" / "triton.py")
        done = subprocess.run([python, script, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        url = f"{server.url}/predict?model={V1}"
        right = httpx.post(url, content=npy(CHIP), headers=KIND, timeout=60).json()
    found = json.loads(done.stdout)
    assert (found["live"], found["ready"], found["model ready"]) == (True, True, True)
    assert found["server"]["extensions"] == ["binary_tensor_data"]
    numbers = list(right["probabilities"].values())
    for way in ("bytes", "json"):
        answer = found[way]
        assert answer["probabilities"] == [np.array(numbers, np.float32).tolist()], way
        assert (answer["class"], answer["version"]) == ([right["class"]], "v1.0.0")
        assert answer["id"] == "mine"
    assert found["plain"] == found["bytes"]["probabilities"]
    assert found["model"]["inputs"][0]["shape"] == [-1, 4, 64, 64]
    assert found["unknown ready"] is False
    status, message = found["error"]
    assert status == "404" and message.startswith("model: boats is not in the registry")
