"""Command: list, register, promote, roll back and retire versions; see `--help`."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

from contracts import commands
from contracts.tags import STAGES
from delivery.errors import GitError, command
from delivery.registry import registry as registry_module
from delivery.registry.lineage import lineage, render
from delivery.registry.map_lineage import lineage_of_map
from delivery.registry.registry import Registry, open_registry
from delivery.registry.state import Record
from delivery.tags import parse_stage, parse_version

MAP = ".json"  # ends the name of the item of a map, and no version
MAIN_METRICS = (
    *("accuracy", "macro_f1", "mean_iou", "ap50", "f1"),
    *("calibration_error", "latency_p95_ms"),
)
"""Columns of `models`, where a version has them; --json has all."""


@command
def main() -> None:
    """Run a subcommand."""
    arguments = _parser().parse_args()
    run: Callable[[Registry, Namespace], None] = arguments.run
    run(open_registry(), arguments)


def models(registry: Registry, arguments: Namespace) -> None:
    """List the versions, newest first."""
    _refresh(registry)
    records = registry.versions()
    if arguments.json:
        print(json.dumps([record.entry() for record in records], indent=2))
    elif records:
        shown = [name for name in MAIN_METRICS if any(name in it.metrics for it in records)]
        headers = ["version", "stages", "date", *shown, "commit", ""]
        rows = [_row(record, shown) for record in records]
        print(tabulate(rows, headers, tablefmt="simple", disable_numparse=True))
    else:
        print(f"{registry.name} has no version yet: the pipeline of main registers one")


def register(registry: Registry, arguments: Namespace) -> None:
    """Print the tag of the version, and nothing else: scripts read it."""
    print(registry.register(arguments.commit, arguments.message, arguments.ci_skip).tag)


def promote(registry: Registry, arguments: Namespace) -> None:
    """Assign a version to a stage."""
    version = parse_version(arguments.version, registry.name)
    stage = parse_stage(arguments.stage)
    tag = registry.assign(
        version, stage, arguments.reason, arguments.force, ci_skip=arguments.ci_skip
    )
    print(f"{tag}: {stage} serves {version.tag}")


def rollback(registry: Registry, arguments: Namespace) -> None:
    """Assign to a stage the version that it served before."""
    stage = parse_stage(arguments.stage)
    to = parse_version(arguments.to, registry.name) if arguments.to else None
    registry.sync()
    before = registry.state().serving.get(stage)
    tag = registry.rollback(stage, to, arguments.reason, ci_skip=arguments.ci_skip)
    now = registry.serving(stage)
    print(f"{tag}: {stage} serves {now.tag if now else 'nothing'}")
    if before and before.tag == tag:
        print(f"It was rolled back already. Further back: --to VERSION ({registry.name}@v1.2.0).")


def find(registry: Registry, arguments: Namespace) -> None:
    """Print the tag of a version that origin has."""
    version = parse_version(arguments.version, registry.name)
    registry.sync()
    print(registry.find(version.tag).tag)


def retire(registry: Registry, arguments: Namespace) -> None:
    """Retire a version."""
    version = parse_version(arguments.version, registry.name)
    tag = registry.retire(version, arguments.reason)
    print(f"{tag}: {version.tag} is retired")


def show_lineage(registry: Registry, arguments: Namespace) -> None:
    """Print the lineage of a version, or of a map."""
    given = arguments.version
    if given.endswith((".tif", ".tiff")):
        given = str(Path(given).with_suffix(MAP))  # the item lies beside the map
    if not given.endswith(MAP):
        parse_version(given, registry.name)
    _refresh(registry, "refs/tags/experiment/*:refs/tags/experiment/*")
    if given.endswith(MAP):
        found = lineage_of_map(registry, Path(given))
    else:
        found = lineage(registry, registry.find(parse_version(given, registry.name).tag))
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print(render(found))


def _refresh(registry: Registry, *refs: str) -> None:
    """Sync with origin; if it cannot be reached, warn and go on with the local tags."""
    try:
        registry.sync()
        if refs:
            registry.repository.fetch(*refs)
    except GitError as error:
        print(f"warning: {error}; showing the local tags", file=sys.stderr)


def _row(record: Record, shown: list[str]) -> list[str]:
    return [
        record.version.tag,
        ", ".join(record.stages) or "-",
        f"{record.date:%Y-%m-%d %H:%M}",
        *(f"{record.metrics[name]:.4g}" if name in record.metrics else "-" for name in shown),
        record.commit[:12],
        "retired" if record.deprecated else "",
    ]


def _parser() -> ArgumentParser:
    parser = commands.parser("delivery.registry", registry_module.__doc__)
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[Registry, Namespace], None], text: str) -> ArgumentParser:
        added = subcommands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    stages = f"one of {', '.join(STAGES)}"
    one = add("models", models, "list versions, stages and metrics")
    one.add_argument("--json", action="store_true")
    one = add("register", register, "register a commit as the next version; prints the tag")
    one.add_argument("commit", nargs="?", default="HEAD")
    one.add_argument("--message", default="", help="recorded in the tag")
    one.add_argument("--ci-skip", action="store_true", help="start no pipeline")
    one = add("promote", promote, "assign a version to a stage; the tag starts the rollout")
    one.add_argument("version", help="v1.2.0 or landcover@v1.2.0")
    one.add_argument("stage", help=stages)
    one.add_argument("--force", action="store_true", help="override the policy; needs --reason")
    one.add_argument("--reason", default="", help="recorded in the tag")
    one.add_argument("--ci-skip", action="store_true", help="start no pipeline")
    one = add(
        "rollback",
        rollback,
        "assign the version that a stage served before; the tag starts the rollout",
    )
    one.add_argument("stage", help=stages)
    one.add_argument("--to", default="", help="the version to go back to")
    one.add_argument("--reason", default="", help="recorded in the tag")
    one.add_argument("--ci-skip", action="store_true", help="start no pipeline")
    one = add("find", find, "print the tag of a registered version")
    one.add_argument("version", help="v1.2.0 or landcover@v1.2.0")
    one = add("retire", retire, "retire a version: no stage takes it any more")
    one.add_argument("version", help="v1.2.0 or landcover@v1.2.0")
    one.add_argument("--reason", default="", help="recorded in the tag")
    one = add(
        "lineage", show_lineage, "show the data, metrics, merge request and approvals of a version"
    )
    one.add_argument("version", help="v1.2.0 or landcover@v1.2.0, or a map, or its STAC item")
    one.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    main()
