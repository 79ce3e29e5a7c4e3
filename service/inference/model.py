"""A model that serves: bundle, label and session; and the one place that says which it is."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from contracts.bundle import Manifest
from service.errors import InvalidOutput, Unavailable
from service.inference.bundle import Bundle
from service.inference.engine import Answer, Engine
from service.schemas import ModelInfo


class Model:
    """One model, loaded. Not changed after it is made, so that an answer can not mix two."""

    def __init__(self, tag: str, bundle: Bundle) -> None:
        """Open the session.

        Raises:
            BundleRefused: the graph can not be opened, or is not what the manifest says.
        """
        self.tag = tag
        self.manifest: Manifest = bundle.manifest
        self.engine = Engine(bundle)
        label = {"name": self.manifest.name, "tag": tag, "sha256": self.manifest.sha256}
        self._label = orjson.Fragment(orjson.dumps(label))

    @property
    def sha256(self) -> str:
        """Digest of the graph: what identifies the model."""
        return self.manifest.sha256

    def classify(self, chip: npt.NDArray[Any]) -> Answer:
        """Run one chip (bands, height, width)."""
        return self.engine.run(chip[None])  # (1, bands, H, W)

    def render(self, probabilities: npt.NDArray[np.float32], request_id: str) -> tuple[int, bytes]:
        """Give the index of the likeliest class, and the body of the answer as JSON.

        Raises:
            InvalidOutput: a probability is NaN or infinite. The likeliest class of NaN would be the
                first one: a broken model must not look like a prediction.
        """
        values = probabilities.tolist()
        if not isfinite(sum(values)):
            raise InvalidOutput(
                f"model: {self.tag} returned probabilities that are NaN or infinite for this "
                "image: serve another model, or train this one again"
            )
        best = int(probabilities.argmax())
        classes = self.manifest.classes
        answer = {
            "class": classes[best],
            "probability": values[best],
            "probabilities": dict(zip(classes, values, strict=True)),
            "request_id": request_id,
            "model": self._label,
        }
        return best, orjson.dumps(answer)

    def info(self) -> ModelInfo:
        """What `/version` says about it."""
        manifest = self.manifest
        return ModelInfo(
            name=manifest.name,
            tag=self.tag,
            sha256=manifest.sha256,
            data_version=manifest.training.data_version,
            git_revision=manifest.training.git_revision,
            trained=manifest.training.finished,
            classes=list(manifest.classes),
            input=manifest.input.model_dump(mode="json"),
        )


class Serving:
    """The model that serves in this process, and the one before it. Switching is one assignment."""

    def __init__(self) -> None:
        """Begin with no model: not ready."""
        self.current: Model | None = None
        self.previous: Model | None = None
        self.draining = False
        self.when_ready: Callable[[], None] | None = None
        """Called at each switch: tells the parent that connections may come."""

    def model(self) -> Model:
        """Give the model that serves now.

        Raises:
            Unavailable: none is loaded yet.
        """
        if self.current is None:
            raise Unavailable("no model is loaded yet: ask /readyz")
        return self.current

    def switch(self, model: Model) -> None:
        """Serve another model from the next chip on; the old one stays loaded for a rollback."""
        self.previous, self.current = self.current, model
        if self.when_ready is not None:
            self.when_ready()
