"""Sources of data, one a file or folder; a new one is a class and a row in `SOURCES`.

A source describes its data set and yields its files. It writes nothing: `pipeline.ingest` checks
the files, replaces `data/` in one step and updates `data.dvc`.
"""

from pipeline.sources.coco import Coco
from pipeline.sources.eurosat import EuroSAT
from pipeline.sources.feedback import Feedback
from pipeline.sources.folder import Folder
from pipeline.sources.scenes import Scenes
from pipeline.sources.sentinel2 import Sentinel2
from pipeline.sources.source import AnyFile, File, FinishedFile, Handling, RefusedFile, Source

from pipeline.sources.synthetic import Synthetic
from pipeline.sources.synthetic_harbour import SyntheticHarbour
from pipeline.sources.synthetic_scenes import SyntheticScenes

__all__ = ["SOURCES", "AnyFile", "File", "FinishedFile", "Handling", "RefusedFile", "Source"]

SOURCES: dict[str, type[Source]] = {
    "synthetic": Synthetic,
    "synthetic-scenes": SyntheticScenes,
    "synthetic-harbour": SyntheticHarbour,
    "folder": Folder,
    "scenes": Scenes,
    "coco": Coco,
    "eurosat": EuroSAT,
    "feedback": Feedback,
    "sentinel2": Sentinel2,
}
