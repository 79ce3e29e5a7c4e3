"""The dashboards keep to the schema of the Grafana that compose.yaml pins."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.conftest import ROOT, run
from tests.monitoring.promql import everything

FOLDER = ROOT / "monitoring" / "grafana" / "dashboards"
DASHBOARDS = {path.stem: json.loads(path.read_bytes()) for path in sorted(FOLDER.glob("*.json"))}
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
MINOR = re.sub(r".*:(\d+\.\d+)\.\d+$", r"\1", SERVICES["grafana"]["image"])
SCHEMA = Path(__file__).with_name(f"grafana-{MINOR}.yaml")
Document = dict[str, Any]


def wrong(document: Document) -> list[str]:
    """What the schema refuses, each with its place."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    found = jsonschema_rs.validator_for(schema).iter_errors(document)
    return [f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in found]


def test_the_schema_is_of_the_pinned_grafana() -> None:
    """A newer minor release needs a look at its kind `Dashboard`, and a file of its name."""
    assert SCHEMA.exists(), f"compare Grafana {MINOR}'s dashboard_kind.cue with the older file"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_keep_to_the_schema(name: str) -> None:
    assert wrong(DASHBOARDS[name]) == []


def chart(document: Document) -> Document:
    found: Document = next(item for item in document["panels"] if item["type"] == "timeseries")
    return found


@pytest.mark.parametrize(
    ("spoil", "place"),
    [
        (lambda it: it.pop("title"), ""),
        (lambda it: it.update(uid="x" * 41), "uid"),
        (lambda it: it.update(schemaVersion=39), "schemaVersion"),
        (lambda it: it.update(rows=[]), ""),
        (lambda it: chart(it).update(type="graph"), "type"),
        (lambda it: chart(it).update(span=4), ""),
        (lambda it: chart(it)["gridPos"].update(w=25), "gridPos/w"),
        (lambda it: chart(it)["datasource"].update(uid="prometheus"), "datasource/uid"),
        (lambda it: chart(it)["targets"][0].update(expr=""), "targets/0/expr"),
        (lambda it: chart(it)["fieldConfig"]["defaults"].update(unit="furlong"), "defaults/unit"),
        (lambda it: it["links"][0].pop("icon"), "links/0"),
        (lambda it: it["templating"]["list"][1].update(refresh=3), "refresh"),
    ],
)
def test_what_grafana_would_not_take_or_show_is_found(
    spoil: Callable[[Document], object], place: str
) -> None:
    document = copy.deepcopy(DASHBOARDS["model"])
    spoil(document)
    assert [line for line in wrong(document) if line.split(": ")[0].endswith(place)]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_ids_and_the_names_of_queries_are_used_once(name: str) -> None:
    panels = DASHBOARDS[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        names = [target["refId"] for target in panel.get("targets", [])]
        assert len(names) == len(set(names)), panel["title"]
        matched = {item["matcher"]["options"] for item in overrides(panel)}
        assert matched <= set(names), f"{panel['title']}: an override of a query that is not there"


def overrides(panel: Document) -> list[Document]:
    """The settings of single series of a panel."""
    found: list[Document] = panel.get("fieldConfig", {}).get("overrides", [])
    return [item for item in found if item["matcher"]["id"] == "byFrameRefID"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_datasource_is_the_variable_that_the_dashboard_has(name: str) -> None:
    document = DASHBOARDS[name]
    first = document["templating"]["list"][0]
    assert (first["name"], first["type"], first["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    assert set(re.findall(r"\$\{(\w+)\}", json.dumps(document))) == {"datasource"}


def test_promtool_parses_every_query_of_the_files(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    """The files themselves, not the tables; `test_every_query` asks a Prometheus."""
    assert programs
    exprs = [
        everything(target["expr"])
        for document in DASHBOARDS.values()
        for panel in document["panels"]
        for target in panel.get("targets", [])
    ]
    rules = [{"record": f"parsed:{place}", "expr": expr} for place, expr in enumerate(exprs)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "parsed", "rules": rules}]}), "utf-8")
    done = run("promtool", "check", "rules", str(path), cwd=tmp_path)
    assert f"{len(exprs)} rules found" in done.stdout and len(exprs) > 80
