"""Sentinel-2 by area and dates, from a STAC catalogue, with a class for every pixel.

Each scene is fetched band by band, checked, cut to the area, brought to offset 0 and written as one
image with the catalogue's item beside it. The bands of one scene at a time are on the disk; what is
finished is not fetched again. docs/sentinel2.md has what is trusted, and why.
"""

from pipeline.sources.sentinel2.source import Sentinel2

__all__ = ["Sentinel2"]
