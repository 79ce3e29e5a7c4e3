"""Command: the rules of Prometheus, as the operator of a cluster takes them.

    python -m monitoring.alerts.rules            write monitoring/kubernetes/rules.yaml
    python -m monitoring.alerts.rules --check    exit 1 when it is not what the rules say

The rules themselves stand in monitoring/prometheus/rules, for people, compose.yaml and the tests.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

import yaml

from monitoring.errors import MonitoringError, command

HERE = Path(__file__).parents[1]
SOURCE = HERE / "prometheus" / "rules"
TARGET = HERE / "kubernetes" / "rules.yaml"
HEAD = """\
# Made from monitoring/prometheus/rules by `python -m monitoring.alerts.rules`: change those.
# kubectl -n monitoring apply --filename monitoring/kubernetes/rules.yaml
"""


class _Dumper(yaml.SafeDumper):
    """Writes expressions as they were written, and repeats what the source only refers to."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write no anchors."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def render(source: Path = SOURCE) -> str:
    """The PrometheusRule, as text.

    Raises:
        MonitoringError: a file has no rules.
    """
    groups = [group for name in ("recording.yml", "alerts.yml") for group in _read(source / name)]
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "landcover",
            "labels": {
                "app.kubernetes.io/name": "landcover",
                "app.kubernetes.io/part-of": "conveyor",
            },
        },
        "spec": {"groups": groups},
    }
    return HEAD + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100)


def _read(path: Path) -> list[Any]:
    try:
        groups = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise MonitoringError(
            f"{path}: no rules of Prometheus ({type(error).__name__}): "
            f"`promtool check rules {path}` says where"
        ) from None
    if not isinstance(groups, list):
        raise MonitoringError(f"{path}: `groups` is no list of groups of rules")
    return groups


def is_current(target: Path) -> bool:
    """Whether the file has what the rules say."""
    return target.is_file() and target.read_text(encoding="utf-8") == render()


@command
def main() -> None:
    """Write or check."""
    parser = ArgumentParser(
        prog="python -m monitoring.alerts.rules",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--out", type=Path, default=TARGET, help=f"default: {TARGET.name}")
    chosen = parser.parse_args()
    if not chosen.check:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(render(), encoding="utf-8")
        print(f"rules: {chosen.out} is written")
    elif not is_current(chosen.out):
        raise MonitoringError(f"{chosen.out} is not what the rules say: make rules")


if __name__ == "__main__":
    main()
