"""What retraining leaves for the report: shown where it counts, inert whatever stands in it."""

import json
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from pipeline.reporting.sections import challenge_section, drift_section

SHA = "e" * 64
LABELS = {"signal": "mean/B02", "measure": "psi", "tag": "landcover@v1.2.0"}
ALERT = {
    "alertname": "ModelDrift",
    "summary": "mean/B02 drifted: PSI 0.41, more than 0.20",
    "labels": LABELS,
    "starts_at": "2026-05-01T10:00:00Z",
    "generator_url": "http://prometheus.example.com/graph",
}


def write(name: str, content: bytes) -> None:
    Path("reports").mkdir(exist_ok=True)
    Path("reports", name).write_bytes(content)


def drift(*alerts: dict[str, Any], received: str = "2026-05-01T12:00:00+00:00") -> None:
    document = {"received": received, "status": "firing", "alerts": alerts}
    write("drift.json", json.dumps(document).encode())


def compared(**changes: Any) -> None:
    figures = {"chips": 80, "champion": 0.9, "challenger": 0.95, "low": 0.01, "high": 0.09}
    document = {
        "against": "main",
        "champion": "c" * 64,
        "challenger": SHA,
        "pinned": figures | {"fixed": 6, "broken": 2},
        "new": None,
        "verdict": "better",
        "note": "",
    }
    write("challenge.json", json.dumps(document | changes).encode())


def sections(before: str | None = None) -> str:
    return f"{drift_section(before)}\n\n{challenge_section(SHA)}"


def test_the_alerts_that_asked_for_the_training_are_shown(workdir: Path) -> None:
    later = ALERT | {"starts_at": "2026-05-01T11:00:00Z"}
    scored = LABELS | {"signal": "classes", "measure": "js", "score": "0.31"}
    drift(later, ALERT, ALERT | {"alertname": "ClassVanished", "labels": scored})
    text = drift_section(None)
    assert "3 alerts `firing`, received `2026-05-01T12:00:00+00:00`" in text
    sentence = "- `ModelDrift`: `mean/B02 drifted: PSI 0.41, more than 0.20`, since "
    assert text.count(sentence) == 1 and f"{sentence}`2026-05-01T10:00:00Z`" in text
    rows = [row.replace(" ", "") for row in text.splitlines() if row.startswith("|")]
    assert rows[0] == "|signal|measure|score|tag|"
    assert rows[2:] == [
        "|`mean/B02`|`psi`|`-`|`landcover@v1.2.0`|",
        "|`classes`|`js`|`0.31`|`landcover@v1.2.0`|",
    ]


def test_drift_that_the_base_has_answered_already_is_not_shown(workdir: Path) -> None:
    assert sections().strip() == ""
    drift(ALERT)
    base = Path("reports/drift.json").read_text(encoding="utf-8")
    assert drift_section(base) == ""
    drift(ALERT, received="2026-05-01T13:30:00+02:00")  # the base is newer
    assert drift_section(base) == ""
    drift(ALERT, received="2026-06-01T12:00:00Z")
    assert "received `2026-06-01T12:00:00+00:00`" in drift_section(base)
    assert "ModelDrift" in drift_section("<broken>")


def test_many_alerts_are_cut(workdir: Path) -> None:
    drift(*(ALERT | {"summary": f"sentence {index} {'x' * 9999}"} for index in range(99)))
    text = drift_section(None)
    assert "50 alerts" in text and "and 38 more" in text
    assert len(text) < 12_000


HOSTILE = "<img src=x onerror=alert(1)> | [a](javascript:alert(1)) `b` \u202e @all\n# c ![d](e)"


def test_hostile_evidence_stays_inert(workdir: Path) -> None:
    labels = {"signal": HOSTILE, HOSTILE: HOSTILE, "score": HOSTILE}
    drift({"alertname": HOSTILE, "summary": HOSTILE, "labels": labels, "starts_at": HOSTILE})
    compared(against=HOSTILE, champion=HOSTILE, note=HOSTILE)
    text = sections()
    assert "\u202e" not in text
    taken = {"text", "code_inline", "softbreak", "strong_open", "strong_close"}
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert [token.type for token in tokens].count("heading_open") == 2
    assert not any(token.type == "html_block" for token in tokens)
    for child in (child for token in tokens for child in token.children or []):
        assert child.type in taken
        assert child.type == "code_inline" or "alert(1)" not in child.content


@pytest.mark.parametrize("name", ["drift.json", "challenge.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1]", b"\xff", b"[" * 100_000, b"<script>", b" " * 2_000_000],
    ids=["empty", "no-field", "list", "bytes", "deep", "html", "large"],
)
def test_evidence_that_can_not_be_read_is_said_and_the_report_is_written(
    workdir: Path, name: str, content: bytes
) -> None:
    write(name, content)
    text = sections()
    assert f"reports/{name}: " in text and "delete it, or write it anew" in text


@pytest.mark.parametrize("name", ["drift.json", "challenge.json"])
def test_a_folder_in_place_of_evidence_is_said_and_the_report_is_written(
    workdir: Path, name: str
) -> None:
    Path("reports", name).mkdir(parents=True)
    assert f"reports/{name}: Is a directory; delete it" in sections()


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"])
def test_a_drift_at_the_edge_of_the_calendar_is_said_and_the_report_is_written(
    workdir: Path, moment: str
) -> None:
    drift(ALERT)
    base = Path("reports/drift.json").read_text(encoding="utf-8")
    drift(ALERT, received=moment)
    for before in (None, base):
        assert "reports/drift.json: received: not a moment of UTC" in sections(before)
    drift(ALERT)
    assert "ModelDrift" in sections(base.replace("2026-05-01T12:00:00+00:00", moment))


def test_the_challenge_of_this_model_is_shown(workdir: Path) -> None:
    compared()
    text = challenge_section(SHA)
    assert "The new model is ✅ **better** than the model of `main` (`cccccccccccc`)." in text
    rows = [row.replace(" ", "") for row in text.splitlines() if row.startswith("|")]
    assert rows[2:] == ["|inthetestsplitofboth|80|90.00%|95.00%|+1.00%to+9.00%|6|2|"]
    compared(verdict="worse")
    assert "❌ **worse** than" in challenge_section(SHA)
    compared(verdict=None, pinned=None, note="not compared: the champion has other bands")
    assert "`not compared: the champion has other bands`" in sections()


def test_the_challenge_of_another_model_is_left_out(workdir: Path) -> None:
    compared(challenger="d" * 64)
    assert challenge_section(SHA) == ""


@pytest.mark.parametrize(
    "changes",
    [{"verdict": "best"}, {"pinned": {"chips": "many"}}, {"champion": 5}, {"pinned": [1]}],
)
def test_a_challenge_with_wrong_fields_is_said(workdir: Path, changes: dict[str, Any]) -> None:
    compared(**changes)
    assert f"reports/challenge.json: {next(iter(changes))}" in sections()
