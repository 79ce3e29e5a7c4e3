"""The configuration of Prometheus for one machine, made from the one that ships.

Rules, jobs and labels are the same. Targets are on loopback, and scrapes are seconds apart, for
somebody who watches.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

SOURCE = Path(__file__).parents[1] / "prometheus" / "prometheus.yml"


class LocalTargets(NamedTuple):
    """The differences of this machine."""

    targets: Mapping[str, Sequence[str]]
    """Job -> host:port; other jobs are left out."""
    alertmanager: str
    """Its host:port."""
    interval: float
    """Seconds between two scrapes, and between two evaluations."""


def write_configuration(local: LocalTargets, target: Path, source: Path = SOURCE) -> None:
    """Write the configuration of Prometheus into a file."""
    document = yaml.safe_load(source.read_text(encoding="utf-8"))
    every = f"{round(local.interval * 1000)}ms"
    times = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
    here = document | {
        "global": document["global"] | times,
        "rule_files": [str(source.parent.absolute() / path) for path in document["rule_files"]],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [local.alertmanager]}]}]},
        "scrape_configs": [
            job | {"static_configs": [{"targets": list(local.targets[job["job_name"]])}]}
            for job in document["scrape_configs"]
            if local.targets.get(job["job_name"])
        ],
    }
    target.write_text(yaml.safe_dump(here, sort_keys=False), encoding="utf-8")
