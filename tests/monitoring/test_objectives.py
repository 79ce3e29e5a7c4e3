"""Rules, panels and docs have the numbers and names of monitoring/objectives.py."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import objectives
from monitoring.dashboards.build import DASHBOARDS
from monitoring.objectives import APP, AVAILABILITY, BURN_RATES, DAYS, LATENCY, QUICK, percent
from service.telemetry.metrics import ROUTE_SECONDS
from tests.conftest import ROOT, run

NAMES = {"1h": "an hour", "6h": "six", "1d": "a day", "3d": "three"}


def burning(objective: objectives.Objective) -> str:
    """The sentence of the runbook about the burn rates of an objective."""
    parts: dict[str, list[str]] = {}
    for rate in BURN_RATES:
        share = percent(rate.factor * objective.budget)
        parts.setdefault(rate.severity, []).append(f"{share} in {NAMES[rate.long]}")
    return ", ".join(f"{' or '.join(parts[name])} for a {name}" for name in parts)


def test_the_docs_have_the_same_numbers() -> None:
    sentences = {
        "monitoring.md": [
            f"Objectives over {DAYS} days: {percent(AVAILABILITY.target)} of `/predict` without "
            f"5xx, {percent(LATENCY.target)} below {QUICK} s.",
        ],
        "runbook.md": [
            f"than {percent(AVAILABILITY.target)} availability in {DAYS} days allows",
            burning(AVAILABILITY),
            burning(LATENCY),
            f"More than {percent(LATENCY.budget)} of the predictions take {QUICK} s or more",
            f"fewer than {objectives.LEAST_REQUESTS} requests in the window",
            f"more than {objectives.LEAST_EXPECTED} times in the last hour",
            f"over at least {objectives.CONFIDENCE_PREDICTIONS} predictions, is less than "
            f"{percent(objectives.CONFIDENCE_SHARE)} of",
            f"for {objectives.LEAST_LABELS} real predictions or more",
            f"{objectives.FAILED_SWAPS} or more swaps of the model failed on one replica",
            f"less than {percent(objectives.DISK_LEFT['page'])} of a disk is left",
            f"less than {percent(objectives.DISK_LEFT['ticket'])}, and",
            f"A certificate expires in less than {objectives.EXPIRY_DAYS} days",
            f"A token of the pipeline expires in less than {objectives.EXPIRY_DAYS} days",
        ],
    }
    missing = [
        f"docs/{page}: {sentence}"
        for page, expected in sentences.items()
        for sentence in expected
        if sentence not in " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())
    ]
    assert missing == []


def test_latency_is_a_bound_of_the_histogram() -> None:
    """Otherwise its series does not exist, and nothing would ever be slow."""
    shares = (AVAILABILITY.target, LATENCY.target)
    assert all(0.5 < share < 1 for share in shares)

    assert QUICK in ROUTE_SECONDS


def renamed(folder: Path, name: str) -> Path:
    """A copy of the folder monitoring/ whose files are made for another model."""
    shutil.copytree(ROOT / "monitoring", folder / "monitoring")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["model"]["name"] = name
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for module in ("monitoring.alerts.rules", "monitoring.dashboards"):
        run(sys.executable, "-m", module, cwd=folder)
    return folder / "monitoring"


def test_another_name_in_params_renames_rules_dashboards_and_jobs(tmp_path: Path) -> None:
    folder = renamed(tmp_path, "flood-maps")
    paths = [
        path
        for path in folder.rglob("*")
        if path.suffix in (".py", ".j2", ".yml", ".yaml", ".json") and "targets" not in path.parts
    ]
    named = [path.name for path in paths if "landcover" in path.read_text(encoding="utf-8")]
    assert named == []
    prometheus = folder / "prometheus"
    assert 'up{job="flood-maps",' in (prometheus / "rules" / "alerts.yml").read_text("utf-8")
    assert "job_name: flood-maps\n" in (prometheus / "prometheus.yml").read_text("utf-8")


def dashboards(folder: Path) -> dict[str, dict[str, Any]]:
    """The dashboards below a folder, by their uids."""
    paths = (folder / "grafana" / "dashboards").glob("*.json")
    documents = [json.loads(path.read_bytes()) for path in paths]
    return {document["uid"]: document for document in documents}


@pytest.mark.parametrize("name", [f"{APP}-urban", f"{APP}-" + "very-" * 8 + "long"])
def test_dashboards_of_two_models_live_side_by_side_in_one_grafana(
    name: str, tmp_path: Path
) -> None:
    ours, theirs = dashboards(ROOT / "monitoring"), dashboards(renamed(tmp_path, name))
    assert len(ours) == len(theirs) == len(DASHBOARDS)
    assert ours.keys().isdisjoint(theirs)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", uid) for uid in (*ours, *theirs))
    titles = [{document["title"] for document in of.values()} for of in (ours, theirs)]
    assert titles[0].isdisjoint(titles[1])
    linked = {tag for document in theirs.values() for tag in document["links"][0]["tags"]}
    assert linked == {name}
    assert not [uid for uid, document in ours.items() if linked & set(document["tags"])]
    maps = yaml.safe_load(
        (tmp_path / "monitoring/grafana/dashboards/kustomization.yaml").read_text("utf-8")
    )["configMapGenerator"]
    for item in maps:
        assert item["name"].startswith(name) and item["files"][0].startswith(f"{name}-")
