# mypy: ignore-errors
"""LitServe: decode, predict, encode in a process a core behind a queue.

https://lightning.ai/docs/litserve/features/request-response-format
"""

import os
import sys
from typing import Any

import litserve
import numpy as np
import numpy.typing as npt
from classifier import Classifier, decode


class Chips(litserve.LitAPI):
    """The model, once a worker."""

    def setup(self, device: str) -> None:
        self.classify = Classifier(threads=1)

    def decode_request(self, request) -> npt.NDArray[Any]:
        return decode(request["file"].file.read())

    def predict(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return self.classify.run(x)

    def encode_response(self, output: npt.NDArray[np.float32]) -> dict[str, Any]:
        return self.classify.answer(output)


if __name__ == "__main__":
    # Its advice: a worker a core on a CPU; ZeroMQ as the queue above 100 requests a second.
    server = litserve.LitServer(
        Chips(), accelerator="cpu", workers_per_device=os.cpu_count(), fast_queue=True
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False
    )
