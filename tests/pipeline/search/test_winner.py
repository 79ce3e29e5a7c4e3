"""The winner: trained again, held to its score, compared on the test split, committed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.searches import SEARCH
from contracts.searches import Search as Document
from pipeline import train
from pipeline.bundle.manifest import read_bundle
from pipeline.data.prepared import read_prepared
from pipeline.errors import DataError, RevisionError, TrainingError
from pipeline.params import read_params
from pipeline.reporting.searching import search_section
from pipeline.search import winner
from pipeline.search.journal import open_storage
from pipeline.search.space import parse_plan
from pipeline.search.study import Search, start
from pipeline.search.workers import work
from pipeline.search.winner import edit, propose
from tests.conftest import ROOT, run, write_params
from tests.pipeline.search.conftest import Begin

STAGES = """stages:
  train:
    cmd: python -m pipeline.train
    deps: [artifacts/chips]
    params: [model, train]
    outs: [model]
    metrics: [reports/training/metrics.json]
    plots: [reports/training/plots/metrics]
  evaluate:
    cmd: python -m pipeline.evaluate
    deps: [artifacts/chips, model]
    params: [evaluate]
    metrics: [{reports/metrics.json: {cache: false}}]
    outs:
      - reports/classes.json: {cache: false}
      - reports/predictions.csv: {cache: false}
"""
SPACE = {"train.epochs": {"choice": [1, 6]}}


@pytest.fixture
def project(trained: Path) -> Search:
    """A trained project with a search that is over: six epochs are better than its two."""
    plan = {"space": SPACE, "sampler": "grid", "budget": {}, "pruner": "none", "objective": "loss"}
    document, space = parse_plan(read_params(), plan, "search.yaml")
    search = start(open_storage(), document, space, read_prepared())
    work(search)
    best = search.best()
    assert best and best.params == {"train.epochs": 6}
    return search


def test_the_winner_of_a_search_becomes_one_commit(
    project: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    Path("dvc.yaml").write_text(STAGES, encoding="utf-8")
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("\ntrain:", "\n# of training\ntrain:"))
    shutil.copy(ROOT / ".gitignore", ".gitignore")
    for words in (
        ("git", "init", "--quiet", "--initial-branch=main"),
        ("git", "config", "user.name", "A"),
        ("git", "config", "user.email", "a@example.com"),
        ("dvc", "init", "--quiet"),
        ("dvc", "commit", "--force", "--quiet"),  # what is trained is current
        ("git", "add", "--all"),
        ("git", "commit", "--quiet", "--message", "start"),
    ):
        run(*words)
    branch = project.name.replace("-", "/", 1)
    run("git", "branch", branch)
    with pytest.raises(RevisionError, match=f"branch {branch}: it is there.*git switch {branch}"):
        propose(project)
    assert read_params().train.epochs == 2, "nothing was trained"
    run("git", "branch", "--delete", branch)
    propose(project)
    assert read_params().train.epochs == 6
    assert "# of training\n" in Path("params.yaml").read_text(encoding="utf-8")
    assert run("git", "branch", "--show-current").stdout.startswith("search/")
    title = run("git", "log", "-1", "--format=%s").stdout
    assert title.startswith("Search: ") and "95 %" in title
    files = run("git", "show", "--name-only", "--format=").stdout.split()
    assert {"params.yaml", "dvc.lock", "reports/search.json", "reports/search.csv"} <= set(files)
    document = Document.model_validate_json(SEARCH.read_bytes())
    assert document.winner and document.winner.changed == {"train.epochs": (2, 6)}
    assert document.winner.units == 12 and document.winner.low <= document.winner.high
    assert document.winner.model == read_bundle()[1].sha256
    section = search_section(document.winner.model)
    assert title.strip() in section and "search/curves.png" in section


def test_a_winner_that_scores_otherwise_is_refused_with_both_values(
    project: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winner, "_branch", lambda search: "team")  # no repository here
    before = Path("params.yaml").read_bytes()

    def otherwise(search: Search, *options: str) -> None:
        if "--no-run-cache" in options:
            monkeypatch.setattr(train, "one_cycle", lambda progress: 0.1 + progress / 10)
            train.train(read_params(), read_prepared())

    monkeypatch.setattr(winner, "_repro", otherwise)
    best = project.best()
    assert best
    with pytest.raises(TrainingError) as refused:
        propose(project)
    assert f"had loss {best.intermediate_values[1]!r} in the search and " in str(refused.value)
    assert "(epoch 1): refused, params.yaml is as before" in str(refused.value)
    assert Path("params.yaml").read_bytes() == before
    assert not SEARCH.exists()


def test_a_search_without_a_better_point_changes_nothing(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(winner, "_branch", lambda search: "team")  # no repository here
    plan = {"space": SPACE, "budget": {"trials": 1}}
    search = start(open_storage(), *parse_plan(read_params(), plan, "x"), read_prepared())
    work(search)
    before = Path("params.yaml").read_bytes()
    monkeypatch.setattr(winner, "_repro", lambda search, *options: None)
    propose(search)
    assert "no trial was better than params.yaml" in capsys.readouterr().out
    assert Path("params.yaml").read_bytes() == before
    assert json.loads(SEARCH.read_text(encoding="utf-8"))["winner"]["changed"] == {}


def changed_params() -> None:
    write_params({"train": {"epochs": 7}})


def changed_data() -> None:
    table = Path("artifacts/chips/manifest.csv")
    table.write_text(table.read_text(encoding="utf-8") + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed_params, "params.yaml has changed since the search"),
        (changed_data, "data or code of training have changed since the search: make search"),
    ],
)
def test_a_winner_of_other_parameters_or_data_is_refused(
    begin: Begin, change: Callable[[], None], said: str
) -> None:
    search = begin(budget={"trials": 1})
    with pytest.raises(DataError, match="has no complete trial: make search"):
        propose(search)
    work(search)
    change()
    with pytest.raises(DataError, match=said):
        propose(search)


def test_values_change_and_comments_stay(workdir: Path) -> None:
    path = Path("params.yaml")
    shutil.copy(ROOT / path, path)
    edit(path, {"train.learning_rate": 0.03, "model.width": 16})
    old, new = ((ROOT / path).read_text("utf-8"), path.read_text("utf-8"))
    differing = [(a, b) for a, b in zip(old.splitlines(), new.splitlines(), strict=True) if a != b]
    assert [b.split("#")[0].split() for _, b in differing] == [
        ["width:", "16"],
        ["learning_rate:", "0.03"],
    ]
    assert all(a.split("#")[1] == b.split("#")[1] for a, b in differing)
