"""Retention: deletes old predictions with their labels and images, and what exceeds the limits."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, exists, func, select

from service.feedback.database import Database
from service.feedback.tables import Kind, feedback, images, micro, predictions

AT_ONCE = 2000  # rows that one transaction deletes: other writers wait only briefly
# Of all predictions, deleted by age in one run: a wrong clock must not empty the store at once.
EXPIRED_SHARE = 0.01
EXPIRED_LEAST = 10


class Kept(NamedTuple):
    """Stored images."""

    counts: dict[Kind, int]
    bytes: int


class Retention:
    """Counts images, deletes predictions and images."""

    def __init__(self, database: Database) -> None:
        """Use a database."""
        self._database = database

    def kept(self) -> Kept:
        """Count the stored images."""
        query = select(images.c.kind, func.count(), func.sum(images.c.size)).group_by(images.c.kind)
        counts, size = dict.fromkeys(Kind, 0), 0
        with self._database.read() as connection:
            for kind, count, total in connection.execute(query):
                counts[Kind(kind)] = count
                size += int(total)
        return Kept(counts, size)

    def prune(self, before: datetime, rows: int, image_bytes: int) -> int:
        """Delete some predictions made before a time, then what exceeds the limits.

        Returns:
            how many predictions made before that time are left for the next runs.
        """
        old = predictions.c.predicted_at < micro(before)
        with self._database.read() as connection:
            total = connection.scalar(select(func.count()).select_from(predictions)) or 0
            expired = connection.scalar(select(func.count()).where(old)) or 0
        most = max(EXPIRED_LEAST, int(EXPIRED_SHARE * total))
        deleted = self._delete(old, min(expired, most))
        excess = total - deleted - rows
        answered = exists().where(feedback.c.number == predictions.c.number)
        for condition in (~answered, answered):
            if excess > 0:
                excess -= self._delete(condition, excess)
        self.prune_images(image_bytes)
        return max(0, expired - deleted)

    def prune_images(self, most: int) -> None:
        """Delete images down to `most` bytes: in the order of Kind, the oldest first."""
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

    def _delete(self, condition: ColumnElement[bool], most: int) -> int:
        """Delete up to `most` predictions, the oldest first; return how many it deleted."""
        deleted = 0
        while deleted < most:
            limit = min(AT_ONCE, most - deleted)
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
