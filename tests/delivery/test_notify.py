"""Notifications, to a webhook on loopback that keeps what it gets."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tenacity

from delivery import notify
from tests.conftest import run
from tests.fakes.http import Request, answering


class Webhook:
    """Keeps the messages, and answers with the next of `answers`, or 200."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.answers: list[int] = []

    def answer(self, request: Request) -> None:
        assert request.path == "/hooks/secret-of-the-channel"
        self.messages.append(json.loads(request.body))
        status = self.answers.pop(0) if self.answers else 200
        request.reply(status, headers={"Location": "http://127.0.0.1:1/elsewhere"})


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """A webhook that the environment names, in a job of a pipeline."""
    job = {
        "CI_PROJECT_PATH": "team/landcover",
        "CI_COMMIT_REF_NAME": "main",
        "CI_COMMIT_TITLE": "Train longer",
        "CI_PIPELINE_URL": "https://gitlab.example.com/team/landcover/-/pipelines/345",
        "CI_PIPELINE_ID": "345",
    }
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NOTIFY_EVENTS", raising=False)
    monkeypatch.setattr(notify._post.retry, "wait", tenacity.wait_none())
    webhook = Webhook()
    with answering(webhook.answer) as url:
        monkeypatch.setenv("NOTIFY_URL", f"{url}/hooks/secret-of-the-channel")
        yield webhook


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Run the command in this process."""
    monkeypatch.setattr(sys, "argv", ["notify", *words])
    notify.main()


def test_a_message_has_event_place_and_a_link_to_the_pipeline(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "released", "--text", "landcover@v1.2.0 serves in production")
    assert webhook.messages == [
        {
            "text": "*🚀 released*: `team/landcover` on `main`\n"
            "commit: `Train longer`\n"
            "`landcover@v1.2.0 serves in production`\n"
            "<https://gitlab.example.com/team/landcover/-/pipelines/345|pipeline 345>"
        }
    ]
    assert capsys.readouterr().out == "notify: released is sent\n"


@pytest.mark.parametrize("event", notify.EVENTS)
def test_every_event_is_sent(webhook: Webhook, event: str) -> None:
    assert notify.notify(event) == f"{event} is sent"
    assert notify.EVENTS[event] in webhook.messages[0]["text"]


@pytest.mark.parametrize(
    "hostile",
    [
        "<!channel> look",
        "<http://evil.example|the report>",
        "<@U012AB3CD>",
        "&lt;!channel&gt;",
        "`<!here>` *bold* _x_",
        "@channel [x](http://evil.example)",
        "one\n<!everyone>",
        "``` ```",
        "\u202etxet\u202c \x07",
    ],
)
def test_a_hostile_text_stays_text(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, hostile: str
) -> None:
    for name in ("CI_COMMIT_TITLE", "CI_COMMIT_REF_NAME", "CI_PROJECT_PATH"):
        monkeypatch.setenv(name, hostile)
    notify.notify("pipeline-failed", hostile)
    text = webhook.messages[0]["text"]
    *lines, link = text.split("\n")
    assert link.startswith("<https://gitlab.example.com/")
    assert not set("<>") & set("".join(lines))
    for line in lines:
        assert line.count("`") % 2 == 0
        outside = "".join(line.split("`")[::2])  # what stands in no code span
        assert set(outside) <= set("*❌ pipeline failed*: on commit: ")
    assert all(letter.isprintable() for letter in "".join(lines))


def test_an_invalid_pipeline_address_is_left_out(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_PIPELINE_URL", "https://x|<!channel>")
    notify.notify("released")
    assert "<" not in webhook.messages[0]["text"]


def test_outside_of_a_pipeline_the_message_is_short(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PROJECT_PATH", "COMMIT_REF_NAME", "COMMIT_TITLE", "PIPELINE_URL"):
        monkeypatch.delenv(f"CI_{name}")
    notify.notify("rolled-back", "to v1.1.0")
    assert webhook.messages[0]["text"] == "*↩️ rolled back*\n`to v1.1.0`"


def test_a_long_text_is_cut(webhook: Webhook) -> None:
    notify.notify("gate-missed", "x" * 100_000)
    assert len(webhook.messages[0]["text"]) < 3_000


def test_events_are_filtered(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_EVENTS", "released, rolled-back")
    assert "NOTIFY_EVENTS does not list it" in notify.notify("retrained")
    notify.notify("rolled-back")
    assert len(webhook.messages) == 1


def test_without_an_address_nothing_is_sent_and_the_output_reports_it(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOTIFY_URL", "")
    call(monkeypatch, "released")
    assert "is not sent: NOTIFY_URL is not set" in capsys.readouterr().out
    assert webhook.messages == []


def test_a_failing_webhook_is_retried_once(webhook: Webhook) -> None:
    webhook.answers = [503]
    assert notify.notify("released") == "released is sent"
    assert len(webhook.messages) == 2


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_failing_webhook_is_reported_and_does_not_fail_the_pipeline(
    webhook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
) -> None:
    webhook.answers = [status, status]
    call(monkeypatch, "released")
    printed = capsys.readouterr()
    assert f"released was not sent: the webhook answered {status}" in printed.err
    assert len(webhook.messages) == 2
    assert "secret-of-the-channel" not in printed.out + printed.err


def test_an_unreachable_webhook_is_reported_without_its_address(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOTIFY_URL", "http://127.0.0.1:1/hooks/secret-of-the-channel")
    call(monkeypatch, "released")
    printed = capsys.readouterr()
    assert "cannot be reached (ConnectError)" in printed.err
    assert "secret-of-the-channel" not in printed.out + printed.err


@pytest.mark.parametrize(
    "address",
    [
        "hooks.example.com/secret",
        "ftp://hooks.example.com/secret",
        "https:///secret",
        "file:///secret",
        "https://:443/secret",
        "https://example.com:port/secret",
    ],
)
def test_an_invalid_address_is_refused_without_showing_it(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("NOTIFY_URL", address)
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, "released")
    assert "NOTIFY_URL: not an http or https address" in str(ended.value.code)
    assert address not in str(ended.value.code)


def test_a_misspelt_event_in_the_settings_is_refused(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_EVENTS", "released,roled-back")
    with pytest.raises(SystemExit, match="NOTIFY_EVENTS: 'roled-back' is not an event"):
        call(monkeypatch, "released")


def test_the_command_ends_with_zero_when_the_webhook_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_URL", "http://127.0.0.1:1/hooks/secret")
    done = run(sys.executable, "-m", "delivery.notify", "released", cwd=tmp_path)
    assert "was not sent" in done.stderr and "secret" not in done.stderr + done.stdout
    monkeypatch.setenv("NOTIFY_URL", "no address")
    failed = run(sys.executable, "-m", "delivery.notify", "released", cwd=tmp_path, check=False)
    assert failed.returncode == 1 and failed.stderr.startswith("error: NOTIFY_URL")
