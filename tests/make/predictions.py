"""Recorded predictions for the feedback store."""

from datetime import UTC, datetime, timedelta

from service.feedback.journal import ModelRecord, PredictionRecord
from service.feedback.objects import FoundObject, FoundObjects
from service.feedback.store import PredictionRow, Store
from tests.make.bundles import CLASSES, make_chip

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SHAPE = (4, 64, 64)
MODEL = ModelRecord("landcover@v1.0.0", "0" * 64, CLASSES, 0.8, "<u2", SHAPE)
FOREST = CLASSES.index("Forest")


def seen(
    name: str,
    best: int = FOREST,
    probability: float = 0.9,
    chip: int | None = None,
    days: float = 0,
    model: ModelRecord = MODEL,
) -> PredictionRecord:
    """A recorded prediction of some days before NOW."""
    moment = round((NOW - timedelta(days=days)).timestamp() * 1_000_000)
    image = b"" if chip is None else make_chip(chip).tobytes()
    return PredictionRecord(name, model, best, probability, moment, image)


SEA = MODEL._replace(tag="harbour@v1.0.0", classes=("ship", "tank"), floor=None)
SHIP = (10.0, 10.0, 20.0, 20.0)
TANK = (30.0, 4.0, 38.0, 12.0)


def found(name: str, model: ModelRecord = SEA, image: bool = False) -> PredictionRecord:
    """A recorded prediction of a ship and a tank in an image of 50 x 40 pixels."""
    objects = (FoundObject(0, SHIP, 0.9), FoundObject(1, TANK, 0.75))
    chip = bytes(4 * 40 * 50 * 2) if image else b""
    record = seen(name, 0, 0.9, model=model)
    return record._replace(chip=chip, found=FoundObjects(40, 50, objects))


def everything(
    store: Store, labelled: bool | None = None, limit: int = 1000
) -> list[PredictionRow]:
    """List all predictions of a store, page by page."""
    found: list[PredictionRow] = []
    while page := store.list_predictions(found[-1].number if found else 0, limit, labelled):
        found += page
    return found


def names(rows: list[PredictionRow]) -> list[str]:
    """Request ids of rows."""
    return [row.request_id for row in rows]
