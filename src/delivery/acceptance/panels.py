"""The dashboards' files: what is imported, and what Grafana is asked for each panel."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from delivery.acceptance.instance import Document, Source
from delivery.errors import GrafanaError

FILES = Path("monitoring/grafana/dashboards")
STEP = 60_000  # milliseconds between two points
POINTS = 360  # six hours


class Question(NamedTuple):
    """A panel's queries, or those of an annotation."""

    title: str
    queries: list[Document]
    nothing: str
    """The panel's text without data: why that may be so."""


def read() -> dict[str, Document]:
    """The dashboards by the names of their files.

    Raises:
        GrafanaError: there is none, or one is unusable.
    """
    paths = sorted(FILES.glob("*.json"))
    if not paths:
        raise GrafanaError(f"{FILES}: no dashboard is there: make dashboards")
    try:
        return {path.stem: json.loads(path.read_bytes()) for path in paths}
    except (OSError, ValueError) as error:
        raise GrafanaError(f"{FILES}: {error}: make dashboards writes them anew") from None


def prepared(document: Document, uid: str, source: Source) -> Document:
    """A copy to import beside the one that may be there: another uid, its data source chosen."""
    found = copy.deepcopy(document)
    found |= {"uid": uid, "id": None}
    for variable in found.get("templating", {}).get("list", []):
        if variable["type"] == "datasource":
            variable["current"] = {"selected": True, "text": source.name, "value": source.uid}
    return found


def questions(document: Document, source: Source) -> Iterator[Question]:
    """What to ask, the variables replaced by what "All" stands for."""
    rows = document.get("templating", {}).get("list", [])
    values = {row["name"]: row["allValue"] for row in rows if "allValue" in row}
    for panel in document["panels"]:
        if targets := panel.get("targets"):
            nothing = panel.get("fieldConfig", {}).get("defaults", {}).get("noValue", "no data")
            asked = [_query(target, values, source) for target in targets]
            yield Question(panel["title"], asked, nothing)
    for place in document.get("annotations", {}).get("list", []):
        target = {"refId": "A", "expr": place["expr"], "range": True, "instant": False}
        asked = [_query(target, values, source)]
        yield Question(f"mark {place['name']}", asked, "nothing happened")


def _query(target: Document, values: dict[str, str], source: Source) -> Document:
    expr = re.sub(
        r"\$\{?([a-z]\w*)\}?", lambda found: values.get(found[1], found[0]), target["expr"]
    )
    about = {"type": "prometheus", "uid": source.uid}
    return target | {
        "expr": expr,
        "datasource": about,
        "intervalMs": STEP,
        "maxDataPoints": POINTS,
    }


def numbers(result: Document) -> int:
    """How many numbers a result has; NaN is none, and travels as null."""
    return sum(
        value is not None
        for frame in result.get("frames") or []
        for field, column in zip(frame["schema"]["fields"], frame["data"]["values"], strict=False)
        if field.get("type") == "number"
        for value in column
    )
