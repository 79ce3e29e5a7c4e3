"""Command: the configuration of Alertmanager, from the environment.

    python -m monitoring.alerts.alertmanager --out artifacts/monitoring/alertmanager.yml

monitoring/alerts/channels.py says which variables there are. A page goes to every channel, a
ticket to the chat and by e-mail, the Watchdog to the dead man's switch, and what has the label
`retrain` starts the pipeline besides. Without any variable alerts are shown in Alertmanager, and
go nowhere.

The file has secrets: only its owner may read it, and none is printed.
"""

import os
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from monitoring.alerts.channels import Channels, read_channels
from monitoring.errors import MonitoringError, command

OUT = Path("artifacts/monitoring/alertmanager.yml")
MOST_ALERTS = 50  # that the webhook of a retraining names
LISTED = 20  # alerts that one message lists
HEAD = "# Made by `python -m monitoring.alerts.alertmanager`; docs/monitoring.md.\n"

# A page comes soon and again; a ticket once a day. Both are grouped: ten signals of a model that
# drift are one message.
PAGE = {"group_wait": "10s", "group_interval": "5m", "repeat_interval": "4h"}
TICKET = {"group_wait": "30s", "group_interval": "5m", "repeat_interval": "1d"}
# A group is looked at once in `group_interval`, and told again at the first look after
# `repeat_interval`: at a whole multiple a moment decides which one that is, so these are below it.
# A retraining comes again after 25 hours: above the cool-down of `make retrain`, or every second
# reminder would be just too early for it. A signal that joins the others starts a pipeline too,
# after an hour at the earliest, which finds that it has to wait.
RETRAIN = {"group_wait": "10s", "group_interval": "1h", "repeat_interval": "24h30m"}
HEARTBEAT = {"group_wait": "0s", "group_interval": "30s", "repeat_interval": "50s"}  # a minute
# What is computed from requests; labels of people come in without any.
FROM_TRAFFIC = "ModelDrift|ClassVanished|ConfidenceCollapsed|DriftUnmeasured"

TITLE = (
    '{{ if eq .Status "firing" }}{{ .CommonLabels.severity }}{{ else }}resolved{{ end }}: '
    "{{ .GroupLabels.alertname }}{{ with .GroupLabels.namespace }} in {{ . }}{{ end }}"
)
TEXT = """\
{{ range $number, $alert := .Alerts }}{{ if lt $number LISTED }}\
{{ if eq $alert.Status "resolved" }}resolved: {{ end }}{{ $alert.Annotations.summary INERT }}
{{ end }}{{ end }}\
{{ if gt (len .Alerts) LISTED }}{{ len .Alerts }} in all
{{ end }}\
{{ with .CommonAnnotations.description }}{{ . INERT }}
{{ end }}\
{{ with .CommonAnnotations.runbook_url }}runbook: DOCS{{ . INERT }}{{ end }}"""
# What alerts quote, such as the name of a class, is no link and mentions nobody: Slack gives these
# three characters a meaning.
INERT = (
    '| reReplaceAll "&" "&amp;" | reReplaceAll "<" "&lt;" | reReplaceAll ">" "&gt;"'
    ' | reReplaceAll "@(channel|here|all|everyone)" "@ $1"'
)


def render(environment: Mapping[str, str]) -> str:
    """The configuration as YAML. It may hold secrets: `write` keeps others from reading it.

    Raises:
        MonitoringError: a variable can not be used.
    """
    document = configuration(read_channels(environment))
    return HEAD + yaml.safe_dump(document, sort_keys=False, width=100)


def configuration(channels: Channels) -> dict[str, Any]:
    """The configuration as Alertmanager reads it."""
    receivers = [
        {"name": "nobody"},
        *(_people(severity, "", channels) for severity in ("page", "ticket")),
        *(
            _people(severity, owner, channels)
            for owner in channels.owners
            for severity in ("page", "ticket")
        ),
    ]
    if channels.deadman:
        hook = {"url": channels.deadman, "send_resolved": False}
        receivers.append({"name": "deadman", "webhook_configs": [hook]})
    if channels.retrain:
        hook = {"url": channels.retrain, "send_resolved": False, "max_alerts": MOST_ALERTS}
        receivers.append({"name": "retrain", "webhook_configs": [hook]})
    return {
        "route": _route(channels),
        "inhibit_rules": _inhibitions(),
        "receivers": receivers,
    }


def _route(channels: Channels) -> dict[str, Any]:
    """Which alert goes where; one without a severity is a ticket."""
    routes: list[dict[str, Any]] = [
        {
            "matchers": ['severity="none"'],
            "receiver": "deadman" if channels.deadman else "nobody",
            **HEARTBEAT,
        }
    ]
    if channels.retrain:
        routes.append(
            {
                "matchers": ['retrain="true"'],
                "receiver": "retrain",
                "group_by": ["tag"],
                "continue": True,  # people are told as well
                **RETRAIN,
            }
        )
    for owner in channels.owners:
        mine = f'owner="{owner}"'
        page = {"matchers": ['severity="page"', mine], "receiver": f"page-{owner}", **PAGE}
        routes += [page, {"matchers": [mine], "receiver": f"ticket-{owner}"}]
    routes.append({"matchers": ['severity="page"'], "receiver": "page", **PAGE})
    groups = ["namespace", "owner", "alertname"]
    return {"receiver": "ticket", "group_by": groups, **TICKET, "routes": routes}


def _inhibitions() -> list[dict[str, Any]]:
    """Which alert makes others needless; a label that both lack is equal."""
    where = ["namespace", "job"]
    return [
        {  # the same in a hurry; of disks the same one
            "source_matchers": ['severity="page"'],
            "target_matchers": ['severity="ticket"'],
            "equal": ["alertname", *where, "instance", "mountpoint", "tag"],
        },
        {  # what is not measured says nothing about the model
            "source_matchers": ['alertname="MetricsStale"', 'severity="page"'],
            "target_matchers": ['owner="model"'],
            "equal": [*where],
        },
        {  # what is not asked, nothing new about its images and answers
            "source_matchers": ['alertname="NoTraffic"'],
            "target_matchers": [f'alertname=~"{FROM_TRAFFIC}"'],
            "equal": [*where],
        },
        {  # a service that is away has neither traffic nor replicas that agree
            "source_matchers": ['alertname="MetricsStale"', 'severity="page"'],
            "target_matchers": ['owner="service"', 'severity="ticket"'],
            "equal": [*where],
        },
    ]


def _people(severity: str, owner: str, channels: Channels) -> dict[str, Any]:
    """The receiver of one urgency, with an owner's own chat if there is one."""
    found: dict[str, Any] = {"name": f"{severity}-{owner}" if owner else severity}
    if chat := channels.owners.get(owner, channels.chat):
        found["slack_configs"] = [_chat(chat, severity, channels.docs)]
    if channels.relay:
        found["email_configs"] = [_email(channels)]
    if channels.bot and severity == "page":
        found["telegram_configs"] = [_telegram(channels)]
    return found


def _text(docs: str, inert: str = "") -> str:
    """What happened, what it means, what to read."""
    link = f"{docs}/" if docs else ""
    text = TEXT.replace(" INERT", f" {inert}" if inert else "")
    return text.replace("LISTED", str(LISTED)).replace("DOCS", link)


def _chat(url: str, severity: str, docs: str) -> dict[str, Any]:
    bad = "danger" if severity == "page" else "warning"
    return {
        "api_url": url,
        "send_resolved": True,
        "color": f'{{{{ if eq .Status "firing" }}}}{bad}{{{{ else }}}}good{{{{ end }}}}',
        "title": TITLE,
        "text": _text(docs, INERT),
    }


def _email(channels: Channels) -> dict[str, Any]:
    assert channels.relay is not None
    relay = channels.relay
    found: dict[str, Any] = {
        "to": relay.to,
        "from": relay.sender,
        "smarthost": relay.smarthost,
        "require_tls": relay.needs_tls,
        "send_resolved": True,
        "headers": {"Subject": TITLE},
        "html": "",
        "text": _text(channels.docs),
    }
    if relay.user:
        found |= {"auth_username": relay.user, "auth_password": relay.password}
    return found


def _telegram(channels: Channels) -> dict[str, Any]:
    assert channels.bot is not None
    return {
        "bot_token": channels.bot.token,
        "chat_id": channels.bot.chat,
        "api_url": channels.bot.api,
        "send_resolved": True,
        "parse_mode": "",
        "message": f"{TITLE}\n{_text(channels.docs)}",
    }


def write(text: str, path: Path) -> None:
    """Write a configuration that only its owner may read, whole or not at all.

    Raises:
        MonitoringError: the folder can not be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise MonitoringError(f"{path} can not be written: {error.strerror}") from None


@command
def main() -> None:
    """Write the configuration."""
    parser = ArgumentParser(
        prog="python -m monitoring.alerts.alertmanager",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"default: {OUT}")
    chosen = parser.parse_args()
    text = render(os.environ)
    write(text, chosen.out)
    said = ", ".join(read_channels(os.environ).names()) or "none, nobody is told"
    print(f"alertmanager: {chosen.out} is written; channels: {said}")


if __name__ == "__main__":
    main()
