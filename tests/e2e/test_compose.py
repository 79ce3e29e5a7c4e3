"""`docker compose up --build`, played by podman-compose: the page, predictions, and who watches."""

import json
import math
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from delivery.acceptance import grafana as acceptance
from delivery.acceptance import panels
from monitoring.objectives import APP
from tests.conftest import ROOT
from tests.e2e import compose, containers, images
from tests.e2e.compose import STARTED, Stack
from tests.e2e.containers import KEY
from tests.fakes.grafana import EDITOR, BadQuery, Grafana, grafana
from tests.make.bundles import CLASSES, expected
from tests.make.images import CHIP, CHIPS
from tests.make.processes import until
from tests.make.projects import Published

pytestmark = [
    containers.needed,
    pytest.mark.skipif(bool(compose.missing()), reason=compose.missing()),
]

project = images.project  # fixture
PROMETHEUS = ROOT / "monitoring" / "prometheus"


@pytest.fixture(scope="module")
def stack(project: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything that has an image here, started; the service is ready."""
    with compose.started(project.folder, tmp_path_factory.mktemp("compose")) as stack:
        until(lambda: answers(f"{stack.url('service')}/readyz"), "the service")
        yield stack


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def ask(url: str) -> Any:
    """What an address answers, as JSON."""
    return httpx.get(url, trust_env=False, timeout=30).raise_for_status().json()


def from_prometheus(stack: Stack, path: str) -> Any:
    return ask(f"{stack.url('prometheus')}/api/v1/{path}")["data"]


def up(stack: Stack) -> dict[str, str]:
    """Job of each target -> what Prometheus says about it."""
    found = from_prometheus(stack, "targets")["activeTargets"]
    return {item["labels"]["job"]: item["health"] for item in found}


def test_the_page_is_served(stack: Stack) -> None:
    page = httpx.get(f"{stack.url('service')}/", trust_env=False)
    assert page.status_code == 200 and "<html" in page.text


def test_an_image_is_classified_without_a_key(stack: Stack, project: Published) -> None:
    files = {"file": CHIPS["plain TIFF"]}
    answer = httpx.post(f"{stack.url('service')}/predict", files=files, trust_env=False)
    truth = expected(images.bundle_of(project, images.V1), CHIP)
    assert answer.json()["class"] == CLASSES[int(truth.argmax())]


def test_experiments_are_those_of_the_mounted_repository(stack: Stack) -> None:
    found = ask(f"{stack.url('service')}/get_experiments_metas")
    assert {images.V1, images.V2} <= set(json.dumps(found).split('"'))


def test_replacing_the_model_needs_the_key_of_the_variable(stack: Stack) -> None:
    with httpx.Client(base_url=stack.url("service"), trust_env=False, timeout=30) as client:
        assert client.post("/rollback_ml_model", json={}).status_code == 401
        client.headers["authorization"] = f"Bearer {KEY}"
        assert (
            client.post("/rollback_ml_model", json={}).status_code == 409
        ), "nothing to go back to"


def test_the_health_check_of_the_service_passes(stack: Stack) -> None:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    check = document["services"]["service"]["healthcheck"]["test"]
    assert check[0] == "CMD"
    stack.podman("exec", stack.container("service"), *check[1:])


def test_containers_have_the_rights_of_the_file_and_no_more(stack: Stack) -> None:
    for service in STARTED:
        [found] = json.loads(stack.podman("inspect", stack.container(service)))
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"] and found["EffectiveCaps"] in (None, []), service
        assert host["SecurityOpt"] == ["no-new-privileges"], service
        assert found["Config"]["User"].split(":")[0] in ("10001", "65534"), service
        assert found["RestartCount"] == 0, stack.logs(service)


def test_every_target_of_prometheus_is_up(stack: Stack) -> None:
    document = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    jobs = {job["job_name"] for job in document["scrape_configs"] if "static_configs" in job}
    until(lambda: up(stack) == dict.fromkeys(jobs, "up"), "all targets up")


def test_predictions_reach_prometheus(stack: Stack) -> None:
    metrics = httpx.get(f"{stack.url('service')}/metrics", trust_env=False).text
    assert "model_predictions_total{" in metrics
    query = "query?query=sum(model_predictions_total)"
    until(
        lambda: (
            (found := from_prometheus(stack, query)["result"]) and float(found[0]["value"][1]) >= 1
        ),
        "a prediction in Prometheus",
    )


def test_every_rule_that_ships_is_loaded(stack: Stack) -> None:
    shipped = {
        rule.get("alert") or rule["record"]
        for path in (PROMETHEUS / "rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    }
    groups = from_prometheus(stack, "rules")["groups"]
    assert (
        {rule["name"] for group in groups for rule in group["rules"]} == shipped >= {"ModelDrift"}
    )


def test_prometheus_has_found_alertmanager_with_the_routes_that_ship(stack: Stack) -> None:
    """No alert is waited for: one that fired before would come a minute later."""
    [found] = until(lambda: from_prometheus(stack, "alertmanagers")["activeAlertmanagers"])
    assert found["url"] == "http://alertmanager:9093/api/v2/alerts"
    loaded = ask(f"{stack.url('alertmanager')}/api/v2/status")["config"]["original"]
    names = [it["name"] for it in yaml.safe_load(loaded)["receivers"]]
    assert names == ["nobody", "page", "ticket"]


def answer_of(stack: Stack, expr: str) -> list[float | None]:
    """What Grafana would get from this Prometheus. BadQuery if it does not understand."""
    url = f"{stack.url('prometheus')}/api/v1/query"
    asked = {"query": expr.replace("$__rate_interval", "1m")}
    found = httpx.get(url, params=asked, trust_env=False, timeout=30).json()
    if found["status"] != "success":
        raise BadQuery(found["error"])
    values = [float(series["value"][1]) for series in found["data"]["result"]]
    return [None if math.isnan(value) else value for value in values]


def test_this_prometheus_understands_every_query_that_grafana_sends(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The acceptance, with a stand-in for Grafana between it and Prometheus."""
    shutil.copytree(ROOT / panels.FILES, tmp_path / panels.FILES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAFANA_TOKEN", EDITOR)
    with grafana(Grafana(answer=partial(answer_of, stack))) as url:
        monkeypatch.setattr("sys.argv", ["grafana", url])
        acceptance.main()
    report = acceptance.REPORT.read_text(encoding="utf-8")
    assert " failed" not in report.splitlines()[0]
    for panel in ("Model: What serves where", "System: Memory", "System: Targets"):
        assert f"| ✅ | {APP}: {panel} |" in report, report


def test_what_a_pipeline_pushed_is_there_after_a_restart(stack: Stack) -> None:
    url = stack.url("pushgateway")
    pushed = httpx.put(f"{url}/metrics/job/conveyor", content=b"kept 1\n", trust_env=False)
    assert pushed.status_code == 200
    assert stack.compose("restart", "pushgateway").returncode == 0
    until(lambda: answers(f"{url}/-/ready"), "the Pushgateway")
    assert "\nkept{" in httpx.get(f"{url}/metrics", trust_env=False).text


def test_without_a_key_nothing_starts_and_the_message_says_how_to_make_one(stack: Stack) -> None:
    done = stack.compose("up", "--no-start", "service", SERVICE_API_KEYS="")
    assert done.returncode != 0
    assert "python -m service key makes one" in done.stdout + done.stderr


def test_the_end_leaves_no_container_volume_or_network(stack: Stack) -> None:
    assert len(stack.left()) > len(STARTED)
    stack.down()
    assert stack.left() == []
