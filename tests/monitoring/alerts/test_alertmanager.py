"""Alerts reach the right channels through a real Alertmanager; bad settings are errors."""

import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.alerts import channels
from monitoring.alerts.alertmanager import MOST_ALERTS, render, write
from monitoring.alerts.channels import VARIABLES
from monitoring.errors import MonitoringError
from tests.conftest import ROOT, run
from tests.fakes.alertmanager import (
    Alertmanager,
    Hooks,
    Relay,
    alert,
    alertmanager,
    hooks,
    relay,
)
from tests.make.processes import until

TRIGGER = "/api/v4/projects/42/ref/main/trigger/pipeline?token=glptt-secret"
SECRETS = {
    "ALERT_SLACK_URL": "https://chat.example.com/hooks/s3cret",
    "ALERT_MODEL_SLACK_URL": "https://chat.example.com/hooks/m0del",
    "ALERT_EMAIL_TO": "team@example.com, boss@example.com",
    "ALERT_EMAIL_FROM": "alerts@example.com",
    "ALERT_SMTP": "smtp.example.com:587",
    "ALERT_SMTP_USER": "s3cret-login",
    "ALERT_SMTP_PASSWORD": "p4ss: word'\"{{",
    "ALERT_TELEGRAM_TOKEN": "123456:s3cret-token",
    "ALERT_TELEGRAM_CHAT": "-1001234567890",
    "ALERT_TELEGRAM_API": "https://bots.example.com",
    "ALERT_DEADMAN_URL": "https://heartbeat.example.com/s3cret",
    "RETRAIN_TRIGGER_URL": f"https://gitlab.example.com{TRIGGER}",
    "EXTERNAL_URL": "https://gitlab.example.com/group/project/-/blob/main/",
}
PAGE = {"severity": "page", "owner": "service"}
TICKET = {"severity": "ticket", "owner": "platform"}
MODEL = {"severity": "ticket", "owner": "model", "retrain": "true", "tag": "landcover@v1.2.0"}
PRODUCTION = {"namespace": "landcover-production", "job": "landcover"}


class World:
    """A running Alertmanager with every channel on loopback."""

    def __init__(self, manager: Alertmanager, hooks: Hooks, relay: Relay) -> None:
        self.post = manager.post
        self.amtool = manager.amtool
        self.states = manager.states
        self.hooks = hooks
        self.relay = relay

    def chat(self, path: str, word: str) -> list[dict[str, Any]]:
        """Messages of a chat that have a word in their title or text."""
        messages = [body["attachments"][0] for body in self.hooks.at(path)]
        return [item for item in messages if word in item["title"] + item["text"]]

    def letters(self, word: str) -> list[str]:
        """E-mails that have a word."""
        return [letter for letter in list(self.relay.letters) if word in letter]

    def telegrams(self, word: str) -> list[dict[str, Any]]:
        """Messages to the bot that have a word."""
        bodies = self.hooks.at("/bot123456:abc/sendMessage")
        return [body for body in bodies if word in body["text"]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all: each test has an alert of its own name."""
    with hooks() as server, relay() as mail:
        text = render(
            {
                "ALERT_SLACK_URL": f"{server.url}/chat",
                "ALERT_MODEL_SLACK_URL": f"{server.url}/chat-of-models",
                "ALERT_EMAIL_TO": "team@example.com, boss@example.com",
                "ALERT_EMAIL_FROM": "alerts@example.com",
                "ALERT_SMTP": mail.address,
                "ALERT_SMTP_USER": "alerts",
                "ALERT_SMTP_PASSWORD": "p4ss",
                "ALERT_TELEGRAM_TOKEN": "123456:abc",
                "ALERT_TELEGRAM_CHAT": "-5",
                "ALERT_TELEGRAM_API": server.url,
                "ALERT_DEADMAN_URL": f"{server.url}/heartbeat",
                "RETRAIN_TRIGGER_URL": server.url + TRIGGER,
                "EXTERNAL_URL": "https://docs.example.com/main",
                "ALERT_PLATFORM_SLACK_URL": "  ",
            }
        )
        with alertmanager(text, tmp_path_factory.mktemp("alertmanager")) as manager:
            yield World(manager, server, mail)


def check(*paths: Path) -> None:
    """Let amtool check configurations."""
    if not shutil.which("amtool"):
        pytest.skip("amtool is not installed: make setup-e2e")
    done = subprocess.run(["amtool", "check-config", *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# Unusual, and taken by Alertmanager.
USABLE = [
    ("ALERT_SLACK_URL", "https://user:p%40ss@chat.example.com:8443/hooks/a%2Fb?c=d"),
    ("ALERT_SLACK_URL", "http://[::1]:8065/hooks/abc"),
    ("ALERT_SMTP", "[::1]:25"),
    ("ALERT_DEADMAN_URL", "http://10.0.0.1/ping"),
    ("ALERT_TELEGRAM_CHAT", "7"),
    ("RETRAIN_TRIGGER_URL", f"https://gitlab.example.com/gitlab{TRIGGER}"),
    ("RETRAIN_TRIGGER_URL", f"https://gitlab.example.com/a/b{TRIGGER}&variables[WHY]=alert"),
]


def test_amtool_accepts_the_configuration_of_usable_settings(tmp_path: Path) -> None:
    some = {"ALERT_SLACK_URL": SECRETS["ALERT_SLACK_URL"]}
    changed = [SECRETS | {name: value} for name, value in USABLE]
    paths = []
    for number, settings in enumerate([SECRETS, {}, some, *changed]):
        paths.append(tmp_path / f"{number}.yml")
        write(render(settings), paths[-1])
    for (_, value), path in zip(USABLE, paths[3:], strict=True):
        assert value in path.read_text(encoding="utf-8")
    check(*paths)


def test_a_page_reaches_every_channel(world: World) -> None:
    world.post(alert("Pages", PAGE | PRODUCTION, "8% of the predictions fail"))
    [message] = until(lambda: world.chat("/chat", "Pages"))
    assert message["title"] == "page: Pages in landcover-production"
    assert message["text"].splitlines() == [
        "8% of the predictions fail",
        "What it means.",
        "runbook: https://docs.example.com/main/docs/runbook.md#pages",
    ]
    assert message["color"] == "danger"
    [letter] = until(lambda: world.letters("Pages"))
    assert "Subject: page: Pages in landcover-production" in letter
    assert "team@example.com" in letter and "boss@example.com" in letter
    assert "docs/runbook.md#pages" in letter.replace("=\r\n", "")
    assert b"\0alerts\0p4ss" in world.relay.logins
    [telegram] = until(lambda: world.telegrams("Pages"))
    assert str(telegram["chat_id"]) == "-5"
    assert "8% of the predictions fail" in telegram["text"]


def test_a_ticket_goes_to_chat_and_e_mail_but_not_to_telegram(world: World) -> None:
    world.post(alert("Tickets", TICKET, "ten days are left"))
    [message] = until(lambda: world.chat("/chat", "Tickets"))
    assert message["title"] == "ticket: Tickets" and message["color"] == "warning"
    until(lambda: world.letters("Tickets"))
    assert not world.telegrams("Tickets")


def test_an_alert_without_a_severity_is_a_ticket(world: World) -> None:
    world.post(alert("Foreign", {}, "no severity, no owner"))
    until(lambda: world.chat("/chat", "Foreign"))
    assert not world.telegrams("Foreign")


def test_an_owner_can_have_its_own_chat(world: World) -> None:
    world.post(alert("Mine", MODEL | {"severity": "page"}, "the model"))
    until(lambda: world.chat("/chat-of-models", "Mine"))
    until(lambda: world.telegrams("Mine"))
    assert not world.chat("/chat", "Mine")


def test_ten_signals_that_drift_are_one_message_and_one_retraining(world: World) -> None:
    drifted = [
        alert("Drifts", MODEL | {"signal": f"mean/B{band}", "tag": "drifts"}, f"B{band} drifted")
        for band in range(10, 20)
    ]
    world.post(*drifted)
    [message] = until(lambda: world.chat("/chat-of-models", "Drifts"))
    assert [line for line in message["text"].splitlines() if "drifted" in line] == [
        f"B{band} drifted" for band in range(10, 20)
    ]
    triggers = until(lambda: [body for body in world.hooks.at(TRIGGER) if tag(body) == "drifts"])
    # Prometheus says it every minute, and a group is looked at again after its interval.
    for number in range(3):
        world.post(*drifted)
        witness = f"Witness{number}"
        world.post(alert(witness, TICKET, "a moment has passed"))
        until(lambda name=witness: world.chat("/chat", name))  # type: ignore[misc]
    world.post(alert("Witness0", TICKET, "a moment has passed", over=True))
    until(lambda: world.chat("/chat", "resolved: Witness0"))
    triggers = [body for body in world.hooks.at(TRIGGER) if tag(body) == "drifts"]
    assert len(triggers) == 1
    [body] = triggers
    assert body["status"] == "firing" and len(body["alerts"]) == 10
    first = body["alerts"][0]
    assert first["labels"]["retrain"] == "true" and first["annotations"]["summary"]
    assert first["startsAt"] and first["generatorURL"]
    assert len(world.chat("/chat-of-models", "Drifts")) == 1


def tag(body: dict[str, Any]) -> str:
    """The group of a retraining."""
    return str(body["groupLabels"].get("tag"))


def test_a_resolved_alert_is_reported_and_starts_no_training(world: World) -> None:
    labels = MODEL | {"tag": "over"}
    world.post(alert("Ends", labels, "it drifts"))
    until(lambda: world.chat("/chat-of-models", "ticket: Ends"))
    until(lambda: [body for body in world.hooks.at(TRIGGER) if tag(body) == "over"])
    world.post(alert("Ends", labels, "it drifts", over=True))
    [message] = until(lambda: world.chat("/chat-of-models", "resolved: Ends"))
    assert message["color"] == "good" and "resolved: it drifts" in message["text"]
    statuses = [body["status"] for body in world.hooks.at(TRIGGER) if tag(body) == "over"]
    assert statuses == ["firing"]


def test_a_page_inhibits_the_ticket_of_the_same_alert_in_the_same_namespace(world: World) -> None:
    page = alert("Burns", PAGE | PRODUCTION, "fast")
    world.post(page)
    until(lambda: world.chat("/chat", "page: Burns"))
    staging = PRODUCTION | {"namespace": "landcover-staging"}
    ticket = {"severity": "ticket", "owner": "service"}
    world.post(
        page,
        alert("Burns", ticket | PRODUCTION, "slow"),
        alert("Burns", ticket | staging, "elsewhere"),
    )
    until(lambda: world.chat("/chat", "elsewhere"))
    assert not world.chat("/chat", "slow")


def test_metrics_stale_inhibits_alerts_of_the_model(world: World) -> None:
    place = {"namespace": "landcover-stale", "job": "landcover"}
    world.post(alert("MetricsStale", PAGE | place, "none can be measured"))
    until(lambda: world.chat("/chat", "none can be measured"))
    elsewhere = {"namespace": "landcover-other", "job": "landcover"}
    world.post(
        alert("Vanished", MODEL | place | {"tag": "stale"}, "here"),
        alert("Seen", MODEL | elsewhere | {"tag": "fresh"}, "there"),
    )
    until(lambda: world.chat("/chat-of-models", "Seen"))
    until(lambda: trained(world, "fresh"))
    assert world.states()["Vanished"] == "suppressed"
    assert not world.chat("/chat-of-models", "Vanished")
    assert not trained(world, "stale")


FROM_TRAFFIC = ("ModelDrift", "ClassVanished", "ConfidenceCollapsed", "DriftUnmeasured")


def test_no_traffic_inhibits_alerts_of_requests_but_not_of_labels(world: World) -> None:
    place = {"namespace": "landcover-quiet", "job": "landcover"}
    world.post(
        alert("NoTraffic", {"severity": "ticket", "owner": "service"} | place, "nobody asks")
    )
    until(lambda: world.chat("/chat", "nobody asks"))
    page = {"severity": "page", "tag": "labelled"}
    world.post(
        *(alert(name, MODEL | place | {"tag": name}, "of traffic") for name in FROM_TRAFFIC),
        alert("LiveAccuracyLow", MODEL | place | page, "of labels"),
    )
    until(lambda: world.chat("/chat-of-models", "page: LiveAccuracyLow in landcover-quiet"))
    until(lambda: world.telegrams("LiveAccuracyLow"))
    until(lambda: trained(world, "labelled"))
    states = world.states()
    assert [states[name] for name in FROM_TRAFFIC] == ["suppressed"] * len(FROM_TRAFFIC)
    for name in FROM_TRAFFIC:
        assert not world.chat("/chat-of-models", name) and not trained(world, name)


def trained(world: World, name: str) -> list[Any]:
    """The retrainings that a tag has started."""
    return [body for body in world.hooks.at(TRIGGER) if tag(body) == name]


def test_a_silence_suppresses_an_alert(world: World) -> None:
    """With the command of the runbook."""
    options = ("--author=test", "--comment=known", "--duration=2h")
    world.amtool("silence", "add", *options, "alertname=Hushed")
    world.post(alert("Hushed", PAGE, "quiet"), alert("Spoken", PAGE, "loud"))
    until(lambda: world.chat("/chat", "Spoken"))
    assert world.states()["Hushed"] == "suppressed"
    assert not world.chat("/chat", "Hushed")
    assert "Hushed" in world.amtool("silence", "query")


def test_the_watchdog_calls_only_the_dead_mans_switch(world: World) -> None:
    world.post(alert("Watchdog", {"severity": "none", "owner": "platform"}, "all is well"))
    body = until(lambda: world.hooks.at("/heartbeat"))[0]
    assert body["alerts"][0]["labels"]["alertname"] == "Watchdog"
    assert not world.chat("/chat", "Watchdog") and not world.letters("Watchdog")


def test_text_of_alerts_cannot_mention_people_or_contain_links(world: World) -> None:
    world.post(alert("Hostile", TICKET, "<!channel> & <http://evil|click> @here {{ .Status }}"))
    [message] = until(lambda: world.chat("/chat", "Hostile"))
    assert message["text"].splitlines()[0] == (
        "&lt;!channel&gt; &amp; &lt;http://evil|click&gt; @ here {{ .Status }}"
    )


def test_a_message_of_many_alerts_lists_twenty(world: World) -> None:
    world.post(*(alert("Many", TICKET | {"disk": f"{n:03d}"}, f"disk {n}") for n in range(60)))
    # A busy Alertmanager may send some of them first, and all of them a moment later.
    message = until(lambda: world.chat("/chat", "60 in all"))[0]
    assert message["title"] == "ticket: Many" and message["text"].count("disk ") == 20


def test_a_retraining_names_at_most_fifty_alerts() -> None:
    document = yaml.safe_load(render(SECRETS))
    [hook] = next(item for item in document["receivers"] if item["name"] == "retrain")[
        "webhook_configs"
    ]
    assert hook["max_alerts"] == MOST_ALERTS == 50 and hook["send_resolved"] is False


def test_severity_decides_how_soon_and_how_often() -> None:
    route = yaml.safe_load(render(SECRETS))["route"]
    routes = {item["receiver"]: item for item in route["routes"]}
    assert route["receiver"] == "ticket" and route["repeat_interval"] == "1d"
    assert (routes["page"]["group_wait"], routes["page"]["repeat_interval"]) == ("10s", "4h")
    retrain = routes["retrain"]
    assert retrain["group_by"] == ["tag"] and retrain["continue"] is True
    assert retrain["group_wait"] == "10s"


def seconds(text: str) -> int:
    """A duration as Alertmanager writes it."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([smhd])", text))


@pytest.mark.parametrize(("receiver", "every"), [("deadman", 60), ("retrain", 25 * 3600)])
def test_lasting_alerts_repeat_as_often_as_documented(receiver: str, every: int) -> None:
    """Alertmanager checks a group once in its interval; at an exact multiple a moment decides."""
    routes = yaml.safe_load(render(SECRETS))["route"]["routes"]
    [route] = [item for item in routes if item["receiver"] == receiver]
    checks, repeats = seconds(route["group_interval"]), seconds(route["repeat_interval"])
    assert repeats % checks
    assert -(-repeats // checks) * checks == every


def test_without_channels_receivers_are_empty_as_in_the_file_that_ships() -> None:
    text = render({"PATH": "/usr/bin", "ALERT_SLACK_URL": "", "EXTERNAL_URL": ""})
    assert all(item.keys() == {"name"} for item in yaml.safe_load(text)["receivers"])
    assert (ROOT / "monitoring" / "alertmanager.yml").read_text(encoding="utf-8") == text
    check(ROOT / "monitoring" / "alertmanager.yml")


def test_a_relay_needs_tls_unless_it_is_on_this_machine() -> None:
    for smarthost, needs in (("smtp.example.com:25", True), ("localhost:25", False)):
        document = yaml.safe_load(render(SECRETS | {"ALERT_SMTP": smarthost}))
        configs = [
            item for entry in document["receivers"] for item in entry.get("email_configs", [])
        ]
        assert configs and all(item["require_tls"] is needs for item in configs)


WRONG = [
    ("ALERT_SLACK_URL", "chat.example.com/hooks/s3cret", "http"),
    ("ALERT_SLACK_URL", "https://", "http"),
    ("ALERT_SLACK_URL", "https://chat/{{ .s3cret }}", "http"),
    ("ALERT_SLACK_URL", "https://[s3cret", "http"),
    ("ALERT_SLACK_URL", "https://chat:s3cret/hooks", "http"),
    ("ALERT_SLACK_URL", "https://chat:70000/s3cret", "http"),
    ("ALERT_SLACK_URL", "https://chat:0/s3cret", "http"),
    ("ALERT_SLACK_URL", "https://chat/s3cret%", "http"),
    ("ALERT_SLACK_URL", "https://chat/%zzs3cret", "http"),
    ("ALERT_SLACK_URL", "https://%zz/s3cret", "http"),
    ("ALERT_SLACK_URL", "https://chat^s3cret/", "http"),
    ("ALERT_SLACK_URL", "https://ch\u00e4t.example.com/s3cret", "http"),
    ("ALERT_SLACK_URL", "https://[1]/s3cret", "http"),
    ("ALERT_SLACK_URL", "https://a^b@chat/s3cret", "http"),
    ("ALERT_SLACK_URL", "https://chat/s3\x7fcret", "http"),
    ("ALERT_MODEL_SLACK_URL", "ftp://s3cret", "http"),
    ("ALERT_EMAIL_TO", "s3cret", "e-mail"),
    ("ALERT_EMAIL_TO", ",", "e-mail"),
    ("ALERT_EMAIL_FROM", "{{s3cret}}@example.com", "e-mail"),
    ("ALERT_SMTP", "s3cret", "smtp.example.com:587"),
    ("ALERT_SMTP", "s3cret@host:25", "smtp.example.com:587"),
    ("ALERT_SMTP", "s3cret:70000", "smtp.example.com:587"),
    ("ALERT_SMTP_PASSWORD", "s3\ncret", "one line"),
    ("ALERT_TELEGRAM_TOKEN", "s3cret", "BotFather"),
    ("ALERT_TELEGRAM_CHAT", "@s3cret", "number"),
    ("ALERT_TELEGRAM_CHAT", "0", "number"),
    ("ALERT_TELEGRAM_CHAT", "-0", "number"),
    ("ALERT_TELEGRAM_CHAT", "00", "number"),
    ("ALERT_TELEGRAM_API", "https://bots:port", "http"),
    ("ALERT_DEADMAN_URL", "s3cret", "http"),
    ("RETRAIN_TRIGGER_URL", "https://gitlab.example.com/?token=s3cret", "trigger/pipeline"),
    ("RETRAIN_TRIGGER_URL", SECRETS["RETRAIN_TRIGGER_URL"].split("?")[0], "token"),
    ("EXTERNAL_URL", "s3cret", "http"),
]


def error_of(settings: dict[str, str]) -> str:
    """The error of settings; they must have one."""
    with pytest.raises(MonitoringError) as caught:
        render(settings)
    return str(caught.value)


def test_an_unusable_value_is_an_error_with_the_cure_that_does_not_show_it() -> None:
    for name, value, cure in WRONG:
        message = error_of(SECRETS | {name: value})
        assert message.startswith(f"{name}: ") and cure in message, (name, value)
        assert "s3" not in message, (name, value)


HALF = [
    ("ALERT_EMAIL_TO", {"ALERT_EMAIL_FROM", "ALERT_SMTP"}),
    ("ALERT_SMTP", {"ALERT_EMAIL_TO", "ALERT_EMAIL_FROM"}),
    ("ALERT_SMTP_PASSWORD", {"ALERT_EMAIL_TO", "ALERT_SMTP"}),
    ("ALERT_TELEGRAM_TOKEN", {"ALERT_TELEGRAM_CHAT"}),
    ("ALERT_TELEGRAM_API", {"ALERT_TELEGRAM_TOKEN", "ALERT_TELEGRAM_CHAT"}),
]


def test_a_variable_without_its_companions_is_an_error_that_names_them() -> None:
    for name, missing in HALF:
        message = error_of({name: SECRETS[name]})
        assert message.startswith(f"{name}: it needs "), name
        assert all(other in message for other in missing), (name, message)
    without_password = {name: SECRETS[name] for name in SECRETS if name != "ALERT_SMTP_PASSWORD"}
    assert error_of(without_password).startswith("ALERT_SMTP_USER: it needs ALERT_SMTP_PASSWORD:")


def test_a_misspelt_variable_is_an_error_with_the_known_names() -> None:
    message = error_of({"ALERT_SLAK_URL": SECRETS["ALERT_SLACK_URL"]})
    assert re.match("ALERT_SLAK_URL: unknown variable: .*ALERT_SLACK_URL", message)


def test_every_variable_is_documented() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert [name for name in VARIABLES if f"`{name}`" not in page] == []
    for name in VARIABLES:
        owned = name.split("_")[1] in ("SERVICE", "MODEL", "PLATFORM")
        assert ("ALERT_<OWNER>_SLACK_URL" if owned else name) in str(channels.__doc__)


def command(path: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command with these settings alone."""
    words = (sys.executable, "-m", "monitoring.alerts.alertmanager", "--out", str(path))
    return run("env", *(f"{name}={value}" for name, value in settings.items()), *words, check=False)


def test_the_command_writes_a_private_file_and_prints_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "new" / "alertmanager.yml"
    path.parent.mkdir()
    path.write_text("open to all", encoding="utf-8")
    done = command(path, SECRETS)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert "e-mail, Telegram, dead man's switch, retrain" in done.stdout
    for name in SECRETS:
        if name != "EXTERNAL_URL":
            assert SECRETS[name] not in done.stdout + done.stderr
    assert SECRETS["ALERT_SMTP_PASSWORD"] in json.dumps(yaml.safe_load(path.read_text())).replace(
        '\\"', '"'
    )


def test_a_bad_setting_leaves_the_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "alertmanager.yml"
    assert command(path, {}).returncode == 0
    before = path.read_bytes()
    done = command(path, {"ALERT_SLACK_URL": "s3cret"})
    assert done.returncode == 1 and path.read_bytes() == before
    assert done.stderr.startswith("error: ALERT_SLACK_URL: ") and "s3cret" not in done.stderr
    blocked = command(path / "below", {})
    assert blocked.returncode == 1 and "cannot be written" in blocked.stderr
    assert "Traceback" not in blocked.stderr
