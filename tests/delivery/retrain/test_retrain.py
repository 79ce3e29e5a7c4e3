"""From a trigger to a merge request: a real origin, a real DVC remote, an instant training."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from delivery import dvc, notify
from delivery.retrain import cooldown, retraining
from delivery.retrain.__main__ import main
from tests.conftest import run, write_images
from tests.delivery.conftest import Project, _identify, hook, run_git
from tests.make.alerts import BARE, BITES, HOSTILE, alert, payload
from tests.make.commands import run_dvc_here

DVC = {
    "load": {"cmd": "cat data/*/* | sha256sum > raw.txt", "deps": ["data"], "outs": ["raw.txt"]},
    "train": {
        "cmd": "grep -q 'fail: false' params.yaml && cp raw.txt model && cp raw.txt reports/now",
        "deps": ["raw.txt"],
        "params": ["train"],
        "outs": ["model", {"reports/now": {"cache": False}}],
    },
}
FIGURES = {"chips": 100, "champion": 0.9, "challenger": 0.92, "low": -0.01, "high": 0.05}
FIGURES |= {"fixed": 4, "broken": 2}
CHALLENGE = {"pinned": FIGURES, "new": None, "verdict": "no worse", "against": "x", "note": "@root"}
CHALLENGE |= {"champion": "0" * 64, "challenger": "1" * 64}
WORSE = CHALLENGE | {
    "pinned": FIGURES | {"challenger": 0.7, "low": -0.26, "high": -0.14},
    "new": FIGURES | {"chips": 9},
    "verdict": "worse",
}

Retrain = Callable[..., str]


@pytest.fixture(scope="module")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose model is trained and pushed, its origin and its remote."""
    base = tmp_path_factory.mktemp("retrain")
    folder = base / "project"
    run_git("init", "--quiet", "--bare", "--initial-branch=main", str(base / "origin.git"))
    run_git("-C", str(base / "origin.git"), "config", "receive.advertisePushOptions", "true")
    run_git("init", "--quiet", "--initial-branch=main", str(folder))
    run_git("-C", str(_identify(folder)), "remote", "add", "origin", "../origin.git")
    (folder / "params.yaml").write_text("train:\n  fail: false\n")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": DVC}, sort_keys=False))
    (folder / ".gitignore").write_text("/artifacts\n")
    (folder / "reports").mkdir()
    write_images(base / "images", each=3)
    for words in (
        ("dvc", "init", "--quiet"),
        ("dvc", "remote", "add", "--quiet", "--default", "team", "../dvc"),
        (sys.executable, "-m", "pipeline.ingest", "folder", "--path", "../images"),
        ("dvc", "repro", "--quiet"),
        ("dvc", "push", "--quiet", "--run-cache"),
    ):
        run(*words, cwd=folder)
    Project(folder, base / "origin.git").commit("Train")
    write_images(base / "images", each=4)  # what came in since
    return base


@pytest.fixture
def shop(_trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A clone of it in the job of a triggered pipeline; its origin writes down push options."""
    for name in ("PUSH_URL", "BOT_TOKEN", "RELEASE_TOKEN", "NOTIFY_URL", "CI_PIPELINE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TRIGGER_PAYLOAD", raising=False)
    monkeypatch.delenv("PUSHGATEWAY_URL", raising=False)
    monkeypatch.setenv("CI_PIPELINE_SOURCE", "trigger")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    there = tmp_path / "there"
    shutil.copytree(_trained, there)
    hook(there / "origin.git", "post-receive", f"env | grep ^GIT_PUSH_OPTION_ >> {there}/options")
    monkeypatch.chdir(there / "project")
    yield Project(there / "project", there / "origin.git")
    assert not list(tmp_path.rglob("pwned")), "something was run"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Pull and push in the process of the test; the first test starts DVC, as a job does."""
    if "with_its_evidence" not in request.node.name:
        monkeypatch.setattr(dvc, "subprocess", SimpleNamespace(run=run_dvc_here))


@pytest.fixture
def news(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the chat hears: event and text."""
    heard: list[tuple[str, str]] = []

    def notify(event: str, text: str = "") -> str:
        heard.append((event, text))
        return f"{event} is sent"

    monkeypatch.setattr(retraining, "notify", notify)
    return heard


@pytest.fixture
def command(
    shop: Project,
    news: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Retrain:
    """Run the command with a payload; returns what it printed."""

    def call(content: bytes | None, *words: str, challenge: object = None) -> str:
        def found(target: str) -> bytes:
            text = json.dumps(challenge or CHALLENGE)
            shop.write("reports/challenge.json", text)
            return text.encode()

        if content is not None:
            (shop.folder.parent / "payload").write_bytes(content)
            monkeypatch.setenv("TRIGGER_PAYLOAD", str(shop.folder.parent / "payload"))
        monkeypatch.setattr(retraining, "_challenge", found)
        monkeypatch.setattr(sys, "argv", ["retrain", *words])
        main()
        printed = capsys.readouterr()
        return printed.out + printed.err

    return call


INGEST = ("--ingest", "folder", "--path", "../images")


def options(project: Project) -> dict[str, str]:
    """Push options of merge requests, by name."""
    lines = (project.folder.parent / "options").read_text(encoding="utf-8").splitlines()
    found = (line.partition("=")[2].removeprefix("merge_request.") for line in lines)
    return {line.partition("=")[0]: line.partition("=")[2] for line in found}


def heads(project: Project) -> set[str]:
    """Branches of the origin."""
    return set(project.git("ls-remote", "--heads", "origin").split()[1::2])


def test_drift_with_new_data_becomes_one_merge_request_with_its_evidence(
    shop: Project, command: Retrain, news: list[tuple[str, str]]
) -> None:
    hostile = [
        alert(alertname=text, tag=text, signal=text) | {"annotations": {"summary": text}}
        for text in BITES
    ]
    content = payload(*hostile, alert())
    printed = command(content, *INGEST, challenge=WORSE)
    count = len(BITES) + 1
    assert f"drift of landcover@v1.2.0, {count} alerts: kept in artifacts/retrain" in printed
    assert "tracking: left out: " in printed, "GitLab's experiments are asked for a run"
    assert heads(shop) == {"refs/heads/main", "refs/heads/retrain"}
    changed = shop.git("diff", "--name-only", "origin/main", "retrain").split()
    assert {"data.dvc", "dvc.lock", "reports/drift.json", "reports/challenge.json"} <= set(changed)
    evidence = json.loads(shop.git("show", "retrain:reports/drift.json"))
    assert len(evidence["alerts"]) == count
    assert evidence["alerts"][-1]["labels"]["signal"] == "mean/B08"
    wishes, message = options(shop), shop.git("log", "-1", "--format=%B", "retrain")
    assert wishes["title"] == "Draft: Retrain the model: drift of landcover@v1.2.0"
    assert (wishes["target"], wishes["label"]) == ("main", "retrain")
    assert wishes["description"].startswith("Proposed by the retraining. Alerts: ModelDrift. ")
    verdict = "The new model is worse, and should not be merged: on 100 pinned test chips"
    assert verdict in wishes["description"] and verdict in message
    assert [event for event, _ in news] == ["retrained"] and verdict in news[0][1]
    for text in (wishes["title"], wishes["description"], message, *news[0]):
        assert not any(bite.strip()[:12] in text for bite in BITES if bite.strip())
        assert not any(line.startswith("/") for line in text.splitlines())
    assert len(shop.origin_tags()) == 1
    kept = shop.folder / "artifacts" / "retrain"
    assert (kept / "payload.json").read_bytes() == content
    assert json.loads((kept / "evidence.json").read_text()) == evidence


def test_drift_without_new_data_notifies_and_proposes_nothing(
    shop: Project, command: Retrain, news: list[tuple[str, str]]
) -> None:
    assert "nothing is new" in command(payload())
    assert heads(shop) == {"refs/heads/main"}
    (event, text), *rest = news
    assert event == "drift-unanswered" and not rest
    assert text == (
        "drift of landcover@v1.2.0, and no new data: label some, docs/runbook.md#modeldrift"
    )
    assert "alerts wait" in command(payload())


def test_a_source_that_fails_is_notified_with_its_sentence(
    shop: Project, command: Retrain, news: list[tuple[str, str]]
) -> None:
    wrong = ("--ingest", "folder", "--path", "nowhere")
    with pytest.raises(SystemExit, match="error: ingest ended with 1: nowhere is not a folder"):
        command(payload(), *wrong)
    reason = "nowhere is not a folder: give a folder with one directory per class"
    assert news == [("ingest-failed", reason)]
    assert heads(shop) == {"refs/heads/main"}


def test_a_failed_training_proposes_nothing_and_starts_the_cool_down(
    shop: Project, command: Retrain
) -> None:
    shop.write("params.yaml", "train:\n  fail: true\n")
    shop.commit("Break it")
    with pytest.raises(SystemExit, match="error: dvc repro ended with"):
        command(payload(), *INGEST)
    assert heads(shop) == {"refs/heads/main"}
    assert "alerts wait" in command(payload(), *INGEST)


def test_a_retried_job_need_not_wait_for_its_first_attempt(
    shop: Project, command: Retrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_PIPELINE_ID", "345")
    cooldown.record(shop.repository, "drift", datetime.now(UTC) - timedelta(minutes=5), "345")
    assert "nothing is new" in command(payload())
    monkeypatch.setenv("CI_PIPELINE_ID", "346")
    assert "alerts wait" in command(payload())


def test_a_schedule_does_not_wait_and_has_no_evidence(
    shop: Project, command: Retrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_PIPELINE_SOURCE", "schedule")
    cooldown.record(shop.repository, "drift", datetime.now(UTC) - timedelta(hours=1))
    command(None, *INGEST)
    assert options(shop)["title"] == "Retrain the model"
    assert "drift.json" not in shop.git("ls-tree", "-r", "--name-only", "retrain")
    assert len(shop.origin_tags()) == 1


def test_a_trigger_that_poses_as_a_schedule_waits_like_any_trigger(
    shop: Project, command: Retrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who triggers a pipeline may set its variables, where GitLab lets them.
    monkeypatch.setenv("CI_PIPELINE_SOURCE", "schedule")
    with pytest.raises(SystemExit, match="TRIGGER_PAYLOAD: it sets variables"):
        command(payload(variables={"CI_PIPELINE_SOURCE": "schedule", "TASK": "retrain"}), *INGEST)
    cooldown.record(shop.repository, "drift", datetime.now(UTC) - timedelta(hours=1))
    assert "alerts wait" in command(payload(), *INGEST)
    assert heads(shop) == {"refs/heads/main"}


def test_unfinished_work_is_not_proposed(
    shop: Project, command: Retrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI_PIPELINE_SOURCE")
    shop.write("unfinished.py", "x")
    shop.git("add", "unfinished.py")
    with pytest.raises(SystemExit, match=r"'unfinished.py' is staged.*: git restore --staged"):
        command(None, *INGEST)
    shop.commit("Not pushed yet", push=False)
    cure = "not part of origin/main, and would be proposed with it: git switch main && git pull"
    with pytest.raises(SystemExit, match=cure):
        command(None, *INGEST)
    with pytest.raises(SystemExit, match="'origin/other' is not in this repository"):
        command(None, "--target", "other", *INGEST)
    assert shop.origin_tags() == {} and heads(shop) == {"refs/heads/main"}
    assert shop.git("branch", "--show-current") == "main"


def test_a_branch_that_blocks_the_proposal_is_reported_before_the_training(
    shop: Project, command: Retrain
) -> None:
    shop.git("push", "--quiet", "origin", "HEAD:refs/heads/retrain/new-labels")
    with pytest.raises(
        SystemExit, match="'retrain/new-labels' is in the way of `retrain`: rename or delete it"
    ):
        command(payload(), *INGEST)
    assert shop.origin_tags() == {}
    shop.git("push", "--quiet", "origin", ":refs/heads/retrain/new-labels", "HEAD:retraining")
    assert "nothing is new" in command(payload()), "another name blocks nothing"


def test_a_wrong_setting_of_the_chat_fails_no_retraining(
    shop: Project, command: Retrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retraining, "notify", notify.notify)
    monkeypatch.setenv("NOTIFY_EVENTS", "releasd")
    printed = command(payload())
    assert "warning: no notification was sent: NOTIFY_EVENTS: 'releasd' is not an event" in printed
    assert "retrain: nothing is new" in printed


def test_while_a_proposal_is_open_the_evidence_is_stored_and_nothing_trained(
    shop: Project, command: Retrain
) -> None:
    shop.git("push", "--quiet", "origin", "HEAD:refs/heads/retrain")
    assert "one is open" in command(payload(), *INGEST)
    assert (shop.folder / "artifacts/retrain/evidence.json").exists()
    assert shop.origin_tags() == {}


def test_within_the_cool_down_nothing_is_trained(shop: Project, command: Retrain) -> None:
    cooldown.record(shop.repository, "drift", datetime.now(UTC) - timedelta(hours=23))
    said = command(payload(), *INGEST)
    assert "one began less than 24 hours ago, alerts wait 1.0 more" in said
    assert (shop.folder / "artifacts/retrain/evidence.json").exists()
    assert "alerts wait 25.0 more" in command(payload(), "--cool-down", "48", *INGEST)
    assert heads(shop) == {"refs/heads/main"}
    assert "nothing is new" in command(payload(), "--cool-down", "22")


@pytest.mark.parametrize(
    "content",
    [payload(alert() | {"status": "resolved"}, status="resolved"), payload(alert(retrain=None))],
    ids=["ended", "without the label"],
)
def test_alerts_that_request_no_retraining_start_none(
    shop: Project, command: Retrain, content: bytes
) -> None:
    assert "nothing to do" in command(content, *INGEST)
    assert shop.origin_tags() == {} and heads(shop) == {"refs/heads/main"}


@pytest.mark.parametrize("content", [None, BARE], ids=["no file", "GitLab's own fields"])
def test_a_trigger_by_hand_retrains_without_evidence(
    shop: Project, command: Retrain, news: list[tuple[str, str]], content: bytes | None
) -> None:
    said = command(content)
    assert "the trigger has no payload" in said and "nothing is new" in said
    assert news == [], "without drift there is nothing to report"


@pytest.mark.parametrize("name", ["no JSON", "variables"])  # test_alert.py has all
def test_an_unreadable_payload_starts_no_retraining(
    shop: Project, command: Retrain, name: str
) -> None:
    before = dict(os.environ)
    with pytest.raises(SystemExit, match="^error: TRIGGER_PAYLOAD: "):
        command(HOSTILE[name], *INGEST)
    assert shop.origin_tags() == {} and heads(shop) == {"refs/heads/main"}
    assert not (shop.folder / "artifacts" / "retrain").exists()
    changed = set(os.environ.items()) ^ set(before.items())
    assert {variable for variable, _ in changed} <= {"TRIGGER_PAYLOAD"}


@pytest.mark.parametrize("text", ["nan", "-1", "$(touch pwned)", "24h"])
def test_an_invalid_cool_down_is_refused(
    command: Retrain, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(payload(), f"--cool-down={text}")
    assert "hours from 0 to 8760 (COOL_DOWN)" in capsys.readouterr().err


def test_the_arguments_of_ingest_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ingest.txt"
    file.write_text(
        "# feedback --url x\n  # the same, indented\nfolder --path 'my images #2'  # by hand\n"
    )
    assert retraining.read_ingest(file) == ["folder", "--path", "my images #2"]
    assert retraining.read_ingest(tmp_path / "missing") == []


@pytest.mark.parametrize("line", [b"folder --path /mnt/team's-images", b"folder --path \xff"])
def test_an_unparsable_line_is_named(shop: Project, command: Retrain, line: bytes) -> None:
    shop.write("ci/ingest.txt", b"# What users have labelled\n\n" + line + b"\n")
    with pytest.raises(SystemExit, match="^error: ci/ingest.txt line 3: "):
        command(payload())
    assert shop.origin_tags() == {}
