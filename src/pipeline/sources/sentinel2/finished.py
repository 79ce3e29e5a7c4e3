"""An image that is finished, in the cache: a run that is interrupted does not fetch it again."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Finished(NamedTuple):
    """An image, its item and its clouds; the item is written last."""

    folder: Path
    name: str

    @property
    def image(self) -> Path:
        """The GeoTIFF."""
        return self.folder / f"{self.name}.tif"

    @property
    def labels(self) -> Path:
        """Its label map, which is made anew each time."""
        return self.folder / f"{self.name}.labels.tif"

    @property
    def item(self) -> Path:
        """The STAC item of the image."""
        return self.folder / f"{self.name}.json"

    @property
    def _clouds(self) -> Path:
        return self.folder / f"{self.name}.npz"

    def is_whole(self) -> bool:
        """Whether everything is there, and the image is the one of the item."""
        try:
            document = json.loads(self.item.read_text(encoding="utf-8"))
            with self.image.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            return bool(document["assets"]["image"]["file:checksum"] == f"1220{digest}")
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def clouded(self) -> float | None:
        """Share of the area under clouds."""
        properties = json.loads(self.item.read_text(encoding="utf-8"))["properties"]
        share: float | None = properties["conveyor:clouds"]
        return share

    def write(self, item: bytes, clouds: npt.NDArray[np.bool_] | None) -> None:
        """Write what belongs to the image."""
        self._clouds.unlink(missing_ok=True)
        if clouds is not None:
            np.savez_compressed(self._clouds, clouds=clouds)
        self.item.write_bytes(item)

    def clouds(self) -> npt.NDArray[np.bool_] | None:
        """The pixels under clouds; None where the catalogue has no scene classification."""
        if not self._clouds.exists():
            return None
        with np.load(self._clouds) as arrays:
            mask: npt.NDArray[np.bool_] = arrays["clouds"]
            return mask
