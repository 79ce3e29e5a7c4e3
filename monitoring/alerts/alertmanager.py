"""Command: write the configuration of Alertmanager, from the environment.

    python -m monitoring.alerts.alertmanager --out artifacts/monitoring/alertmanager.yml

monitoring/alerts/channels.py lists the variables. A page goes to every channel, a ticket to the
chat and by e-mail, the Watchdog to the dead man's switch. An alert with the label `retrain` also
starts the pipeline. Without any variable, alerts are only visible in Alertmanager.

The file contains secrets: only its owner may read it, and none is printed.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from contracts import commands
from monitoring.alerts.channels import OWNERS, channel_names, read_settings
from monitoring.errors import MonitoringError, command

OUT = Path("artifacts/monitoring/alertmanager.yml")
TELEGRAM = "https://api.telegram.org"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
MOST_ALERTS = 50  # in the webhook of a retraining
LISTED = 20  # alerts in one message
HEAD = "# Made by `python -m monitoring.alerts.alertmanager`; docs/monitoring.md.\n"

# A page comes soon and again, a ticket once a day. Ten signals that drift are one message.
PAGE = {"group_wait": "10s", "group_interval": "5m", "repeat_interval": "4h"}
TICKET = {"group_wait": "30s", "group_interval": "5m", "repeat_interval": "1d"}
# Alertmanager checks a group every `group_interval` and repeats it at the first check after
# `repeat_interval`. At an exact multiple a moment decides which check that is, so these are below
# one. A retraining repeats after 25 hours: above the cool-down of `make retrain`, or every second
# reminder would come just too early. A signal that joins starts a pipeline after an hour at the
# earliest, and the pipeline keeps the cool-down.
RETRAIN = {"group_wait": "10s", "group_interval": "1h", "repeat_interval": "24h30m"}
HEARTBEAT = {"group_wait": "0s", "group_interval": "30s", "repeat_interval": "50s"}  # a minute
# Computed from requests; labels of people arrive without any.
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
# Text in alerts, such as the name of a class, must not become a link or mention anybody: these
# characters have a meaning in Slack.
INERT = (
    '| reReplaceAll "&" "&amp;" | reReplaceAll "<" "&lt;" | reReplaceAll ">" "&gt;"'
    ' | reReplaceAll "@(channel|here|all|everyone)" "@ $1"'
)


def render(environment: Mapping[str, str]) -> str:
    """The configuration as YAML. It may contain secrets: `write` keeps others from reading it.

    Raises:
        MonitoringError: a variable is unusable.
    """
    settings = read_settings(environment)
    owners = {
        owner: settings[name]
        for owner in OWNERS
        if (name := f"ALERT_{owner.upper()}_SLACK_URL") in settings
    }
    chats = {"": settings.get("ALERT_SLACK_URL", ""), **owners}
    receivers = [
        {"name": "nobody"},
        *(
            _people(severity, owner, chat, settings)
            for owner, chat in chats.items()
            for severity in ("page", "ticket")
        ),
    ]
    hooks = {
        "deadman": ("ALERT_DEADMAN_URL", {}),
        "retrain": ("RETRAIN_TRIGGER_URL", {"max_alerts": MOST_ALERTS}),
    }
    for name, (variable, options) in hooks.items():
        if variable in settings:
            hook = {"url": settings[variable], "send_resolved": False, **options}
            receivers.append({"name": name, "webhook_configs": [hook]})
    document = {
        "route": _route({receiver["name"] for receiver in receivers}, list(owners)),
        "inhibit_rules": _inhibitions(),
        "receivers": receivers,
    }
    return HEAD + yaml.safe_dump(document, sort_keys=False, width=100)


def _route(receivers: set[str], owners: list[str]) -> dict[str, Any]:
    """The receiver of each alert; an alert without a severity is a ticket."""
    heartbeat = "deadman" if "deadman" in receivers else "nobody"
    routes: list[dict[str, Any]] = [
        {"matchers": ['severity="none"'], "receiver": heartbeat, **HEARTBEAT}
    ]
    if "retrain" in receivers:
        routes.append(
            {
                "matchers": ['retrain="true"'],
                "receiver": "retrain",
                "group_by": ["tag"],
                "continue": True,  # to people as well
                **RETRAIN,
            }
        )
    for owner in owners:
        owned = f'owner="{owner}"'
        page = {"matchers": ['severity="page"', owned], "receiver": f"page-{owner}", **PAGE}
        routes += [page, {"matchers": [owned], "receiver": f"ticket-{owner}"}]
    routes.append({"matchers": ['severity="page"'], "receiver": "page", **PAGE})
    groups = ["namespace", "owner", "alertname"]
    return {"receiver": "ticket", "group_by": groups, **TICKET, "routes": routes}


def _inhibitions() -> list[dict[str, Any]]:
    """Alerts that make others needless; a label that both lack counts as equal."""
    where = ["namespace", "job"]
    return [
        {  # the page of an alert makes its ticket needless; for disks, of the same disk
            "source_matchers": ['severity="page"'],
            "target_matchers": ['severity="ticket"'],
            "equal": ["alertname", *where, "instance", "mountpoint", "tag"],
        },
        {  # without metrics nothing is known about the model
            "source_matchers": ['alertname="MetricsStale"', 'severity="page"'],
            "target_matchers": ['owner="model"'],
            "equal": [*where],
        },
        {  # without requests nothing new is known about inputs and outputs
            "source_matchers": ['alertname="NoTraffic"'],
            "target_matchers": [f'alertname=~"{FROM_TRAFFIC}"'],
            "equal": [*where],
        },
        {  # a service that is down has neither traffic nor replicas that agree
            "source_matchers": ['alertname="MetricsStale"', 'severity="page"'],
            "target_matchers": ['owner="service"', 'severity="ticket"'],
            "equal": [*where],
        },
    ]


def _people(severity: str, owner: str, chat: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """The receiver of one severity, for one owner if it has its own chat."""
    docs = settings["EXTERNAL_URL"].rstrip("/") + "/" if "EXTERNAL_URL" in settings else ""
    text = TEXT.replace("LISTED", str(LISTED)).replace("DOCS", docs)
    plain = text.replace(" INERT", "")
    found: dict[str, Any] = {"name": f"{severity}-{owner}" if owner else severity}
    if chat:
        bad = "danger" if severity == "page" else "warning"
        config = {
            "api_url": chat,
            "send_resolved": True,
            "color": f'{{{{ if eq .Status "firing" }}}}{bad}{{{{ else }}}}good{{{{ end }}}}',
            "title": TITLE,
            "text": text.replace("INERT", INERT),
        }
        found["slack_configs"] = [config]
    if "ALERT_SMTP" in settings:
        found["email_configs"] = [_email(settings, plain)]
    if "ALERT_TELEGRAM_CHAT" in settings and severity == "page":
        config = {
            "bot_token": settings["ALERT_TELEGRAM_TOKEN"],
            "chat_id": int(settings["ALERT_TELEGRAM_CHAT"]),
            "api_url": settings.get("ALERT_TELEGRAM_API", TELEGRAM).rstrip("/"),
            "send_resolved": True,
            "parse_mode": "",
            "message": f"{TITLE}\n{plain}",
        }
        found["telegram_configs"] = [config]
    return found


def _email(settings: Mapping[str, str], text: str) -> dict[str, Any]:
    relay = settings["ALERT_SMTP"]
    found: dict[str, Any] = {
        "to": settings["ALERT_EMAIL_TO"],
        "from": settings["ALERT_EMAIL_FROM"],
        "smarthost": relay,
        "require_tls": relay.rpartition(":")[0] not in LOOPBACK,
        "send_resolved": True,
        "headers": {"Subject": TITLE},
        "html": "",
        "text": text,
    }
    if "ALERT_SMTP_USER" in settings:
        found["auth_username"] = settings["ALERT_SMTP_USER"]
        found["auth_password"] = settings["ALERT_SMTP_PASSWORD"]
    return found


def write(text: str, path: Path) -> None:
    """Write a configuration that only its owner may read, whole or not at all.

    Raises:
        MonitoringError: the folder cannot be written.
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
        raise MonitoringError(f"{path} cannot be written: {error.strerror}") from None


@command
def main() -> None:
    """Write the configuration."""
    parser = commands.parser("monitoring.alerts.alertmanager", __doc__)
    parser.add_argument("--out", type=Path, default=OUT, help=f"default: {OUT}")
    path = parser.parse_args().out
    write(render(os.environ), path)
    names = ", ".join(channel_names(read_settings(os.environ)))
    sent = f"to: {names}" if names else "nowhere: no ALERT_ variable is set"
    print(f"alertmanager: wrote {path}; alerts are sent {sent}")


if __name__ == "__main__":
    main()
