# mypy: ignore-errors
"""MLServer: a custom runtime with a custom endpoint that takes the upload as it is.

https://docs.seldon.ai/mlserver/user-guide/custom and .../examples/custom-json
Its own protocol (V2) would want the upload in base64 within JSON, which is slower. settings.json
starts a worker process a core.
"""

from typing import Annotated, Any

from classifier import Classifier
from fastapi import File
from mlserver import MLModel
from mlserver.handlers import custom_handler


class Chips(MLModel):
    """The model, once a worker."""

    async def load(self) -> bool:
        self.classify = Classifier(threads=1)
        return True

    @custom_handler(rest_path="/predict")
    async def upload(self, file: Annotated[bytes, File()]) -> dict[str, Any]:
        """Classify a chip."""
        return self.classify(file)
