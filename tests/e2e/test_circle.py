"""The story, third part: a model drifts, and the way back leads to a merge request."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from monitoring.errors import MonitoringError
from monitoring.local.drift_view import read_drift
from monitoring.local.programs import PROGRAMS
from monitoring.local.stack import Monitor
from monitoring.local.traffic import HEADERS, Input, brighter, find_images
from service.auth.roles import new_key
from tests.e2e.world import NAME, Pipeline, World, read_json
from tests.fakes.gitlab.server import NUMBER
from tests.make.alerts import BITES, alert, webhook
from tests.make.processes import until
from tests.make.server import Server, serving

pytestmark = pytest.mark.step
VERSION = f"{NAME}@v1.0.0"
IMAGES = 150  # of other light; the least that are judged are 100
KEY, HASH = new_key()
TOKEN = "glptt-0123456789abcdef0123"
PREDICTED: dict[str, str] = {}
"""Request -> what is right."""


@pytest.fixture(scope="module")
def service(world: World) -> Iterator[Server]:
    """The model of main serves as a version; to label needs a key."""
    world.git("tag", VERSION)
    world.git("push", "--quiet", "origin", VERSION)
    settings = {
        "tag": VERSION,
        "workers": 1,
        "keep_images": 64,
        "drift_samples": 100,
        "open_roles": '["predict", "view"]',
        "api_keys": json.dumps({HASH: ["label"]}),
    }
    with serving(world.dev / "model", world.folder / "service", **settings) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def monitor(world: World, service: Server) -> Iterator[Monitor]:
    """Prometheus with the rules that ship, and Alertmanager, which knows the trigger."""
    world.api.triggers.append({"id": 1, "description": "drift alert", "token": TOKEN})
    trigger = f"{world.api.url}/api/v4/projects/{NUMBER}/ref/main/trigger/pipeline?token={TOKEN}"
    ports = {program.name: 0 for program in PROGRAMS}
    watched = [service.url.removeprefix("http://")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRAIN_TRIGGER_URL", trigger)
        try:
            made = Monitor(watched, ports, world.folder / "monitoring", interval=1)
        except MonitoringError as error:
            pytest.skip(str(error))
        with made as running:
            yield running


def retrain(world: World, payload: Any) -> Pipeline:
    """The pipeline that a trigger starts; its job gets the payload as GitLab gives it."""
    file = world.folder / "TRIGGER_PAYLOAD"
    file.write_text(json.dumps(payload), encoding="utf-8")
    facts = {
        "CI_PIPELINE_SOURCE": "trigger",
        "TRIGGER_PAYLOAD": str(file),
        "RELEASE_TOKEN": world.token,
        "FEEDBACK_KEY": KEY,
    }
    return world.pipeline("main", ("retrain",), facts)


def triggered(world: World) -> list[Any]:
    """What GitLab was sent by triggers."""
    return [row["payload"] for row in world.api.pipelines if row["source"] == "trigger"]


def origin(world: World, *words: str) -> str:
    """Ask the Git server."""
    return world.git("--git-dir", str(world.origin), *words)


def wanted(service: Server) -> Input:
    """What the model takes."""
    found = httpx.get(f"{service.url}/version").json()["model"]["input"]
    return Input(len(found["bands"]), found.get("nodata"), int(found["valid_max"]))


def test_brighter_images_are_measured_as_drift(world: World, service: Server) -> None:
    form = wanted(service)
    with httpx.Client(base_url=service.url, timeout=60, headers=HEADERS) as client:
        for path in find_images(world.dev / "data")[:IMAGES]:
            answer = client.post("/predict", content=brighter(path, form, 1.5))
            assert answer.status_code == 200, answer.text
            PREDICTED[answer.json()["request_id"]] = path.parent.name

        def drifted() -> bool:
            drift = read_drift(client.get("/metrics").text)
            return any(score.ratio > 1 for score in drift.scores)

        until(drifted)


def test_users_label_the_predictions(service: Server) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=service.url, timeout=60, headers=headers) as client:
        for request, label in PREDICTED.items():
            answer = client.post("/feedback", json={"request_id": request, "label": label})
            assert answer.status_code == 200, answer.text
    assert httpx.get(f"{service.url}/feedback").status_code == 401


def test_retraining_ingests_the_labels(world: World, service: Server) -> None:
    asked = {"labelled": "true", "limit": "1000"}
    headers = {"authorization": f"Bearer {KEY}"}
    listed = httpx.get(f"{service.url}/feedback", params=asked, headers=headers).json()["answers"]
    assert {item["request_id"]: item["label"] for item in listed} == PREDICTED
    assert any(item["image"] for item in listed)
    words = f"feedback --url {service.url}\n"
    (world.dev / "ci" / "ingest.txt").write_text(words, encoding="utf-8")
    world.commit("Ingest what users have labelled")
    world.git("push", "--quiet", "origin", "main")


def test_a_hostile_trigger_payload_runs_and_changes_nothing(world: World) -> None:
    refs = origin(world, "show-ref")
    script = world.folder / "bite.sh"
    script.write_text(f"touch {world.folder}/pwned\n", encoding="utf-8")
    bitten = alert(alertname=f"$(touch {world.folder}/pwned)\n/merge")
    hostile = webhook(bitten, variables={"BASH_ENV": str(script), "VENV": "/nowhere"})
    pipeline = retrain(world, hostile)
    assert pipeline.jobs == {"retrain": False}, pipeline.log
    assert "TRIGGER_PAYLOAD: it sets variables" in pipeline.log
    assert origin(world, "show-ref") == refs
    assert not list(world.folder.rglob("pwned")), "something was run"


def test_the_alert_reaches_gitlab(world: World, monitor: Monitor) -> None:
    def arrived() -> list[Any]:
        monitor.check()
        return triggered(world)

    payload = until(arrived)[0]
    assert (payload["version"], payload["status"]) == ("4", "firing")
    labels = [entry["labels"] for entry in payload["alerts"]]
    assert {"ModelDrift"} == {entry["alertname"] for entry in labels}
    assert {VERSION} == {entry["tag"] for entry in labels}
    assert "token" not in payload


def test_the_alert_opens_one_merge_request_with_the_evidence(world: World) -> None:
    pipeline = retrain(world, triggered(world)[0])
    assert pipeline.jobs == {"retrain": True}, pipeline.log
    assert f"drift of {VERSION}" in pipeline.of("retrain")
    (options,) = world.options_of("refs/heads/retrain")
    assert "|merge_request.create|merge_request.target=main|" in options
    assert f"Retrain the model: drift of {VERSION}|" in options
    world.git("fetch", "--quiet", "--tags", "origin")
    changed = world.git("diff", "--name-only", "origin/main", "origin/retrain").split()
    assert {"data.dvc", "dvc.lock", "reports/drift.json", "reports/challenge.json"} <= set(changed)
    evidence = json.loads(world.git("show", "origin/retrain:reports/drift.json"))
    assert {entry["labels"]["tag"] for entry in evidence["alerts"]} == {VERSION}
    runs = sorted((world.folder / "runs").iterdir(), key=lambda path: int(path.name))
    kept = list(runs[-1].rglob("artifacts/retrain/payload.json"))
    assert kept and all(read_json(path) == triggered(world)[0] for path in kept)


def test_the_report_shows_drift_data_and_both_models(world: World) -> None:
    number = int(world.api.open_merge_request("retrain")["iid"])
    pipeline = world.request_pipeline(number, "train", "commit", "report")
    assert pipeline.jobs == {"train": True, "commit": True, "report": True}, pipeline.log
    assert "Running stage 'train'" not in pipeline.of("train"), "it was trained already"
    comment = world.comment(number)
    why = comment.partition("## Why: drift")[2].partition("\n## ")[0]
    assert "`ModelDrift`" in why and VERSION in why
    both = comment.partition("## Champion and challenger")[2].partition("\n## ")[0]
    assert "in the test split of both" in both and "new to the champion" in both
    data = comment.partition("## Data changes")[2].partition("\n## ")[0]
    added = int(data.splitlines()[-1].split("|")[2].strip().removeprefix("+"))
    assert added > 20, "of predictions that are sure, 32 images a second are kept"


def test_the_cool_down_prevents_a_second_retraining(world: World) -> None:
    world.git("push", "--quiet", "origin", "--delete", "retrain")  # somebody has closed it
    refs = origin(world, "show-ref")
    bitten = [alert(alertname=text, tag=text) for text in BITES if text != "\ud800"]
    pipeline = retrain(world, webhook(alert(), *bitten))
    assert pipeline.jobs == {"retrain": True}, pipeline.log
    assert "one began less than 24 hours ago" in pipeline.of("retrain")
    assert origin(world, "show-ref") == refs
    assert not list(world.folder.rglob("pwned")), "something was run"
