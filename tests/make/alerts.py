"""Bodies of requests to the trigger, as GitLab leaves them to a job: honest and hostile ones."""

import json
from typing import Any

DRIFT = {
    "alertname": "ModelDrift",
    "severity": "ticket",
    "owner": "model",
    "retrain": "true",
    "tag": "landcover@v1.2.0",
    "signal": "mean/B08",
    "measure": "psi",
}


def alert(**labels: str | None) -> dict[str, Any]:
    """An alert of a model's drift, with other labels where they are given."""
    return {
        "status": "firing",
        "labels": {name: value for name, value in (DRIFT | labels).items() if value is not None},
        "annotations": {"summary": "mean/B08 of landcover@v1.2.0 has drifted: 0.41 > 0.2"},
        "startsAt": "2026-11-21T17:02:31.123Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example.com/graph?g0.expr=x",
        "fingerprint": "0123456789abcdef",
    }


def webhook(*alerts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Alertmanager's body, with what GitLab puts beside it."""
    return {
        "version": "4",
        "groupKey": '{}/{retrain="true"}:{}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "retrain",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example.com",
        "alerts": list(alerts or (alert(),)),
        "id": "42",
        "ref": "main",
        "variables": {},
    } | fields


def payload(*alerts: dict[str, Any], **fields: Any) -> bytes:
    """The same, as it lies in the file."""
    return json.dumps(webhook(*alerts, **fields)).encode()


BARE = b'{"id":"42","ref":"main","variables":{}}'
"""What GitLab leaves when somebody triggers by hand."""

BITES = [
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    "x\n/merge\n/approve\n/label ~done",
    "x\n\n/merge",
    "x\r/merge",
    "x\u2028/merge\u2029/approve",
    "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "[click](javascript:alert(1)) ![x](https://evil.example.com/x.png)",
    "# Title\n\n| a | b |\n|---|---|",
    "@all @root !1 #1 ~bug %1",
    "\x00\x07\x1b[2J\x1b[0m\x7f",
    "abc\u202edrowssap\u2066\u200b\ufeff",
    "--push-option=ci.skip",
    "\x1b[0Ksection_start:1700000000:x[collapsed=true]\r\x1b[0K",
    "\ud800",
    "x" * 100_000,
    'Draft: Resolve "x" 🙂 ${CI_JOB_TOKEN} $CI_JOB_TOKEN %(x)s {x} {{x}}',
]
"""Texts that bite where they are not held as data."""

HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"status=firing",
    "two documents": payload() + payload(),
    "half of one": payload()[:-20],
    "no UTF-8": payload().replace(b"ModelDrift", b"Model\xffDrift"),
    "null bytes": b"\0" + payload(),
    "a mark of byte order": b"\xef\xbb\xbf" + payload(),
    "UTF-16": json.dumps(webhook()).encode("utf-16"),
    "a list": b"[" + payload() + b"]",
    "a number": b"4",
    "null": b"null",
    "deep lists": b"[" * 500_000,
    "deep objects": b'{"a":' * 200_000,
    "deep below alerts": payload().replace(b'"alerts": [', b'"alerts": [' + b"[" * 100_000),
    "NaN": payload(truncatedAlerts=float("nan")),
    "infinity": payload(truncatedAlerts=float("inf")),
    "a key twice": payload().replace(b'"status"', b'"version": "4", "status"', 1),
    "a label twice": payload().replace(b'"retrain"', b'"tag": "x", "retrain"', 1),
    "too large": payload(pad="x" * 2**20),
    "another version": payload(version="3"),
    "a version that is a number": payload(version=4),
    "another status": payload(status="$(touch pwned)"),
    "alerts that are a text": payload(alerts="ModelDrift"),
    "an alert that is a text": payload(alerts=["ModelDrift"]),
    "labels that are a list": payload(alert() | {"labels": ["ModelDrift"]}),
    "a label that is no text": payload(alert() | {"labels": {"alertname": {"a": "b"}}}),
    "no alerts": json.dumps({"version": "4", "status": "firing"}).encode(),
    "a webhook of GitLab": b'{"object_kind":"push","ref":"refs/heads/main","id":"42"}',
    "a foreign key": b'{"id":"42","ref":"main","variables":{},"$(touch pwned)":1}',
    "variables": payload(variables={"PUSH_URL": "https://evil.example.com/x.git"}),
    "variables alone": b'{"id":"42","ref":"main","variables":{"TASK":"retrain"}}',
    "variables that are a text": payload(variables="PUSH_URL=x"),
}
"""Bodies that are refused."""
