"""What a model predicts. One task a file; a new one is a module and a row in `TASKS`."""

from pipeline.errors import ParameterError
from pipeline.tasks import classification
from pipeline.tasks.task import Task

TASKS: dict[str, Task] = {"classification": classification}


def find(name: str) -> Task:
    """Return the task that `model.task`, or the manifest of a bundle, names.

    Raises:
        ParameterError: no task has that name.
    """
    if name not in TASKS:
        raise ParameterError(f"params.yaml: model.task is {name!r}: use one of {', '.join(TASKS)}")
    return TASKS[name]
