# mypy: ignore-errors
"""BentoML: a service class, a process a core, the upload as a file on disk (its type for files).

https://docs.bentoml.com/en/latest/build-with-bentoml/iotypes.html and .../parallelize-requests.html
No adaptive batching: it waits for a batch, and a batch is no faster than single chips on a CPU.
"""

import os
from pathlib import Path
from typing import Any

import bentoml
from classifier import Classifier


# Its log of every request is off: it would be a good part of the work.
@bentoml.service(workers=os.cpu_count(), logging={"access": {"enabled": False}})
class Chips:
    """The model, once a process."""

    def __init__(self) -> None:
        self.classify = Classifier(threads=1)

    @bentoml.api
    def predict(self, file: Path) -> dict[str, Any]:
        """Classify a chip."""
        return self.classify(file.read_bytes())
