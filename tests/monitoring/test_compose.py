"""compose.yaml: locked down, on loopback, and every part finds the others."""

import re
from typing import Any

import yaml

from monitoring import objectives
from monitoring.dashboards.build import DASHBOARDS
from monitoring.objectives import APP, DAYS, PROBES
from tests.conftest import ROOT

DOCUMENT = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
PROMETHEUS = ROOT / "monitoring" / "prometheus"
SCRAPED = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
JOBS = {job["job_name"]: job for job in SCRAPED["scrape_configs"]}
DEFAULT = re.compile(r"\$\{\w+:-(.+?)\}")  # ${NAME:-default}


def mounts(name: str) -> dict[str, str]:
    """Target -> source, with the defaults of the variables."""
    found = {}
    for volume in SERVICES[name].get("volumes", []):
        source, target = DEFAULT.sub(r"\1", volume).split(":")[:2]
        found[target] = source
    return found


def names() -> set[str]:
    """Every host:port of the configuration of Prometheus."""
    configs = [config for job in JOBS.values() for config in job.get("static_configs", [])]
    configs += SCRAPED["alerting"]["alertmanagers"][0]["static_configs"]
    return {target for config in configs for target in config["targets"]}


def test_every_service_is_locked_down_and_listens_on_loopback() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "privileged" not in service and "network_mode" not in service, name


def test_every_image_has_an_exact_version() -> None:
    images = {name: item["image"] for name, item in SERVICES.items() if "build" not in item}
    for name, image in images.items():
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", image), name


def test_every_mounted_path_exists() -> None:
    named = set()
    for name in SERVICES:
        for source in mounts(name).values():
            if source.startswith((".", "/")):
                assert (ROOT / source).exists(), source
            else:
                named.add(source)
    assert named == set(DOCUMENT["volumes"])


def test_mounts_from_the_repository_are_read_only() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            if volume.startswith((".", "/", "$")):
                assert volume.rsplit(":", 1)[1].startswith("ro"), volume


def test_prometheus_finds_its_rules_and_targets() -> None:
    assert mounts("prometheus")["/etc/prometheus"] == "./monitoring/prometheus"
    assert SCRAPED["rule_files"] == ["rules/*.yml"]
    for job in JOBS.values():
        for config in job.get("file_sd_configs", []):
            assert all((PROMETHEUS / name).exists() for name in config["files"])


def test_prometheus_keeps_more_than_the_longest_window_of_a_query() -> None:
    queries = [
        query.expr for page in DASHBOARDS for panel in page.panels for query in panel.queries
    ]
    days = max(int(found) for text in queries for found in re.findall(r"\[([0-9]+)d\]", text))
    [kept] = [
        int(found[1])
        for word in SERVICES["prometheus"]["command"]
        if (found := re.fullmatch(r"--storage\.tsdb\.retention\.time=([0-9]+)d", word))
    ]
    assert kept > days == DAYS


def test_prometheus_scrapes_only_what_compose_starts() -> None:
    hosts = {target.rpartition(":")[0] for target in names()} - {"localhost"}
    assert hosts == {"service", "alertmanager", "node-exporter", "pushgateway"}
    assert hosts <= set(SERVICES)
    [replacement] = [
        rule["replacement"] for rule in JOBS[PROBES]["relabel_configs"] if "replacement" in rule
    ]
    assert replacement.split(":")[0] in SERVICES


def test_without_a_gpu_or_a_prober_there_is_no_target_to_be_down() -> None:
    for name in ("dcgm", PROBES):
        [config] = JOBS[name]["file_sd_configs"]
        for path in config["files"]:
            assert yaml.safe_load((PROMETHEUS / path).read_text(encoding="utf-8")) == []
    assert SERVICES["blackbox"]["profiles"] == ["certificates"]


def test_pushed_series_keep_their_own_job() -> None:
    assert [name for name, job in JOBS.items() if job.get("honor_labels")] == ["pushgateway"]


def test_metrics_stale_covers_every_job() -> None:
    assert all(re.fullmatch(objectives.JOBS, name) for name in JOBS)
    assert {APP, PROBES} <= set(JOBS)


def test_alerts_go_to_the_alertmanager_of_compose() -> None:
    words = SERVICES["alertmanager"]["command"]
    assert "--cluster.listen-address=" in words
    [path] = [word.partition("=")[2] for word in words if word.startswith("--config.file=")]
    assert mounts("alertmanager")[path] == "./monitoring/alertmanager.yml"
    assert "alertmanager:9093" in names()


def test_grafana_finds_its_dashboards_and_data_sources() -> None:
    places = mounts("grafana")
    folder = ROOT / places["/etc/grafana/provisioning"]
    [provider] = yaml.safe_load((folder / "dashboards" / "conveyor.yml").read_text("utf-8"))[
        "providers"
    ]
    assert list((ROOT / places[provider["options"]["path"]]).glob("*.json"))
    for path in (folder / "datasources").glob("*.yml"):
        for source in yaml.safe_load(path.read_text(encoding="utf-8"))["datasources"]:
            assert source["url"].removeprefix("http://") in {"prometheus:9090", "alertmanager:9093"}
