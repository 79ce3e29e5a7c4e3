"""Maps whole scenes: a GeoTIFF in, a georeferenced map out. A room that can be deleted.

| file | what |
|---|---|
| command | `python -m service map` |
| make | the use case: `make_map`, what HTTP would call in a child process |
| scene, radiometry | open and check a scene, read it once; which digital numbers it holds |
| grid, pool, worker | strips and tiles; processes that run the graph |
| work | finished strips, in a file that survives a kill |
| likeness | how the scene compares with what the model was trained on |
| cog, item | the map as a cloud-optimized GeoTIFF, and its STAC item |
| jobs | the queue by HTTP: folders on disk that survive the service |
| jobs_http, jobs_upload | the routes `/maps` and `/jobs`; takes a scene to disk |
| jobs_run, jobs_child | runs the queue in one worker; the process that makes one map |
| pictures | scene and map as PNG, for the page |
| room | the wiring of all that to the service |

Outside it `service/__main__` and `service/app` know of it, `service/auth/roles` has its routes and
`service/settings` its limits (`maps_*`). It needs rasterio: the extra `maps`.
"""
