"""Command: write the configuration of Prometheus and its rules, or check that they are current.

    python -m monitoring.alerts.rules            writes what is below
    python -m monitoring.alerts.rules --check    exit 1 when a file differs

Templates in monitoring/alerts/templates, filled with monitoring/objectives.py, give
prometheus/prometheus.yml, prometheus/rules/*.yml, and the same rules for the operator of a
cluster, kubernetes/rules.yaml. In a template `${NAME}` is a value and `#%` begins a statement of
Jinja; `{{ ... }}` is left for Prometheus.
"""

from pathlib import Path
from typing import Any

import yaml
from jinja2 import (
    Environment,
    FileSystemLoader,
    StrictUndefined,
    TemplateError,
    TemplateSyntaxError,
)

from monitoring import objectives
from monitoring.errors import MonitoringError, command
from monitoring.generated import command_line

FOLDER = Path(__file__).parents[1]
TEMPLATES = Path(__file__).parent / "templates"
RULES = ("prometheus/rules/recording.yml", "prometheus/rules/alerts.yml")
CLUSTER = "kubernetes/rules.yaml"
HEAD = "# Made by `make rules`: change monitoring/alerts/templates or monitoring/objectives.py.\n"


class _Dumper(yaml.SafeDumper):
    """Writes expressions as they were written, and repeats what the source only refers to."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write no anchors."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def files(templates: Path = TEMPLATES) -> dict[str, str]:
    """Path below monitoring/ -> text.

    Raises:
        MonitoringError: a template is missing, names something unknown, or makes no YAML.
    """
    paths = ("prometheus/prometheus.yml", *RULES)
    found = {path: render(templates, f"{Path(path).name}.j2") for path in paths}
    return found | {CLUSTER: _for_cluster([_groups(path, found[path]) for path in RULES])}


def render(templates: Path, name: str) -> str:
    """A template, filled with the objectives."""
    environment = Environment(
        loader=FileSystemLoader(templates),
        variable_start_string="${",
        variable_end_string="}",
        line_statement_prefix="#%",
        undefined=StrictUndefined,
        autoescape=False,  # YAML, not HTML
    )
    try:
        return HEAD + environment.get_template(name).render(vars(objectives)) + "\n"
    except TemplateError as error:
        line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise MonitoringError(
            f"{templates / name}{line}: {error.message or type(error).__name__}; values are the "
            "names of monitoring/objectives.py"
        ) from None


def _groups(path: str, text: str) -> list[Any]:
    try:
        return list(yaml.safe_load(text)["groups"])
    except (TypeError, KeyError, yaml.YAMLError) as error:
        raise MonitoringError(
            f"{path}: its template gives no groups of rules ({type(error).__name__}: {error})"
        ) from None


def _for_cluster(groups: list[list[Any]]) -> str:
    """The same rules as the object that the operator of a cluster reads."""
    labels = {
        "app.kubernetes.io/name": objectives.APP,
        "app.kubernetes.io/part-of": "conveyor",
    }
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": objectives.APP, "labels": labels},
        "spec": {"groups": sum(groups, [])},
    }
    apply = f"# kubectl -n monitoring apply --filename monitoring/{CLUSTER}\n"
    return HEAD + apply + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100)


@command
def main() -> None:
    """Write or check."""
    command_line("monitoring.alerts.rules", __doc__ or "", files, FOLDER, "prometheus/rules/*.yml")


if __name__ == "__main__":
    main()
