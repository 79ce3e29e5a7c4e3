"""Traffic by rules: who answers a prediction that names no model. A room that can be deleted.

| file | what |
|---|---|
| rules | `routing.yaml`, read and checked |
| policy | shares from rewards, the choice for a caller, guard rails: pure, and simulated |
| router | what holds now: the file, the models of the arms, rewards, what was cut off |
| shadow | the copy of a request that another model answers, unseen |
| room | routes, metrics, and the wiring of all that to the service |

Outside it `service/container`, `service/app` and `service/stream/serve` know of it,
`service/auth/roles` has its routes and `service/settings` the name of its file;
`service/prediction` says what it promises.
"""
