"""reports/splits.json: what the model reaches as it was split, and by a random split."""

import json
from pathlib import Path
from typing import Any

from pipeline import markdown as md
from pipeline.tasks.task import Task

SPLITS = Path("reports/splits.json")


def split_section(task: Task, model: str) -> str:
    """What a random split would have said of the bundle with the SHA-256 `model`; else nothing."""
    try:
        found = json.loads(SPLITS.read_text(encoding="utf-8"))
        if found["model"] != model:
            return ""
        rows = [list(row) for row in split_rows(task, found)]
        split = md.code(found["split"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    table = md.table(["metric", f"split {split}", "a random split"], rows)
    return f"## How much a random split would flatter\n\n{table}"


def split_rows(task: Task, found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Title of each metric of the task, its value, and its value by a random split."""
    return [
        (
            metric.title,
            metric.form.format(found["metrics"][metric.key]),
            metric.form.format(found["random"][metric.key]),
        )
        for metric in task.METRICS
    ]
