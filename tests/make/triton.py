"""Run by .venv-checks/bin/python: asks a service what clients of Triton and KServe ask.

Arguments: its address without http://, name and version of a model, a chip as NPY. Prints JSON.
"""

import json
import sys

import numpy as np
import tritonclient.http as triton  # type: ignore[import-not-found]

address, name, version, path = sys.argv[1:]
chip = np.load(path)[None]  # (1, bands, H, W)
client = triton.InferenceServerClient(address, network_timeout=120.0)
found = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "server": client.get_server_metadata(),
}
tensor = triton.InferInput("chips", list(chip.shape), "UINT16")
for binary in (True, False):
    tensor.set_data_from_numpy(chip, binary_data=binary)
    wanted = [
        triton.InferRequestedOutput(it, binary_data=binary) for it in ("probabilities", "class")
    ]
    answer = client.infer(
        name, [tensor], version, outputs=wanted, request_id="mine", query_params={"wait": 60}
    )
    found["bytes" if binary else "json"] = {
        "probabilities": answer.as_numpy("probabilities").tolist(),
        "class": [str(it, "utf-8") if binary else it for it in answer.as_numpy("class").tolist()],
        "version": answer.get_response()["model_version"],
        "id": answer.get_response()["id"],
    }
plain = client.infer(name, [tensor], version)
found["plain"] = plain.as_numpy("probabilities").tolist()
found["model"] = client.get_model_metadata(name, version)
found["model ready"] = client.is_model_ready(name, version)
found["unknown ready"] = client.is_model_ready("boats")
try:
    client.infer("boats", [tensor])
except triton.InferenceServerException as error:
    found["error"] = [error.status(), error.message()]
print(json.dumps(found))
