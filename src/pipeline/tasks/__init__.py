"""What a model predicts. One task a file; a new one is a module and a row in `TASKS`."""

from contracts.bundle import Manifest
from pipeline.errors import ParameterError
from pipeline.tasks import classification, detection, instances, segmentation
from pipeline.tasks.task import Task

TASKS: dict[str, Task] = {
    "classification": classification,
    "segmentation": segmentation,
    "detection": detection,
    "instances": instances,
}


def of(manifest: Manifest) -> Task:
    """Return the task that a bundle was trained for: several may be served alike."""
    model = manifest.training.params.get("model", {})
    return TASKS.get(model.get("task", ""), TASKS[manifest.task])


def find(name: str) -> Task:
    """Return the task that `model.task` names.

    Raises:
        ParameterError: no task has that name.
    """
    if name not in TASKS:
        raise ParameterError(f"params.yaml: model.task is {name!r}: use one of {', '.join(TASKS)}")
    return TASKS[name]
