"""Markdown that stays inert: names from data and parameters are shown, never interpreted."""

import re
from collections.abc import Sequence

from tabulate import tabulate


def code(text: object) -> str:
    """Show any text as a code span: no HTML, link, mention or emphasis in it comes alive."""
    plain = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", str(text)).strip() or " "
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> str:
    """A table; the first `text` columns lean left, the others, numbers, right."""
    # A bar ends a cell even inside of a code span, so it is escaped here and nowhere else.
    cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    align = ["left"] * text + ["right"] * (len(head) - text)
    return tabulate(cells, head, tablefmt="pipe", colalign=align, disable_numparse=True)


def arrow(change: float, more_is_better: bool) -> str:
    """▲ or ▼ for the direction, and in words whether that is good."""
    if change == 0:
        return "="
    verdict = "better" if (change > 0) == more_is_better else "worse"
    return f"{'▲' if change > 0 else '▼'} {verdict}"
