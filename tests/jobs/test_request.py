"""Requests: what is taken, and the sentence that refuses the rest."""

from pathlib import Path

import pytest
import yaml

from jobs.errors import Denied, Refused
from jobs.request import Request, Resources, changed, parse, read
from jobs.settings import Quota
from tests.conftest import ROOT


def test_the_shipped_example_is_a_request() -> None:
    asked = read(ROOT / "jobs" / "train.yaml")
    assert (asked.kind, asked.executor, asked.commit) == ("train", "local", "HEAD")
    assert asked.on_failure[0].parameters == {"train.batch_size": "/2"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nmae": "x"}, "nmae: it is not known here"),
        ({"name": "Große Tat"}, "name: wanted a text like"),
        ({"priority": "high"}, "priority: wanted a whole number"),
        ({"priority": 10**6}, "priority: wanted at most 1000"),
        ({"resources": {"gpus": -1}}, "resources.gpus: wanted at least 0"),
        ({"resources": {"memory": "much"}}, "resources.memory: wanted a text like"),
        ({"resources": {"time": "1 week"}}, "resources.time: wanted a text like"),
        ({"parameters": {"epochs": 3}}, "parameters.epochs"),
        ({"parameters": {"train.epochs": [3]}}, "parameters.train.epochs"),
        ({"commit": "--upload-pack=x"}, "commit: wanted a text like"),
        ({"command": ["true"]}, "`command` belongs to `kind: command`"),
        ({"kind": "command"}, "`command` belongs to `kind: command`"),
        ({"kind": "test", "parameters": {"train.epochs": 3}}, "take `parameters` away"),
        (
            {"kind": "test", "on_failure": [{"when": "nan", "parameters": {"a.b": 1}}]},
            "take `parameters` away",
        ),
        ({"on_failure": [{"when": "sadness"}]}, "on_failure.0.when: wanted one of"),
        ({"on_failure": [{"when": "nan"}]}, "on_failure.0: it changes nothing"),
        ({"on_failure": [{"when": "waiting", "queue": "b"}]}, "needs it: after: 30m"),
        ({"on_failure": [{"when": "nan", "after": "1m", "queue": "b"}]}, "belongs to"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(yaml.safe_dump({"name": "train", **change}).encode(), "job.yaml")
    assert str(refused.value).startswith("job.yaml: ") and said in str(refused.value)


@pytest.mark.parametrize("content", [b"[", b"\xff", b"- 1", b"2026-01-01", b"a: .nan", b""])
def test_a_file_that_is_no_request_is_refused(content: bytes) -> None:
    with pytest.raises(Refused, match="^the request: "):
        parse(content)
    with pytest.raises(Refused, match="at most 65536"):
        parse(content + b"#" * (2**16 + 1))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"none.yaml: No such file.*jobs/train.yaml"):
        read(tmp_path / "none.yaml")


def test_a_factor_changes_a_number_and_a_value_replaces_it() -> None:
    assert changed(64, "/2") == 32 and changed(1, "/2") == 1
    assert changed(0.02, "*0.1") == pytest.approx(0.002)
    assert changed("auto", "cpu") == "cpu" and changed(64, 8) == 8
    assert changed(64, "/0") == "/0"  # no factor; params.yaml's types refuse it
    with pytest.raises(Refused, match="the value is 'auto'"):
        changed("auto", "/2")


def test_requests_for_the_same_work_have_one_digest() -> None:
    one, same = (parse(b"{name: a, parameters: {train.epochs: 3}}") for _ in range(2))
    other = parse(b"{name: a, parameters: {train.epochs: 4}}")
    assert one.digest() == same.digest() != other.digest()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"gpus": 99}, "resources.gpus: 99 is over the quota of 8: ask for less"),
        ({"memory": "512GB"}, "resources.memory: 512GB is over the quota of 256GB"),
        ({"time": "2d"}, "resources.time: 2d is over the quota of 24h"),
        ({"nodes": 9}, "resources.nodes: 9 is over the quota of 8"),
    ],
)
def test_more_than_the_quota_is_denied(wanted: dict[str, object], said: str) -> None:
    Quota().check(Resources())
    with pytest.raises(Denied, match=said):
        Quota().check(Resources.model_validate(wanted))


def test_defaults_ask_for_little() -> None:
    asked = Request(name="a")
    assert asked.resources.bytes == 4 * 10**9 and asked.resources.seconds == 3600
