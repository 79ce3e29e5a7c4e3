"""The command lines of stages and commands."""

from collections.abc import Sequence

from contracts import commands

MAIN = "main"


def parse_none(name: str, description: str | None, arguments: Sequence[str]) -> None:
    """Parse the arguments of a stage, which has none: `--help` prints, all else exits with 2."""
    commands.parser(f"pipeline.{name}", description).parse_args(arguments)


def parse_against(name: str, description: str | None, arguments: Sequence[str]) -> str:
    """Parse the arguments of a command that compares: the revision of `--against`."""
    parser = commands.parser(f"pipeline.{name}", description)
    parser.add_argument(
        "--against", default=MAIN, metavar="REV", help="revision to compare with (default: main)"
    )
    against: str = parser.parse_args(arguments).against
    return against
