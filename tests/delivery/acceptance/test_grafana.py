"""The acceptance on Grafana, against a fake that refuses what the original refuses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from delivery.acceptance import grafana as acceptance
from delivery.acceptance import panels
from tests.conftest import ROOT
from tests.fakes.grafana import EDITOR, SOURCES, VIEWER, BadQuery, Grafana, grafana
from tests.fakes.http import Request, answering
from tests.make.processes import until

OTHER = {"uid": "landcover-model", "title": "landcover: Model", "panels": []}


@pytest.fixture
def state() -> Grafana:
    """A Grafana that has the real dashboard of that uid already."""
    there = {"landcover-model": {"dashboard": OTHER, "folderUid": "team"}}
    return Grafana(folders={"team"}, dashboards=dict(there))


@pytest.fixture
def url(state: Grafana, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address; the working directory is a project with the dashboards that ship."""
    shutil.copytree(ROOT / panels.FILES, tmp_path / panels.FILES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAFANA_TOKEN", EDITOR)
    with grafana(state) as url:
        yield url


def play(url: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Run the command; returns its report."""
    monkeypatch.setattr("sys.argv", ["grafana", url, *words])
    acceptance.main()
    return acceptance.REPORT.read_text(encoding="utf-8")


def failing(url: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, str]:
    """Run the command where it does not pass; returns the checks that fail, and what was seen."""
    with pytest.raises(SystemExit) as ended:
        play(url, monkeypatch, *words)
    assert ended.value.code == 1
    rows = acceptance.REPORT.read_text(encoding="utf-8").splitlines()
    cells = [row.split(" | ") for row in rows if row.startswith("| ❌")]
    return {cell[1]: cell[2].removesuffix(" |") for cell in cells}


def refused(url: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Run the command where it ends with a sentence, which is returned."""
    with pytest.raises(SystemExit) as ended:
        play(url, monkeypatch, *words)
    said = str(ended.value.code)
    assert said.startswith("error: ") and "\n" not in said
    return said


def left(state: Grafana) -> list[str]:
    """What is there beside what was there before."""
    return [*(state.folders - {"team"}), *(state.dashboards.keys() - {"landcover-model"})]


def shipped() -> list[str]:
    """Panels of the dashboards that ship, as the report names them."""
    documents = panels.read().values()
    return [
        f"{document['title']}: {panel['title']}"
        for document in documents
        for panel in document["panels"]
        if panel["type"] != "row"
    ]


def test_every_panel_is_asked_and_nothing_is_left(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = play(url, monkeypatch)
    assert re.match(r"# Acceptance on Grafana: all \d+ passed\n", report)
    assert f"{url}, Grafana 13.2.3, data source Prometheus," in report
    assert [name for name in shipped() if f"| ✅ | {name} |" not in report] == []
    assert len(shipped()) > 80
    assert "| ✅ | landcover: Model: mark Swaps |" in report
    assert left(state) == [] and state.dashboards["landcover-model"]["dashboard"] == OTHER


def test_only_the_variables_of_grafana_itself_are_left_to_grafana(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(url, monkeypatch)
    names = {name for expr in state.exprs for name in re.findall(r"\$\{?(\w+)", expr)}
    assert names == {"__rate_interval"}
    assert any('namespace=~".*"' in expr for expr in state.exprs)


def test_a_panel_without_data_is_shown_with_what_it_needs_and_is_no_failure(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.answer = lambda expr: [] if "DCGM" in expr else [None] if "push_time" in expr else [1.0]
    report = play(url, monkeypatch)
    assert re.match(r"# Acceptance on Grafana: all \d+ passed, [4-9] skipped\n", report)
    assert "| ➖ | landcover: System: GPU use | needs a GPU |" in report
    assert "| ➖ | landcover: Training: Silent for | no data |" in report, "NaN is no number"


def test_a_query_that_prometheus_refuses_fails_with_its_words(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(expr: str) -> list[float | None]:
        if "node_load1" in expr:
            raise BadQuery('bad_data: invalid parameter "query": 1:5: parse error')
        return [1.0]

    state.answer = answer
    found = failing(url, monkeypatch)
    assert found.keys() == {"landcover: System: Load a core"}
    assert "1:5: parse error" in found["landcover: System: Load a core"]
    assert left(state) == []


def test_a_grafana_without_any_data_fails_and_says_what_to_look_at(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.answer = lambda expr: []
    found = failing(url, monkeypatch)
    assert found == {"panels have data": "0: does Prometheus scrape the service, under its job?"}


@pytest.mark.parametrize("status", [404, 502])
def test_a_query_that_grafana_refuses_is_a_row_and_the_others_are_asked(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    state.trouble["POST /api/ds/query"] = status
    found = failing(url, monkeypatch)
    assert all(f"{status}, trouble" in found[name] for name in shipped())
    assert "panels have data" in found and left(state) == []


def test_a_dashboard_that_grafana_refuses_ends_the_story_and_the_folder_goes(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = panels.FILES / "service.json"
    document = json.loads(path.read_bytes()) | {"title": ""}
    path.write_text(json.dumps(document), encoding="utf-8")
    found = failing(url, monkeypatch)
    assert found.keys() == {"the story could go on"}
    assert "400, Dashboard title cannot be empty" in found["the story could go on"]
    assert left(state) == []


def test_a_folder_that_cannot_be_deleted_is_named_with_the_command_that_does_it_later(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.trouble["DELETE /api/folders"] = 500
    found = failing(url, monkeypatch)
    [folder] = left(state)
    assert f"make acceptance-grafana URL={url} CLEAN={folder}" in found["nothing is left"]
    state.trouble.clear()
    monkeypatch.setattr("sys.argv", ["grafana", url, "--clean", folder])
    acceptance.main()
    assert left(state) == []


@pytest.mark.parametrize("folder", ["team", "conveyor-acceptance-", "conveyor-acceptance-../team"])
def test_only_folders_of_a_run_can_be_cleaned(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    assert "is not a folder of a run" in refused(url, monkeypatch, "--clean", folder)
    assert state.changes == [] and "team" in state.folders


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_story_that_is_interrupted_leaves_nothing(
    state: Grafana, url: str, tmp_path: Path, number: int
) -> None:
    state.trouble["POST /api/ds/query"] = 0  # the first query hangs
    words = [sys.executable, "-m", "delivery.acceptance.grafana", url]
    command = ["/usr/bin/env", "--default-signal=INT", *words]  # as in a terminal
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
        until(lambda: state.dashboards.keys() - {"landcover-model"}, "an import")
        process.send_signal(number)
        assert process.wait(60) == 130
    assert left(state) == []
    report = acceptance.REPORT.read_text(encoding="utf-8")
    assert "| ✅ | nothing is left |" in report and "it was interrupted" in report


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (
            "",
            r"GRAFANA_TOKEN: not set: add a token to .* the role Editor at .*/org/serviceaccounts",
        ),
        ("glsa_two\nlines", "GRAFANA_TOKEN: it has a blank or a letter that no token has"),
        ("glsa_wrong", "GRAFANA_TOKEN: Grafana does not know the token, or it has expired: make"),
        (VIEWER, r"refuses a new folder \(.*folders:create\): .* needs the role Editor"),
    ],
)
def test_a_token_that_is_missing_wrong_or_too_weak_is_one_sentence(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch, token: str, said: str
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", token)
    message = refused(url, monkeypatch)
    assert re.search(said, message) and (not token or token not in message)
    assert left(state) == [] and not acceptance.REPORT.exists()
    monkeypatch.setenv("GRAFANA_TOKEN", EDITOR)
    assert "all " in play(url, monkeypatch), "the next good request works"


@pytest.mark.parametrize(
    "address",
    ["", "grafana.example.com", "ftp://grafana.example.com", "https://", "https://a.example/?x=1"],
)
def test_what_is_no_address_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    said = refused(address, monkeypatch)
    assert f"{address!a} is not the address of a Grafana: write https://grafana" in said


def test_an_address_without_an_answer_is_one_sentence(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused("http://127.0.0.1:1", monkeypatch)
    assert "http://127.0.0.1:1 cannot be reached" in said and "SSL_CERT_FILE" in said


@pytest.mark.parametrize("body", [b"<html>Prometheus</html>", b'{"status": "ok"}', b"[]"])
def test_another_program_is_no_grafana(
    url: str, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    with answering(lambda request: request.reply(200, body)) as other:
        assert f"{other} is no Grafana" in refused(other, monkeypatch)


def test_a_login_page_before_grafana_is_named(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.trouble["GET /api/health"] = 302
    assert "leads to 'https://login.example.com/'" in refused(url, monkeypatch)


def test_a_grafana_below_a_path_is_found(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []

    def answer(request: Request) -> None:
        paths.append(request.path)
        request.reply(404, b"{}")

    with answering(answer) as other:
        assert f"{other}/grafana is no Grafana" in refused(f"{other}/grafana/", monkeypatch)
    assert paths == ["/grafana/api/health"]


@pytest.mark.parametrize("version", ["10.4.2", "11.5.9"])
def test_a_grafana_that_is_too_old_is_refused(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    state.version = version
    said = refused(url, monkeypatch)
    assert f"is Grafana {version}, which is too old: the dashboards need 11.6 or newer" in said
    assert state.changes == []


def test_a_grafana_that_hides_its_version_is_asked(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.version = ""
    assert "Grafana of a version that it hides" in play(url, monkeypatch)


def test_a_grafana_without_a_prometheus_says_where_to_add_one(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del state.sources["Prometheus"]
    said = refused(url, monkeypatch)
    assert "no data source of the kind Prometheus: add one under Connections" in said
    assert state.changes == []


def test_of_several_prometheuses_the_default_or_the_named_one_is_asked(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.sources = SOURCES | {"Thanos": {"type": "prometheus", "uid": "thanos"}}
    assert "data source Prometheus," in play(url, monkeypatch)
    assert "data source Thanos," in play(url, monkeypatch, "--source", "thanos")
    state.default = "Loki"
    said = refused(url, monkeypatch)
    assert "SOURCE: several fit: write SOURCE= and one of Prometheus, Thanos" in said
    said = refused(url, monkeypatch, "--source", "Loki")
    assert "'Loki' is not a Prometheus of this Grafana: write one of Prometheus, Thanos" in said


def test_a_grafana_that_does_not_answer_in_time_is_one_sentence(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.trouble["GET /api/frontend/settings"] = 0
    said = refused(url, monkeypatch, "--seconds", "2")
    assert "does not answer GET /api/frontend/settings within 2 s" in said
    assert "wait longer with --seconds" in said


def test_a_query_without_an_answer_ends_the_story_and_the_folder_goes(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.trouble["POST /api/ds/query"] = 0
    # The other requests of the story are answered within it, on a busy machine too.
    found = failing(url, monkeypatch, "--seconds", "5")
    assert found.keys() == {"the story could go on"}
    assert left(state) == []


def test_a_project_without_dashboards_says_how_to_make_them(
    state: Grafana, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in panels.FILES.iterdir():
        path.unlink()
    assert "no dashboard is there: make dashboards" in refused(url, monkeypatch)
    assert state.changes == []
