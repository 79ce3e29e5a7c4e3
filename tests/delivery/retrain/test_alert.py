"""What comes with a trigger: Alertmanager's webhook is taken as data, anything else is refused."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.reports import LARGEST, LONGEST
from delivery.retrain.alert import Evidence, EvidenceError, clean, read_evidence, read_payload
from tests.make.alerts import BARE, BITES, HOSTILE, alert, payload

NOW = datetime(2026, 11, 21, 18, 30, tzinfo=UTC)


def read(content: bytes) -> Evidence:
    """Read evidence that has to be there."""
    evidence = read_evidence(content, NOW)
    assert evidence is not None
    return evidence


def test_an_alert_is_taken_with_its_labels_number_and_times() -> None:
    document = read(payload()).model_dump(mode="json")
    assert document == {
        "received": "2026-11-21T18:30:00+00:00",
        "status": "firing",
        "alerts": [
            {
                "alertname": "ModelDrift",
                "summary": "mean/B08 of landcover@v1.2.0 has drifted: 0.41 > 0.2",
                "labels": {
                    "alertname": "ModelDrift",
                    "severity": "ticket",
                    "owner": "model",
                    "tag": "landcover@v1.2.0",
                    "signal": "mean/B08",
                    "measure": "psi",
                },
                "starts_at": "2026-11-21T17:02:31.123Z",
                "generator_url": "http://prometheus.example.com/graph?g0.expr=x",
            }
        ],
    }


def test_the_drifted_version_is_read_from_the_alert() -> None:
    evidence = read(payload(alert(tag=None), alert(alertname="ClassVanished"), alert()))
    assert evidence.drift == "drift of landcover@v1.2.0"
    assert evidence.names == ["ModelDrift", "ClassVanished"]


def test_a_manual_trigger_has_no_evidence() -> None:
    assert read_evidence(BARE) is None
    assert read_evidence(b"{}") is None


@pytest.mark.parametrize(
    "content",
    [
        payload(alert() | {"status": "resolved"}, status="resolved"),
        payload(alert(retrain=None)),
        payload(alert(retrain="false")),
        payload(alerts=[]),
    ],
    ids=["ended", "without the label", "with another value", "no alert"],
)
def test_ended_alerts_and_alerts_without_the_label_do_not_count(content: bytes) -> None:
    assert not read(content).asks


def test_fifty_alerts_are_kept() -> None:
    calm = [alert(retrain=None) for _ in range(60)]
    evidence = read(payload(*calm, *(alert(signal=f"mean/{band}") for band in range(80))))
    assert len(evidence.alerts) == 50
    assert evidence.alerts[0].labels["signal"] == "mean/0"


def test_unknown_keys_are_dropped() -> None:
    strange = payload(
        alert(PUSH_URL="https://evil.example.com"),
        **{"variables[PUSH_URL]": "x", "__proto__": {}, "inputs": {"a": 1}},
    )
    assert read(strange) == read(payload())


def test_payloads_of_others_are_refused_with_a_short_sentence(tmp_path: Path) -> None:
    file = tmp_path / "payload"
    for name, content in HOSTILE.items():
        file.write_bytes(content)
        with pytest.raises(EvidenceError, match=r"^TRIGGER_PAYLOAD: \w+") as refused:
            read_evidence(read_payload(file))
        sentence = str(refused.value)
        assert sentence.isprintable() and len(sentence) < 200, name
        assert "evil" not in sentence, name


def test_hostile_texts_become_short_printable_lines_and_no_message_has_them() -> None:
    for text in BITES:
        bitten = alert(alertname=text, tag=text, signal=text) | {
            "annotations": {"summary": text},
            "startsAt": text,
            "generatorURL": text,
        }
        evidence = read(payload(bitten))
        (found,) = evidence.alerts
        for kept in (found.alertname, found.summary, found.starts_at, *found.labels.values()):
            assert kept.isprintable() and len(kept) <= LONGEST, ascii(text)
        assert found.generator_url == ""
        assert (evidence.names, evidence.drift) == ([], "drift"), ascii(text)


def test_only_names_of_the_grammar_reach_messages() -> None:
    for name in ("Model Drift", "1Drift", "drift-now", "Drift!1", "x" * 65, "Дрейф", ""):
        assert read(payload(alert(alertname=name))).names == [], name
    for tag in ("local", "landcover#staging#1", "@root", f"{'x' * 80}@v1.0.0"):
        assert read(payload(alert(tag=tag))).drift == "drift", tag


def test_invisible_characters_are_removed() -> None:
    assert clean("a\u202eb\u2066c\x00d\n\n e\ufeff") == "a b c d e"
    assert clean("é 水 🙂") == "é 水 🙂"


def test_the_largest_payload_is_accepted_and_a_larger_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "payload"
    file.write_bytes(b" " * (LARGEST - len(payload())) + payload())
    assert read(read_payload(file)).asks
    file.write_bytes(b" " * LARGEST + payload())
    with pytest.raises(EvidenceError, match="more than 1 MiB"):
        read_payload(file)


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing", Path("/dev/zero")):
        with pytest.raises(EvidenceError, match="cannot be read|not a plain file"):
            read_payload(path)
    with pytest.raises(EvidenceError, match="cannot be read"):
        read_payload(Path("a\0b"))
