"""Title, description and message of a proposal."""

import json
from typing import Any

import pytest

from contracts.reports import Challenge, Figures
from delivery.errors import ToolError
from delivery.retrain.alert import read_evidence
from delivery.retrain.proposal import Proposal, read_challenge
from pipeline.reporting.documents import read_drift
from tests.make.alerts import BITES, alert, payload

FIGURES = Figures(chips=100, champion=0.9, challenger=0.92, low=-0.01, high=0.05, fixed=4, broken=2)


def written(**fields: Any) -> bytes:
    """What pipeline.challenge writes."""
    known = {
        "pinned": FIGURES,
        "new": None,
        "verdict": "no worse",
        "note": "",
        "champion": "0" * 64,
    }
    found = Challenge(**({"against": "origin/main", "challenger": "1" * 64} | known | fields))
    return found.model_dump_json().encode()


def test_the_verdict_has_its_numbers() -> None:
    both = read_challenge(written(verdict="better", new=FIGURES.model_copy(update={"chips": 7})))
    interval = "+2.00% accuracy (95 % interval -1.00% to +5.00%)"
    assert both.sentence == (
        f"The new model is better: on 100 pinned test chips {interval}; "
        f"on 7 new test chips {interval}."
    )
    assert not both.is_loss


def test_a_worse_model_is_a_draft() -> None:
    found = Proposal(None, read_challenge(written(verdict="worse")))
    assert found.title == "Draft: Retrain the model"
    assert "is worse, and should not be merged: on 100" in found.description


def test_the_first_model_is_proposed_without_a_comparison() -> None:
    first = read_challenge(written(pinned=None, verdict=None, champion=None, note="the first"))
    assert "could not be compared" in Proposal(None, first).description


def test_hostile_texts_reach_no_message() -> None:
    plain = Proposal(read_evidence(payload(alert())), read_challenge(written()))
    for line in (plain.title, plain.description):
        assert line.isprintable(), "a push option is one line"
    for text in BITES:
        evidence = read_evidence(payload(alert(), alert(alertname=text, tag=text)))
        valid = text.replace("\ud800", "")  # which no file of JSON in UTF-8 can contain
        challenge = json.loads(written()) | {"note": valid, "against": valid}
        found = Proposal(evidence, read_challenge(json.dumps(challenge).encode()))
        for part in ("title", "description", "message", "news"):
            assert getattr(found, part) == getattr(plain, part), ascii(text)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", written().replace(b"no worse", b"/merge"), written()[:-9], b"\xff"],
)
def test_a_challenge_of_another_format_is_refused(content: bytes) -> None:
    with pytest.raises(ToolError, match="not what pipeline.challenge writes"):
        read_challenge(content)


def test_the_report_reads_the_evidence_that_is_written() -> None:
    evidence = read_evidence(payload())
    assert evidence
    drift = read_drift(evidence.model_dump_json(indent=2))
    assert drift
    assert drift.alerts[0].labels["signal"] == "mean/B08"
    assert drift.alerts[0].starts_at == evidence.alerts[0].starts_at
