"""Command: send an event to a chat channel.

    python -m delivery.notify released --text "landcover@v1.2.0 serves in production"

Posts to `NOTIFY_URL`, a webhook in Slack's format: Slack, Mattermost, Rocket.Chat and others.
`NOTIFY_EVENTS` lists the events to send, separated by commas; the default is all. Without
`NOTIFY_URL` nothing is sent, which is not an error. A failing webhook is reported on stderr and
does not fail the pipeline. The address is a secret and is never printed.
"""

import os
import re
import sys
from collections.abc import Mapping

import httpx
import tenacity

from contracts import commands
from delivery.errors import DeliveryError, command
from delivery.http import EnvironmentFault, send

EVENTS = {
    "pipeline-failed": "❌ pipeline failed",
    "gate-missed": "⛔ the gate is closed",
    "released": "🚀 released",
    "rolled-back": "↩️ rolled back",
    "retrained": "🔁 retrained",
    "ingest-failed": "📥 no new data could be ingested",
    "drift-unanswered": "🌊 drift, and nothing to train on",
    "job-failed": "💥 a job failed",
    "job-retrying": "↪️ a job is tried again",
}

TIMEOUT = 10.0  # seconds for each of connecting, sending and receiving
PAUSE = 1.0  # seconds before the second and last attempt
LONGEST = 2000  # characters of one text; Slack cuts messages at 40,000


class NotifyError(DeliveryError):
    """A setting of the notifications is invalid."""


class _Failed(Exception):
    """The webhook rejected the message; the text has the reason, without the address."""


@command
def main() -> None:
    """Send one event."""
    parser = commands.parser("delivery.notify", __doc__)
    parser.add_argument("event", metavar="EVENT", help=", ".join(EVENTS))
    parser.add_argument("--text", default="", help="details of the event")
    arguments = parser.parse_args()
    print(f"notify: {notify(arguments.event, arguments.text)}")


def notify(event: str, text: str = "") -> str:
    """Send an event if the settings include it; returns a sentence about the result.

    Raises:
        NotifyError: the event is unknown, `NOTIFY_URL` is not an address, or `NOTIFY_EVENTS` has
            an unknown event.
    """
    if event not in EVENTS:
        raise NotifyError(f"event: {event[:64]!a} is not one: use {', '.join(EVENTS)}")
    url, wanted = webhook(), wanted_events()
    if url is None:
        return f"{event} is not sent: NOTIFY_URL is not set"
    if event not in wanted:
        return f"{event} is not sent: NOTIFY_EVENTS does not list it"
    try:
        _post(url, message(event, text, os.environ))
    except _Failed as failure:
        print(f"notify: {event} was not sent: {failure}", file=sys.stderr)
        return f"{event} was not sent"
    return f"{event} is sent"


def webhook() -> httpx.URL | None:
    """The address of the webhook; None if it is not set.

    Raises:
        NotifyError: it is not an http or https address. The message does not contain it.
    """
    text = os.environ.get("NOTIFY_URL", "").strip()
    if not text:
        return None
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise NotifyError(
            "NOTIFY_URL: not an http or https address (it is a secret and not shown): "
            "copy that of the chat's incoming webhook"
        )
    return url


def wanted_events() -> set[str]:
    """The events to send.

    Raises:
        NotifyError: one of them is unknown.
    """
    text = os.environ.get("NOTIFY_EVENTS", "")
    events = {event.strip() for event in text.split(",") if event.strip()}
    if unknown := events - EVENTS.keys():
        raise NotifyError(
            f"NOTIFY_EVENTS: {min(unknown)[:64]!a} is not an event: use {', '.join(EVENTS)}"
        )
    return events or set(EVENTS)


def message(event: str, text: str, environment: Mapping[str, str]) -> str:
    """The message in Slack's mrkdwn: event, project and branch, commit, text, pipeline."""
    project = environment.get("CI_PROJECT_PATH", "")
    ref = environment.get("CI_COMMIT_REF_NAME", "")
    where = " on ".join(inert(part) for part in (project, ref) if part)
    lines = [f"*{EVENTS[event]}*{': ' if where else ''}{where}"]
    if title := environment.get("CI_COMMIT_TITLE", ""):
        lines.append(f"commit: {inert(title)}")
    lines += [inert(line) for line in text[:LONGEST].splitlines() if line.strip()]
    url = environment.get("CI_PIPELINE_URL", "")
    if re.fullmatch(r"https?://[^\s<>|]+", url):
        lines.append(f"<{url.replace('&', '&amp;')}|pipeline {_number(environment)}>")
    return "\n".join(lines)


def inert(text: str) -> str:
    """Escape foreign text: no mention, no link, no formatting.

    A code span disables formatting and names of people; `<!channel>` and `<url|text>` would work
    even there, so the three special characters of Slack are written as entities.
    """
    line = "".join(letter if letter.isprintable() else " " for letter in text.replace("`", "ˋ"))
    line = line.strip()[:LONGEST] or " "
    return f"`{line.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}`"


def _number(environment: Mapping[str, str]) -> str:
    found = re.fullmatch(r"[0-9]{1,18}", environment.get("CI_PIPELINE_ID", ""))
    return found[0] if found else ""


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(_Failed),
    stop=tenacity.stop_after_attempt(2),
    wait=tenacity.wait_fixed(PAUSE),
    reraise=True,
)
def _post(url: httpx.URL, text: str) -> None:
    try:
        answer = send("POST", url, json={"text": text}, timeout=TIMEOUT)
    except EnvironmentFault as error:
        raise _Failed(f"the webhook cannot be reached: {error}") from None
    except httpx.HTTPError as error:
        # The text of httpx may contain the address.
        raise _Failed(f"the webhook cannot be reached ({type(error).__name__})") from None
    if not answer.is_success:
        raise _Failed(f"the webhook answered {answer.status_code}")


if __name__ == "__main__":
    main()
