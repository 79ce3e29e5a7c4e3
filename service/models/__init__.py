"""Models by name, version and stage, beside the one that serves. A room that can be deleted.

| file | what |
|---|---|
| reference | which version a request names, and the nearest names of one that is not there |
| catalogue | the models that are loaded: fetched once, kept within limits, the warm ones at hand |
| tensors | tensors of the Open Inference Protocol: JSON and bytes to arrays and back |
| oip | its routes below `/v2`, and `POST /models/{name}/predict` |
| room | the wiring of all that to the service |

Outside it `service/container` and `service/app` know of it, `service/auth/roles` has its routes and
`service/settings` its limits (`models_*`, `warm`).
"""
