"""What of the predictions, answers and images is kept, and for how long."""

from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, exists, func, select

from service.feedback.database import Database
from service.feedback.tables import MICROSECONDS, Kind, feedback, images, micro, predictions

AT_ONCE = 2000  # rows that one transaction deletes, so that others need not wait long


class Kept(NamedTuple):
    """The images that are kept."""

    counts: dict[Kind, int]
    bytes: int


class Retention:
    """Counts and deletes."""

    def __init__(self, database: Database) -> None:
        """Use a database."""
        self._database = database

    def kept(self) -> Kept:
        """Count the images that are kept."""
        query = select(images.c.kind, func.count(), func.sum(images.c.size)).group_by(images.c.kind)
        counts, size = dict.fromkeys(Kind, 0), 0
        with self._database.read() as connection:
            for kind, count, total in connection.execute(query):
                counts[Kind(kind)] = count
                size += int(total)
        return Kept(counts, size)

    def newest(self) -> datetime | None:
        """When the newest prediction was made, by the clock of then; None when there is none."""
        with self._database.read() as connection:
            found = connection.scalar(select(func.max(predictions.c.predicted_at)))
        return None if found is None else datetime.fromtimestamp(found / MICROSECONDS, UTC)

    def prune(self, before: datetime, rows: int, image_bytes: int) -> None:
        """Delete what is older, then what is more than so many rows and bytes of images."""
        self._delete(predictions.c.predicted_at < micro(before), None)
        with self._database.read() as connection:
            excess = (connection.scalar(select(func.count()).select_from(predictions)) or 0) - rows
        answered = exists().where(feedback.c.number == predictions.c.number)
        for condition in (~answered, answered):
            if excess > 0:
                excess -= self._delete(condition, excess)
        self.prune_images(image_bytes)

    def prune_images(self, most: int) -> None:
        """Delete images until they have at most so many bytes: see Kind; the oldest first."""
        excess = self.kept().bytes - most
        order = select(images.c.number, images.c.size).order_by(images.c.kind, images.c.number)
        while excess > 0:
            with self._database.write() as connection:
                chosen = []
                for number, size in connection.execute(order.limit(AT_ONCE)):
                    if excess <= 0:
                        break
                    chosen.append(number)
                    excess -= size
                if not chosen:
                    return
                connection.execute(delete(images).where(images.c.number.in_(chosen)))

    def _delete(self, condition: ColumnElement[bool], most: int | None) -> int:
        """Delete predictions, the oldest first, at most so many; how many it were."""
        deleted = 0
        while most is None or deleted < most:
            limit = AT_ONCE if most is None else min(AT_ONCE, most - deleted)
            some = select(predictions.c.number).where(condition)
            some = some.order_by(predictions.c.number).limit(limit)
            with self._database.write() as connection:
                gone = connection.execute(
                    delete(predictions).where(predictions.c.number.in_(some))
                ).rowcount
            deleted += gone
            if gone < limit:
                break
        return deleted
