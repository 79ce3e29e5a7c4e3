"""Receivers of alerts, from environment variables. An empty variable counts as not set.

ALERT_SLACK_URL            incoming webhook of a chat, in Slack's format: Slack, Mattermost ...
ALERT_<OWNER>_SLACK_URL    another webhook for one owner: SERVICE, MODEL or PLATFORM
ALERT_EMAIL_TO             addresses, separated by commas
ALERT_EMAIL_FROM           address of the sender
ALERT_SMTP                 host:port of the relay; with TLS, unless it is on this machine
ALERT_SMTP_USER, ALERT_SMTP_PASSWORD
ALERT_TELEGRAM_TOKEN       of a bot
ALERT_TELEGRAM_CHAT        number of the chat
ALERT_TELEGRAM_API         of your own Bot API (default: Telegram's)
ALERT_DEADMAN_URL          called once a minute, while alerting works
RETRAIN_TRIGGER_URL        of GitLab:
    https://gitlab.example.com/api/v4/projects/42/ref/main/trigger/pipeline?token=...
EXTERNAL_URL               address of the repository, for links to docs/:
    https://gitlab.example.com/group/project/-/blob/main
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from monitoring.errors import MonitoringError

OWNERS = ("service", "model", "platform")
# Characters that neither Alertmanager's parser of addresses nor its templates refuse: it would
# write a refused address into its log, with the secret.
ADDRESS = re.compile(
    r"https?://(?:(?:[\w.~!$&()*+,;=:-]|%[0-9A-F]{2})+@)?"
    r"(?:[A-Z0-9.-]+|\[[0-9A-F:.]+\])(?::[0-9]+)?"
    r"(?:[/?#](?:[\w.~!$&()*+,;=:@/?#\[\]-]|%[0-9A-F]{2})*)?",
    re.ASCII | re.IGNORECASE,
)
TRIGGER = re.compile(r"/api/v4/projects/[^/]+/ref/.+/trigger/pipeline\?(?:.+&)?token=[^&]")
E_MAIL = r"[^\s@<>,;{}\"']+@[^\s@<>,;{}\"']+"
EMAIL = ("ALERT_EMAIL_TO", "ALERT_EMAIL_FROM", "ALERT_SMTP")
LOGIN = ("ALERT_SMTP_USER", "ALERT_SMTP_PASSWORD")
BOT = ("ALERT_TELEGRAM_TOKEN", "ALERT_TELEGRAM_CHAT")


def is_address(text: str) -> bool:
    """Whether Alertmanager takes a text as the address of a webhook."""
    try:
        return bool(ADDRESS.fullmatch(text)) and urlsplit(text).port != 0
    except ValueError:  # a port above 65535, or brackets around something else than IPv6
        return False


class Variable(NamedTuple):
    """One variable of the environment."""

    matches: Callable[[str], object]
    """Whether a value is usable."""
    cure: str
    needs: tuple[str, ...] = ()
    """Variables without which it is useless."""


def _pattern(text: str) -> Callable[[str], object]:
    return re.compile(text).fullmatch


def _is_relay(text: str) -> bool:
    return is_address(f"http://{text}") and bool(re.fullmatch(r"[^/?#@]+:[0-9]+", text))


def _is_trigger(text: str) -> bool:
    return is_address(text) and bool(TRIGGER.search(text))


URL = Variable(is_address, "give a whole http or https address, as its provider shows it")
SECRET = Variable(str.isprintable, "give printable characters on one line", EMAIL + LOGIN)
VARIABLES = {
    "ALERT_SLACK_URL": URL,
    **{f"ALERT_{owner.upper()}_SLACK_URL": URL for owner in OWNERS},
    "ALERT_EMAIL_TO": Variable(
        _pattern(rf"{E_MAIL}(\s*,\s*{E_MAIL})*"),
        "give e-mail addresses, separated by commas: team@example.com",
        EMAIL,
    ),
    "ALERT_EMAIL_FROM": Variable(
        _pattern(E_MAIL), "give an e-mail address: alerts@example.com", EMAIL
    ),
    "ALERT_SMTP": Variable(_is_relay, "give host:port: smtp.example.com:587", EMAIL),
    **dict.fromkeys(LOGIN, SECRET),
    "ALERT_TELEGRAM_TOKEN": Variable(
        _pattern(r"[0-9]+:[A-Za-z0-9_-]+"),
        "give the token that @BotFather shows: 123456:ABC...",
        BOT,
    ),
    "ALERT_TELEGRAM_CHAT": Variable(
        _pattern(r"-?[1-9][0-9]{0,17}"),
        "give the number of a chat, that of a group is negative: -1001234567890",
        BOT,
    ),
    "ALERT_TELEGRAM_API": URL._replace(needs=BOT),
    "ALERT_DEADMAN_URL": URL,
    "RETRAIN_TRIGGER_URL": Variable(
        _is_trigger,
        "give the address of a trigger of GitLab: https://gitlab.example.com/api/v4/projects/"
        "ID/ref/BRANCH/trigger/pipeline?token=TOKEN",
    ),
    "EXTERNAL_URL": URL,
}


def read_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are set, by name.

    Raises:
        MonitoringError: one is unknown, has an unusable value, or lacks another one; with the name
            and the cure, never the value.
    """
    settings = {
        name: value.strip()
        for name, value in environment.items()
        if value.strip() and (name.startswith("ALERT_") or name in VARIABLES)
    }
    if unknown := settings.keys() - VARIABLES.keys():
        raise MonitoringError(f"{min(unknown)}: unknown variable: use {', '.join(VARIABLES)}")
    for name, value in settings.items():
        matches, cure, needs = VARIABLES[name]
        if not matches(value):
            raise MonitoringError(
                f"{name}: unusable value (it may be a secret and is not shown): {cure}"
            )
        if missing := [other for other in needs if other not in settings]:
            raise MonitoringError(
                f"{name}: it needs {' and '.join(missing)}: set that, or unset {name}"
            )
    return settings


def channel_names(settings: Mapping[str, str]) -> list[str]:
    """The channels of settings, without their values."""
    names = {
        "ALERT_SLACK_URL": "chat",
        **{f"ALERT_{owner.upper()}_SLACK_URL": f"chat of {owner}" for owner in OWNERS},
        "ALERT_EMAIL_TO": "e-mail",
        "ALERT_TELEGRAM_CHAT": "Telegram",
        "ALERT_DEADMAN_URL": "dead man's switch",
        "RETRAIN_TRIGGER_URL": "retrain",
    }
    return [channel for name, channel in names.items() if name in settings]
