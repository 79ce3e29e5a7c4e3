import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard

from monitoring.dashboards.build import DASHBOARDS, files, render
from monitoring.dashboards.definition import COLUMNS, VARIABLES, Section, places
from monitoring.objectives import APP
from tests.conftest import ROOT, run
from tests.monitoring.promql import kept_labels

GRAFANA = ROOT / "monitoring" / "grafana"
PANELS = [
    (f"{dashboard.title}: {panel.title}", panel)
    for dashboard in DASHBOARDS
    for panel in dashboard.panels
]
WRITTEN = {dashboard.name: json.loads(render(dashboard)) for dashboard in DASHBOARDS}


def test_the_committed_files_are_current() -> None:
    """In a process of its own, whose sets have another order: the same bytes."""
    done = run(sys.executable, "-m", "monitoring.dashboards", "--check", cwd=ROOT)
    assert "all 5 files are current" in done.stdout
    assert files().keys() == {path.name for path in (GRAFANA / "dashboards").iterdir()}


def test_grafana_knows_every_field() -> None:
    for name, document in WRITTEN.items():
        expected = json.loads(json.dumps(document))
        for annotation in expected["annotations"].get("list", []):  # two fields that the SDK lacks
            assert annotation.pop("titleFormat") and annotation.pop("step")
        read = GrafanaDashboard.from_json(expected)
        assert json.loads(json.dumps(read, cls=JSONEncoder)) == expected, name


def test_panels_do_not_overlap_and_fill_every_line() -> None:
    for dashboard in DASHBOARDS:
        laid = [place for _, place in places(dashboard)]
        assert [[*panel["gridPos"].values()] for panel in WRITTEN[dashboard.name]["panels"]] == [
            [place.height, place.width, place.x, place.y] for place in laid
        ]
        for one, other in combinations(laid, 2):
            apart = (
                one.x + one.width <= other.x
                or other.x + other.width <= one.x
                or one.y + one.height <= other.y
                or other.y + other.height <= one.y
            )
            assert apart, (dashboard.title, one, other)
        lines: dict[int, list[tuple[int, int]]] = {}
        for item, place in places(dashboard):
            if not isinstance(item, Section):
                lines.setdefault(place.y, []).append((place.width, place.height))
        for y, line in lines.items():
            assert sum(width for width, _ in line) == COLUMNS, (dashboard.title, y)
            assert len({height for _, height in line}) == 1, (dashboard.title, y)


def test_every_panel_has_a_unit_a_description_and_sorted_thresholds() -> None:
    wrong = [
        place
        for place, panel in PANELS
        if not (panel.title and panel.unit and panel.queries)
        or not (panel.description.endswith(".") and 20 < len(panel.description) < 120)
        or [step.value for step in panel.thresholds] != sorted(t.value for t in panel.thresholds)
    ]
    assert wrong == []


def test_titles_of_a_section_differ() -> None:
    for dashboard in DASHBOARDS:
        for section in dashboard.sections:
            titles = [panel.title for panel in section.panels]
            assert len(titles) == len(set(titles)), (dashboard.title, section.title)


def test_every_legend_names_labels_that_its_query_keeps() -> None:
    wrong = [
        f"{place}: {query.legend}"
        for place, panel in PANELS
        for query in panel.queries
        if not query.legend
        or not set(re.findall(r"{{(\w+)}}", query.legend)) <= kept_labels(query.expr)
    ]
    assert wrong == []


def test_variables_are_those_that_queries_use_and_all_matches_an_absent_label() -> None:
    for dashboard in DASHBOARDS:
        exprs = [query.expr for panel in dashboard.panels for query in panel.queries]
        exprs += [annotation.expr for annotation in dashboard.annotations]
        used = set(re.findall(r"\$([a-z]+)", " ".join(exprs)))
        assert used == set(dashboard.variables) <= VARIABLES.keys(), dashboard.title
        listed = WRITTEN[dashboard.name]["templating"]["list"]
        assert [row["name"] for row in listed] == ["datasource", *dashboard.variables]
        assert all(row["allValue"] == ".*" for row in listed[1:])


def datasources(document: Any) -> Iterator[str]:
    """Every uid of a datasource in a document."""
    if isinstance(document, dict):
        if isinstance(document.get("datasource"), dict):
            yield document["datasource"]["uid"]
        for value in document.values():
            yield from datasources(value)
    if isinstance(document, list):
        for value in document:
            yield from datasources(value)


def test_a_dashboard_works_in_every_grafana() -> None:
    for name, document in WRITTEN.items():
        assert set(datasources(document)) == {"${datasource}"}
        assert document["uid"] == f"{APP}-{name}"
        numbers = [panel["id"] for panel in document["panels"]]
        assert len(numbers) == len(set(numbers))
        assert document["tags"] == ["conveyor", APP]
        assert document["links"][0]["tags"] == [APP], "linked to those of the same model"


def test_provisioning_has_the_datasources_and_the_folder_of_the_dashboards() -> None:
    paths = [*(GRAFANA / "provisioning" / "datasources").glob("*.yml")]
    rows = [row for path in paths for row in yaml.safe_load(path.read_text())["datasources"]]
    assert {row["uid"]: row["type"] for row in rows} == {
        "prometheus": "prometheus",
        "alertmanager": "alertmanager",
    }
    chosen = WRITTEN[DASHBOARDS[0].name]["templating"]["list"][0]["current"]
    assert chosen["value"] in {row["uid"] for row in rows}
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/conveyor.yml").read_text())
    assert provider["providers"][0]["options"]["path"] == "/etc/grafana/dashboards"


def test_a_panel_of_a_gpu_shows_that_it_needs_one() -> None:
    of_gpus = {
        place
        for place, panel in PANELS
        if any(re.search("DCGM|training_gpu_", query.expr) for query in panel.queries)
    }
    assert of_gpus == {place for place, panel in PANELS if panel.needs == "gpu"}
    texts = {
        panel["title"]: panel["fieldConfig"]["defaults"]["noValue"]
        for panel in WRITTEN["system"]["panels"]
        if panel["type"] != "row"
    }
    assert texts["GPU use"] == "needs a GPU" and texts["Memory"] == "no data"


def test_a_cluster_gets_the_same_dashboards() -> None:
    if not (shutil.which("kubectl") or shutil.which("kustomize")):
        pytest.skip("neither kubectl nor kustomize is installed: make setup-e2e")
    command = ["kubectl", "kustomize"] if shutil.which("kubectl") else ["kustomize", "build"]
    folder = ROOT / "monitoring" / "kubernetes" / "dashboards"
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=True)
    made = done.stdout
    maps = list(yaml.safe_load_all(made))
    found = {name: text for item in maps for name, text in item["data"].items()}
    written = {name: text for name, text in files().items() if name.endswith(".json")}
    assert found == {f"{APP}-{name}": text for name, text in written.items()}
    for item in maps:
        assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
        # Longer ones do not fit into the annotation that `kubectl apply` keeps.
        assert len(yaml.safe_dump(item)) < 262144
