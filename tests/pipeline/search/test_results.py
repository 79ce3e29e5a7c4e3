"""What a search leaves: a document, a table, pictures, and a section in the report."""

import csv
import json
from pathlib import Path

import pytest

from contracts import searches
from contracts.searches import CURVES, IMPORTANCE, SEARCH, TRIALS
from pipeline.reporting.searching import headline, search_section
from pipeline.search import results
from pipeline.search.study import Search
from pipeline.search.workers import work
from tests.pipeline.search.conftest import Begin


def winner(**changes: object) -> searches.Winner:
    facts = {
        "model": "abc",
        "trial": 2,
        "changed": {"model.width": (12, 16)},
        "units": 200,
        "unit": "test chips",
        "measure": "accuracy",
        "before": 0.9,
        "now": 0.912,
        "low": 0.004,
        "high": 0.02,
    }
    return searches.Winner.model_validate(facts | changes)


def test_the_table_has_one_line_a_trial_and_the_document_says_what_it_cost(
    searched: Search,
) -> None:
    found = results.write(searched)
    rows = list(csv.DictReader(TRIALS.read_text(encoding="utf-8").splitlines()))
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert {row["state"] for row in rows} == {"complete"}
    assert rows[0]["train.learning_rate"] == "0.02" and rows[0]["epochs"] == "2"
    assert sum(float(row["seconds"]) for row in rows) == pytest.approx(found.seconds, abs=0.1)
    best = searched.best()
    assert best and float(rows[best.number]["score"]) == best.value == found.best[0].score
    assert (found.complete, found.epochs, found.state) == (3, 6, "succeeded")
    assert searches.Search.model_validate_json(SEARCH.read_bytes()) == found
    assert CURVES.read_bytes().startswith(b"\x89PNG")


def test_importance_says_which_parameter_made_the_difference(begin: Begin) -> None:
    rates = [1e-9, 0.02, 0.04]
    space = {"train.learning_rate": {"choice": rates}, "train.brightness": {"choice": [0.0, 0.01]}}
    search = begin(space=space, sampler="grid", budget={}, objective="loss")
    work(search)
    shares = results.write(search).importance
    assert shares["train.learning_rate"] > shares["train.brightness"]
    assert IMPORTANCE.read_bytes().startswith(b"\x89PNG")


def test_the_report_shows_the_search_of_this_model_alone(searched: Search) -> None:
    results.write(searched, winner())
    text = search_section("abc")
    assert text.startswith("## Search: +1.2 points of accuracy (95 % +0.4 to +2.0), 3 trials, ")
    for words in (
        "| `model.width` |",
        "200 test chips",
        "which flatters",
        "search/c",
    ):
        assert words in text
    assert search_section("another model") == ""
    results.write(searched)
    assert search_section("abc") == ""
    SEARCH.unlink()
    assert search_section("abc") == ""


def test_a_search_without_a_gain_says_so(searched: Search) -> None:
    found = results.write(searched, winner(changed={}))
    assert headline(found).startswith("Search: nothing better than params.yaml in 3 trials")


def test_a_document_of_a_merge_request_stays_inert(searched: Search) -> None:
    found = results.write(searched, winner(measure="<script>", unit="[x](y)"))
    document = json.loads(SEARCH.read_text(encoding="utf-8"))
    document["hardware"] = "<img src=x>"
    document["best"][0]["params"] = {"<b>": "<i>"}
    SEARCH.write_text(json.dumps(document), encoding="utf-8")
    text = search_section("abc")
    assert "script of" not in headline(found).replace("script", "", 1)
    assert "`<img src=x>`" in text and "`<b>`" in text and "<script>" not in text
    assert "[x](y)" not in text
    SEARCH.write_text("{", encoding="utf-8")
    assert "not JSON" in search_section("abc")
    assert Path("reports/search.json").exists()
