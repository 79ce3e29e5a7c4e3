"""A real pushgateway, and what was pushed to it."""

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.make.processes import until

LISTENING = re.compile(r'msg="Listening on".* address=127\.0\.0\.1:(\d+)')
Labels = tuple[tuple[str, str], ...]
needed = pytest.mark.skipif(
    shutil.which("prometheus-pushgateway") is None, reason="no prometheus-pushgateway"
)


class Gateway:
    """A real pushgateway."""

    def __init__(self, url: str) -> None:
        self.url = url

    def series(self, name: str) -> dict[Labels, float]:
        """Labels, without those that all have -> value."""
        text = httpx.get(f"{self.url}/metrics", trust_env=False).text
        return {
            tuple(sorted(x for x in sample.labels.items() if x[0] not in ("job", "instance"))): (
                sample.value
            )
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and sample.labels.get("job") == "conveyor"
        }

    def value(self, name: str) -> float | None:
        """The one value of a metric without labels."""
        return self.series(name).get(())

    def clear(self) -> None:
        """Delete what was pushed. A deletion is accepted first, and done a moment later."""
        for words in self._groups():
            path = "/".join(["job/conveyor", *words])
            httpx.delete(f"{self.url}/metrics/{path}", trust_env=False)
        until(lambda: not self._groups())

    def _groups(self) -> list[list[str]]:
        found = httpx.get(f"{self.url}/api/v1/metrics", trust_env=False).json()["data"]
        return [
            [f"{x}/{y}" for x, y in group["labels"].items() if x not in ("job", "instance")]
            for group in found
        ]


@contextmanager
def running() -> Iterator[Gateway]:
    """Run one on loopback, on a port that it takes itself.

    Debian's remembers in /var/lib/prometheus what an earlier one was pushed, unless it is told not
    to.
    """
    command = ["prometheus-pushgateway", "--web.listen-address=127.0.0.1:0", "--persistence.file="]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            listening = (LISTENING.search(line) for line in process.stderr)
            port = next(found[1] for found in listening if found)
            threading.Thread(target=process.stderr.read, daemon=True).start()  # else it waits
            yield Gateway(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
