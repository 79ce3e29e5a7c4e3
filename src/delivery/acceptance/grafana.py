"""Command: import the dashboards into a Grafana of yours, ask each panel, and report the answers.

    GRAFANA_TOKEN=... python -m delivery.acceptance.grafana https://grafana.example.com
    GRAFANA_TOKEN=... python -m delivery.acceptance.grafana --clean conveyor-acceptance-1a2b3c4d URL

Imports each dashboard into a folder of its own, under other uids, so that dashboards that are there
stay as they are; asks each panel's queries through Grafana's query API, for the last six hours and
with all variables at "All"; and deletes the folder again, also after Ctrl-C. After a kill, --clean
does. The report is artifacts/acceptance/grafana.md: which panels have data, which have none, which
an error. The exit code is 1 if a check failed.

The token is one of a service account with the role Editor.
"""

import os
import re
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from contracts import commands
from delivery.acceptance import panels
from delivery.acceptance.instance import TIMEOUT, TOKEN, Document, Instance, Refused, Source, choose
from delivery.acceptance.panels import Question
from delivery.acceptance.report import FOLDER, Report
from delivery.errors import GrafanaError, command

REPORT = FOLDER / "grafana.md"
PREFIX = "conveyor-acceptance-"
WINDOW = ("now-6h", "now")
UNTESTED = (
    "Not checked here: how panels look, whether their numbers are right, links, and other choices "
    "of the variables. A panel without data is no failure: the last column says what it may need."
)


class Story(Report):
    """One run."""

    def __init__(self, instance: Instance, source: Source) -> None:
        super().__init__()
        self.instance, self.source = instance, source
        self.folder = f"{PREFIX}{secrets.token_hex(4)}"
        self.answered = 0
        """Panels that had data."""

    def play(self) -> None:
        """Play all of it; what was made is deleted also when something fails."""
        documents = panels.read()
        with self._folder():
            for name, document in documents.items():
                self.show(name, document)
            cure = "" if self.answered else ": does Prometheus scrape the service, under its job?"
            self.check("panels have data", self.answered, f"{self.answered}{cure}")

    @contextmanager
    def _folder(self) -> Iterator[None]:
        """A folder until the block ends.

        Raises:
            Refused: Grafana makes none.
        """
        made = True  # maybe: also if the answer did not come
        try:
            try:
                self.instance.make_folder(self.folder)
            except Refused:
                made = False
                raise
            yield
        except GrafanaError as error:
            if not made:
                raise
            self.check("the story could go on", False, error)
        except KeyboardInterrupt:
            self.check("the story could go on", False, "it was interrupted")
            raise
        finally:
            if made:
                self.clean()

    def show(self, name: str, document: Document) -> None:
        """Import a dashboard, and ask its panels."""
        title = document["title"]
        mine = panels.prepared(document, f"{self.folder}-{name}", self.source)
        stored = self.instance.load(mine, self.folder)
        there = len(stored.get("dashboard", {}).get("panels", []))
        wanted = len(mine["panels"])
        self.check(f"{title}: import", there == wanted, f"{there} of {wanted} panels and headings")
        for question in panels.questions(mine, self.source):
            self.ask(title, question)

    def ask(self, title: str, question: Question) -> None:
        """Ask a panel; no data is no failure, an error is."""
        name = f"{title}: {question.title}"
        try:
            results = self.instance.query(question.queries, *WINDOW)
        except Refused as refused:
            if refused.status in (401, 403):
                raise
            self.check(name, False, refused)
            return
        missing = [query["refId"] for query in question.queries if query["refId"] not in results]
        errors = [str(result["error"]) for result in results.values() if result.get("error")]
        errors += [f"no answer to query {letter}" for letter in missing]
        found = sum(map(panels.numbers, results.values()))
        if errors:
            self.check(name, False, "; ".join(errors))
        elif found:
            self.answered += 1
            self.check(name, True, f"{found} numbers")
        else:
            self.skip(name, question.nothing)

    def clean(self) -> None:
        """Delete the folder; report what is left."""
        with undisturbed():
            try:
                clean(self.instance, self.folder)
            except GrafanaError as error:
                cure = f"make acceptance-grafana URL={self.instance.url} CLEAN={self.folder}"
                self.check("nothing is left", False, f"{error}: {cure}")
            else:
                self.check("nothing is left", True, f"the folder {self.folder} is deleted")


def clean(instance: Instance, folder: str) -> None:
    """Delete the folder of a run, and its dashboards first: not every version deletes a full one.

    Raises:
        GrafanaError: it is not the folder of a run, or Grafana refuses.
    """
    if not re.fullmatch(f"{PREFIX}[0-9a-f]{{8}}", folder):
        raise GrafanaError(f"CLEAN: {folder!a} is not a folder of a run: write {PREFIX}1a2b3c4d")
    for name in panels.read():
        instance.remove("dashboards/uid", f"{folder}-{name}")
    instance.remove("folders", folder)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let another Ctrl-C wait for nothing: each request in here has a time limit of its own."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@command
def main() -> None:
    """Play the story, and write its report."""
    parser = commands.parser("delivery.acceptance.grafana", __doc__)
    parser.add_argument("url", help="address of Grafana: https://grafana.example.com")
    parser.add_argument("--source", default="", help="name or uid of the Prometheus to ask")
    parser.add_argument("--seconds", type=float, default=TIMEOUT, help="for each answer (30)")
    parser.add_argument("--clean", default="", metavar="FOLDER", help="delete a killed run's")
    arguments = parser.parse_args()
    instance = Instance(arguments.url, os.environ.get(TOKEN, ""), arguments.seconds)
    version = instance.version()
    if arguments.clean:
        clean(instance, arguments.clean)
        print(f"acceptance: {arguments.clean} is gone")
        return
    story = Story(instance, choose(instance.sources(), arguments.source))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = datetime.now(UTC)
    try:
        story.play()
    finally:
        if story.checks:
            about = f"{instance.url}, Grafana {version or 'of a version that it hides'}"
            asked = f"data source {story.source.name}, {begun:%Y-%m-%d %H:%M} UTC."
            story.write(REPORT, "Grafana", [f"{about}, {asked}"], UNTESTED)
    if not story.passed:
        sys.exit(1)


if __name__ == "__main__":
    main()
