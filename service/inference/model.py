"""A loaded model: bundle, tag, task and session; `Serving` holds the one that serves."""

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import orjson

from contracts.bundle import Manifest
from service.errors import Unavailable
from service.inference.bundle import Bundle
from service.inference.engine import Engine
from service.inference.tasks import Outcome, Output, Task, task_of
from service.schemas import ModelInfo


class Model:
    """One loaded model, immutable: an answer cannot mix two models."""

    def __init__(self, tag: str, bundle: Bundle, device: str = "auto") -> None:
        """Open the session; `device` is the setting of this name.

        Raises:
            BundleRefused: the graph cannot be opened, or does not match the manifest.
            Unavailable: the device is not there.
        """
        self.tag = tag
        self.in_flight = 0
        """Predictions that name it and are not answered yet: until then it stays loaded."""
        self.at_once = 1
        """Images of requests that wait which share a run, at most; the loader measures it."""
        self.manifest: Manifest = bundle.manifest
        self.task: Task = task_of(self.manifest)
        self.engine = Engine(bundle, self.task, device)
        label = {"name": self.manifest.name, "tag": tag, "sha256": self.manifest.sha256}
        self._label = orjson.Fragment(orjson.dumps(label))

    @property
    def sha256(self) -> str:
        """Digest of the graph, which identifies the model."""
        return self.manifest.sha256

    def infer(self, chip: npt.NDArray[Any]) -> Output:
        """Run the graph on one chip (bands, height, width)."""
        return self.engine.infer(chip[None])  # (1, bands, H, W)

    def render(self, outcome: Outcome, request_id: str) -> bytes:
        """Write an answer as JSON; this consumes the fields of the outcome."""
        fields = outcome.fields
        fields["request_id"] = request_id
        fields["model"] = self._label
        return orjson.dumps(fields)

    def info(self) -> ModelInfo:
        """Describe it for `/version`."""
        manifest = self.manifest
        return ModelInfo(
            name=manifest.name,
            tag=self.tag,
            sha256=manifest.sha256,
            task=manifest.task,
            data_version=manifest.training.data_version,
            git_revision=manifest.training.git_revision,
            trained=manifest.training.finished,
            classes=list(manifest.classes),
            input=manifest.input.model_dump(mode="json"),
        )


class Serving:
    """The current and the previous model of this process. Switching is one assignment."""

    def __init__(self) -> None:
        """Begin without a model: not ready."""
        self.current: Model | None = None
        self.previous: Model | None = None
        self.beside: tuple[Model, ...] = ()
        """Those that are loaded beside, for requests that name them."""
        self.draining = False
        self.when_ready: Callable[[], None] | None = None
        """Called at each switch: reports to the parent process that connections may come."""

    def model(self) -> Model:
        """Return the model that serves now.

        Raises:
            Unavailable: no model is loaded yet.
        """
        if self.current is None:
            raise Unavailable("no model is loaded yet: ask /readyz")
        return self.current

    def switch(self, model: Model) -> None:
        """Serve another model from the next chip on; the old one stays loaded for a rollback."""
        self.previous, self.current = self.current, model
        if self.when_ready is not None:
            self.when_ready()
