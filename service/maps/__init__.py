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

Outside it only `service/__main__` knows of it. It needs rasterio: the extra `maps`.
"""
