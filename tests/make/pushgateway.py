"""A real pushgateway, and what was pushed to it."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.make.ports import free_port
from tests.make.processes import until

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
    """Run one on loopback."""
    port = free_port()
    command = ["prometheus-pushgateway", f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{url}/-/ready", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                threading.Event().wait(0.05)
        yield Gateway(url)
    finally:
        process.terminate()
        process.wait()
