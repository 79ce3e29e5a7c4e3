"""The configuration of Prometheus for one machine, made from the one that ships.

Rules, jobs and labels are the same. Targets are on loopback, and scrapes are seconds apart, for
somebody who watches.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from monitoring.errors import MonitoringError

SOURCE = Path(__file__).parents[1] / "prometheus" / "prometheus.yml"
MOUNTED = Path("/etc/prometheus")  # the folder of SOURCE in the container of compose.yaml


class LocalTargets(NamedTuple):
    """The differences of this machine."""

    targets: Mapping[str, Sequence[str]]
    """Job -> host:port; other jobs are left out."""
    alertmanager: str
    """Its host:port."""
    interval: float
    """Seconds between two scrapes, and between two evaluations."""


def write_configuration(local: LocalTargets, target: Path, source: Path = SOURCE) -> None:
    """Write the configuration of Prometheus into a file.

    Raises:
        MonitoringError: the source is missing, or not a configuration.
    """
    document = _read(source)
    every = f"{round(local.interval * 1000)}ms"
    times = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
    jobs = [_job(job, local) for job in document["scrape_configs"] if _targets(job, local)]
    here = document | {
        "global": (document.get("global") or {}) | times,
        "rule_files": _rule_files(document, source.parent.absolute()),
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [local.alertmanager]}]}]},
        "scrape_configs": jobs,
    }
    target.write_text(yaml.safe_dump(here, sort_keys=False), encoding="utf-8")


def _targets(job: Mapping[str, Any], local: LocalTargets) -> list[str]:
    return list(local.targets.get(job["job_name"], ()))


def _job(job: Mapping[str, Any], local: LocalTargets) -> dict[str, Any]:
    """The job with targets of this machine, without its own discovery."""
    kept = {
        name: value
        for name, value in job.items()
        if not name.endswith("_sd_configs")
        and name not in ("scrape_interval", "scrape_timeout", "static_configs", "relabel_configs")
    }
    return kept | {"static_configs": [{"targets": _targets(job, local)}]}


def _rule_files(document: Mapping[str, Any], folder: Path) -> list[str]:
    found: list[str] = []
    for pattern in document.get("rule_files") or []:
        path = Path(pattern)
        relative = path.relative_to(MOUNTED) if path.is_relative_to(MOUNTED) else path
        matches = sorted(folder.glob(str(relative)))
        if not matches:
            raise MonitoringError(f"rule_files: nothing matches {pattern} below {folder}")
        found.extend(map(str, matches))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MonitoringError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise MonitoringError(f"{path} is not YAML: {error}") from None
    if not isinstance(document, dict) or "scrape_configs" not in document:
        raise MonitoringError(
            f"{path} is not a configuration of Prometheus: it lacks scrape_configs"
        )
    return document
