"""Where alerts go, as environment variables say it. Nothing that is set is ever in a message.

    ALERT_SLACK_URL            incoming webhook of a chat, in Slack's format: Slack, Mattermost ...
    ALERT_<OWNER>_SLACK_URL    the same for one owner instead: SERVICE, MODEL or PLATFORM
    ALERT_EMAIL_TO             addresses, with commas between
    ALERT_EMAIL_FROM           the sender's
    ALERT_SMTP                 host:port of the relay; TLS, unless it is on this machine
    ALERT_SMTP_USER, ALERT_SMTP_PASSWORD
    ALERT_TELEGRAM_TOKEN       of a bot
    ALERT_TELEGRAM_CHAT        number of the chat
    ALERT_TELEGRAM_API         of a Bot API of your own (default: Telegram's)
    ALERT_DEADMAN_URL          called once a minute, while alerting works
    RETRAIN_TRIGGER_URL        of GitLab:
        https://gitlab.example.com/api/v4/projects/42/ref/main/trigger/pipeline?token=...
    EXTERNAL_URL               where docs/ can be read:
        https://gitlab.example.com/group/project/-/blob/main

An empty variable is one that is not set.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from urllib.parse import parse_qs, urlsplit

from monitoring.errors import MonitoringError

OWNERS = ("service", "model", "platform")
TELEGRAM = "https://api.telegram.org"
# Without braces and quotes: an address may stand in a template. What Alertmanager can not parse, it
# writes into its log as a whole, so that nothing like that gets there.
ADDRESS = re.compile(r"https?://(?:[^\s<>|{}\"'`\\%]|%[0-9A-Fa-f]{2})+")
HOST = re.compile(
    r"(?:[A-Za-z0-9._~!$&()*+,;=:%-]+@)?"  # who asks
    r"(?:[A-Za-z0-9.-]+|\[(?P<six>[0-9A-Fa-f:.]+)\])(?::[0-9]+)?"
)
E_MAIL = re.compile(r"[^\s@<>,;{}\"']+@[^\s@<>,;{}\"']+")
RELAY = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})")
# GitLab may live below a path of its host.
TRIGGER = re.compile(r"(?:/[^/]+)*/api/v4/projects/[^/]+/ref/.+/trigger/pipeline")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Relay:
    """What it takes to send an e-mail."""

    to: str
    sender: str
    smarthost: str
    user: str = ""
    password: str = ""

    @property
    def needs_tls(self) -> bool:
        """Whether the way to it leads over a network."""
        return self.smarthost.rpartition(":")[0] not in LOOPBACK


@dataclass(frozen=True)
class Bot:
    """What it takes to write to a chat of Telegram."""

    token: str
    chat: int
    api: str


@dataclass(frozen=True)
class Channels:
    """All ways out; what is not set is empty or None."""

    chat: str = ""
    owners: Mapping[str, str] = field(default_factory=dict)
    """Chat of an owner -> its webhook, where it is another one."""
    relay: Relay | None = None
    bot: Bot | None = None
    deadman: str = ""
    retrain: str = ""
    docs: str = ""

    def names(self) -> list[str]:
        """What there is, without a value."""
        found = {
            "chat": self.chat,
            **{f"chat of {owner}": url for owner, url in self.owners.items()},
            "e-mail": self.relay,
            "Telegram": self.bot,
            "dead man's switch": self.deadman,
            "retrain": self.retrain,
        }
        return [name for name, value in found.items() if value]


def read_channels(environment: Mapping[str, str]) -> Channels:
    """Read them.

    Raises:
        MonitoringError: one is misspelt, no address, or lacks another; with the variable and the
            cure, and never the value.
    """
    given = {
        name: value.strip()
        for name, value in environment.items()
        if value.strip() and (name.startswith("ALERT_") or name in KNOWN)
    }
    if unknown := given.keys() - KNOWN.keys():
        raise MonitoringError(f"{min(unknown)}: there is none: take some of {', '.join(KNOWN)}")
    for name, value in given.items():
        KNOWN[name](name, value)
    return Channels(
        chat=given.get("ALERT_SLACK_URL", ""),
        owners={
            owner: given[f"ALERT_{owner.upper()}_SLACK_URL"]
            for owner in OWNERS
            if f"ALERT_{owner.upper()}_SLACK_URL" in given
        },
        relay=_relay(given),
        bot=_bot(given),
        deadman=given.get("ALERT_DEADMAN_URL", ""),
        retrain=given.get("RETRAIN_TRIGGER_URL", ""),
        docs=given.get("EXTERNAL_URL", "").rstrip("/"),
    )


def _relay(given: Mapping[str, str]) -> Relay | None:
    needed = ("ALERT_EMAIL_TO", "ALERT_EMAIL_FROM", "ALERT_SMTP")
    login = ("ALERT_SMTP_USER", "ALERT_SMTP_PASSWORD")
    if not _together(given, needed, login):
        return None
    _together(given, login, ())
    to, sender, smarthost = (given[name] for name in needed)
    user, password = (given.get(name, "") for name in login)
    return Relay(", ".join(_addresses(to)), sender, smarthost, user, password)


def _bot(given: Mapping[str, str]) -> Bot | None:
    needed = ("ALERT_TELEGRAM_TOKEN", "ALERT_TELEGRAM_CHAT")
    if not _together(given, needed, ("ALERT_TELEGRAM_API",)):
        return None
    api = given.get("ALERT_TELEGRAM_API", TELEGRAM).rstrip("/")
    return Bot(given["ALERT_TELEGRAM_TOKEN"], int(given["ALERT_TELEGRAM_CHAT"]), api)


def _together(given: Mapping[str, str], needed: tuple[str, ...], more: tuple[str, ...]) -> bool:
    """Whether all that are needed are there; none of them, and none of `more`, is fine too."""
    found = [name for name in (*needed, *more) if name in given]
    missing = [name for name in needed if name not in given]
    if found and missing:
        raise MonitoringError(
            f"{found[0]}: it needs {' and '.join(missing)} too: set that, or unset {found[0]}"
        )
    return bool(found)


def _addresses(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _is_url(name: str, value: str) -> None:
    if not (ADDRESS.fullmatch(value) and value.isprintable() and _has_host(value)):
        _refuse(name, "no http or https address", "give the one that its maker shows, whole")


def _has_host(url: str) -> bool:
    """Whether a host and a port stand where they have to, in characters that both may have."""
    try:
        parts = urlsplit(url)
        host = HOST.fullmatch(parts.netloc)
        if host and host["six"]:
            IPv6Address(host["six"])
        return host is not None and parts.port != 0
    except ValueError:  # no port, or none that there can be; no address in the brackets
        return False


def _is_trigger(name: str, value: str) -> None:
    _is_url(name, value)
    parts = urlsplit(value)
    if not (TRIGGER.fullmatch(parts.path) and parse_qs(parts.query).get("token")):
        _refuse(
            name,
            "no trigger of GitLab",
            "write https://gitlab.example.com/api/v4/projects/ID/ref/BRANCH/trigger/pipeline"
            "?token=TOKEN",
        )


def _is_relay(name: str, value: str) -> None:
    found = RELAY.fullmatch(value)
    if found is None or not 0 < int(found[2]) < 65536:
        _refuse(name, "no host:port", "write smtp.example.com:587")


def _is_email(name: str, value: str) -> None:
    if not E_MAIL.fullmatch(value):
        _refuse(name, "no e-mail address", "write alerts@example.com")


def _are_emails(name: str, value: str) -> None:
    if not _addresses(value) or not all(map(E_MAIL.fullmatch, _addresses(value))):
        _refuse(name, "no e-mail addresses", "write some with commas between: team@example.com")


def _is_token(name: str, value: str) -> None:
    if not re.fullmatch(r"[0-9]+:[A-Za-z0-9_-]+", value):
        _refuse(name, "no token of a bot", "give the one that @BotFather shows: 123456:ABC...")


def _is_chat(name: str, value: str) -> None:
    if not re.fullmatch(r"-?[1-9][0-9]{0,17}", value):
        _refuse(name, "no number of a chat", "that of a group is negative: -1001234567890")


def _is_text(name: str, value: str) -> None:
    if not value.isprintable():
        _refuse(name, "it has characters that can not be printed", "give it on one line")


def _refuse(name: str, what: str, cure: str) -> None:
    raise MonitoringError(f"{name}: {what} (it may be a secret and is not shown): {cure}")


KNOWN: dict[str, Callable[[str, str], None]] = {
    "ALERT_SLACK_URL": _is_url,
    **{f"ALERT_{owner.upper()}_SLACK_URL": _is_url for owner in OWNERS},
    "ALERT_EMAIL_TO": _are_emails,
    "ALERT_EMAIL_FROM": _is_email,
    "ALERT_SMTP": _is_relay,
    "ALERT_SMTP_USER": _is_text,
    "ALERT_SMTP_PASSWORD": _is_text,
    "ALERT_TELEGRAM_TOKEN": _is_token,
    "ALERT_TELEGRAM_CHAT": _is_chat,
    "ALERT_TELEGRAM_API": _is_url,
    "ALERT_DEADMAN_URL": _is_url,
    "RETRAIN_TRIGGER_URL": _is_trigger,
    "EXTERNAL_URL": _is_url,
}
