# mypy: ignore-errors
"""FastAPI as its tutorial has it: UploadFile in a plain `def`, metrics by Instrumentator.

NAIVE_THREADS: threads of the runtime a call; its default, one a core, if unset.
"""

import os
from typing import Any

from classifier import Classifier
from fastapi import FastAPI, UploadFile
from prometheus_fastapi_instrumentator import Instrumentator

threads = os.environ.get("NAIVE_THREADS")
classify = Classifier(int(threads) if threads else None)
app = FastAPI()
Instrumentator().instrument(app).expose(app)


@app.post("/predict")
def predict(file: UploadFile) -> dict[str, Any]:
    """Classify a chip."""
    return classify(file.file.read())
