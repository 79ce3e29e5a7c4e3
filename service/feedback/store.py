"""Stores predictions and their labels in a database; `tables.py` has the schema.

Everything here blocks: it runs in threads. SQLAlchemy writes the same SQL for both databases, but
each has its own dialect of `INSERT ... ON CONFLICT`.
"""

import json
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, Float, Select, Table, case, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from service.errors import Unprocessable
from service.feedback.database import Database
from service.feedback.journal import ModelRecord, PredictionRecord
from service.feedback.objects import LISTED, Box, FoundObjects, Verdict, check, compare, no_class
from service.feedback.tables import MICROSECONDS, Kind, feedback, images, micro, models, predictions

FASTEST = 1  # level of zlib: chips are noisy, a higher level saves little

Label = str | Sequence[tuple[str, Box]]
"""What people say of a prediction: its class, or all objects that are there, by class and box."""


class LabelResult(NamedTuple):
    """Result of adding a label."""

    predicted: str
    correct: bool
    answers: int
    delay: float | None
    """Seconds from the prediction to its first label; None for later labels."""
    verdict: Verdict | None = None
    """Of a model that finds objects."""


class PredictionRow(NamedTuple):
    """One prediction, with its current label."""

    number: int
    request_id: str
    label: str | None
    predicted: str
    probability: float
    tag: str
    sha256: str
    predicted_at: datetime
    answered_at: datetime | None
    image: bool
    rule: str | None = None
    propensity: float | None = None
    height: int | None = None
    width: int | None = None
    predicted_objects: list[dict[str, Any]] | None = None
    """As the answer had them; None where it was one class, as the other fields of objects."""
    objects: list[dict[str, Any]] | None = None
    """That people say are there."""
    verdict: Verdict | None = None

    @property
    def listed(self) -> int:
        """How many objects it lists."""
        return len(self.predicted_objects or ()) + len(self.objects or ())


class RightOrWrong(NamedTuple):
    """Labels of the predictions of a model."""

    tag: str
    right: int
    wrong: int


class ConfusionCell(NamedTuple):
    """How often a model predicted one class where people labelled another or the same."""

    tag: str
    predicted: str
    label: str
    times: int


class ObjectCount(NamedTuple):
    """Labels of the predictions of a model that finds objects, and the sums of their verdicts."""

    tag: str
    labels: int
    found: int
    missed: int
    false: int


class Store:
    """Stores predictions and labels, and lists them."""

    def __init__(self, database: Database, keep_below: float = 0.0) -> None:
        """Use a database; a prediction less sure than `keep_below` is uncertain."""
        self.database = database
        self._keep_below = keep_below

    def save_predictions(self, found: Sequence[PredictionRecord]) -> None:
        """Save predictions; the first of several with one request id wins.

        Raises:
            FeedbackUnavailable, StorageFull: try again later.
            IntegrityError, DataError: the database will never accept them.
        """
        first = {seen.request_id: seen for seen in reversed(found)}
        order = [first[name] for name in dict.fromkeys(seen.request_id for seen in found)]
        packed = {seen.request_id: _pack(seen) for seen in order if seen.chip}
        with self.database.write(many=True) as connection:
            ids: dict[int, int] = {}
            for seen in order:
                if id(seen.model) not in ids:
                    ids[id(seen.model)] = _model_id(connection, seen.model)
            rows = [_row(seen, ids[id(seen.model)]) for seen in order]
            _insert(connection, [row for row in rows if row["request_id"] not in packed])
            with_image = [row for row in rows if row["request_id"] in packed]
            if new := _insert_new(connection, with_image):
                connection.execute(
                    insert(images),
                    [
                        {
                            "number": new[name],
                            "kind": self._kind(first[name].probability),
                            "size": len(packed[name]),
                            "content": packed[name],
                        }
                        for name in new
                    ],
                )

    def add_label(self, request_id: str, label: Label, moment: datetime) -> LabelResult | None:
        """Store a label, durable when it returns; None if no prediction has this id.

        The same label again changes nothing; another label replaces it.

        Raises:
            Unprocessable: the label is not a class, or not objects, of the model that predicted.
            FeedbackUnavailable, StorageFull: try again later.
        """
        try:
            with self.database.write() as connection:
                return self._add_label(connection, request_id, label, micro(moment))
        except IntegrityError:  # retention has just deleted the prediction
            return None

    def _add_label(
        self, connection: Connection, request_id: str, label: Label, now: int
    ) -> LabelResult | None:
        found = connection.execute(
            select(
                predictions.c.number,
                predictions.c.predicted_at,
                predictions.c.predicted,
                predictions.c.probability,
                predictions.c.objects,
                models.c.classes,
            )
            .join(models)
            .where(predictions.c.request_id == request_id)
        ).one_or_none()
        if found is None:
            return None
        values, verdict = _judge(label, json.loads(found.classes), found.objects)
        given = _insert_of(connection, feedback).values(
            number=found.number, **values, answered_at=now, answers=1
        )
        key = "label" if verdict is None else "objects"
        given = given.on_conflict_do_update(
            index_elements=["number"],
            set_={**values, "answered_at": now, "answers": feedback.c.answers + 1},
            where=feedback.c[key] != values[key],
        )
        answers = connection.scalar(given.returning(feedback.c.answers))
        delay = (now - found.predicted_at) / MICROSECONDS if answers == 1 else None
        if answers is None:  # the same label again
            answers = connection.scalar(
                select(feedback.c.answers).where(feedback.c.number == found.number)
            )
            assert answers is not None
        correct = label == found.predicted if verdict is None else verdict.correct
        kind = self._kind(found.probability, answered=True) if correct else Kind.CORRECTED
        connection.execute(update(images).where(images.c.number == found.number).values(kind=kind))
        return LabelResult(found.predicted, correct, answers, delay, verdict)

    def list_predictions(
        self, after: int, limit: int, labelled: bool | None
    ) -> list[PredictionRow]:
        """List predictions after number `after`, in the order of their arrival.

        Fewer than `limit` where they have LISTED objects.
        """
        query = (
            _LIST.where(predictions.c.number > after).order_by(predictions.c.number).limit(limit)
        )
        if labelled is not None:
            there = feedback.c.number.is_not(None)
            query = query.where(there if labelled else ~there)
        rows: list[PredictionRow] = []
        listed = 0
        with self.database.read() as connection:
            for found in connection.execute(query):
                rows.append(_row_of(*found))
                listed += rows[-1].listed
                if listed >= LISTED:
                    break
        return rows

    def read_image(self, request_id: str) -> bytes | None:
        """Read a stored image as NPY, (bands, height, width)."""
        query = (
            select(images.c.content)
            .join(predictions, predictions.c.number == images.c.number)
            .where(predictions.c.request_id == request_id)
        )
        with self.database.read() as connection:
            content = connection.scalar(query)
        return None if content is None else zlib.decompress(content)

    def count_confusion(self, since: datetime) -> tuple[list[ConfusionCell], dict[str, float]]:
        """Count labels since a time, by prediction; also return the floors of their models."""
        query = (
            select(models.c.tag, predictions.c.predicted, feedback.c.label, func.count())
            .select_from(feedback)
            .join(predictions, predictions.c.number == feedback.c.number)
            .join(models)
            .where(feedback.c.answered_at >= micro(since), feedback.c.label.is_not(None))
            .group_by(models.c.tag, predictions.c.predicted, feedback.c.label)
        )
        floors = select(models.c.tag, models.c.floor).order_by(models.c.id)
        with self.database.read() as connection:
            found = [ConfusionCell(*row) for row in connection.execute(query)]
            known = {tag: floor for tag, floor in connection.execute(floors)}
        tags = {cell.tag for cell in found}
        return found, {tag: known[tag] for tag in tags if known[tag] is not None}

    def count_objects(self, since: datetime) -> list[ObjectCount]:
        """Sum the verdicts of labels since a time, by the tag of the model."""
        sums = [func.sum(feedback.c[name]) for name in Verdict._fields]
        query = (
            select(models.c.tag, func.count(), *sums)
            .select_from(feedback)
            .join(predictions, predictions.c.number == feedback.c.number)
            .join(models)
            .where(feedback.c.answered_at >= micro(since), feedback.c.objects.is_not(None))
            .group_by(models.c.tag)
        )
        with self.database.read() as connection:
            return [ObjectCount(tag, *map(int, row)) for tag, *row in connection.execute(query)]

    def count_rewards(self, rule: str) -> list[RightOrWrong]:
        """Count the labels of predictions that were made by a rule, by the tag of the model.

        Objects count as right by the F1 of their prediction; the sum is rounded.
        """
        query = (
            select(models.c.tag, func.sum(_REWARD, type_=Float), func.count())
            .select_from(feedback)
            .join(predictions, predictions.c.number == feedback.c.number)
            .join(models)
            .where(predictions.c.rule == rule)
            .group_by(models.c.tag)
        )
        with self.database.read() as connection:
            found = connection.execute(query).all()
        rounded = [(tag, round(good), every) for tag, good, every in found]
        return [RightOrWrong(tag, good, every - good) for tag, good, every in rounded]

    def _kind(self, probability: float, answered: bool = False) -> Kind:
        if probability < self._keep_below:
            return Kind.UNCERTAIN
        return Kind.CONFIRMED if answered else Kind.CERTAIN


_MISTAKES = feedback.c.missed + feedback.c.false
_REWARD = case(
    (feedback.c.label == predictions.c.predicted, 1.0),
    (feedback.c.label.is_not(None), 0.0),
    (_MISTAKES == 0, 1.0),  # also where nothing is, and nothing was found
    else_=2.0 * feedback.c.found / (2 * feedback.c.found + _MISTAKES),
)

_LIST: Select[Any] = (
    select(
        predictions.c.number,
        predictions.c.request_id,
        feedback.c.label,
        predictions.c.predicted,
        predictions.c.probability,
        models.c.tag,
        models.c.sha256,
        predictions.c.predicted_at,
        feedback.c.answered_at,
        case((images.c.number.is_not(None), True), else_=False).label("image"),
        predictions.c.rule,
        predictions.c.propensity,
        models.c.classes,
        predictions.c.objects.label("predicted_objects"),
        feedback.c.objects,
        *(feedback.c[name] for name in Verdict._fields),
    )
    .select_from(predictions)
    .join(models)
    .outerjoin(feedback, feedback.c.number == predictions.c.number)
    .outerjoin(images, images.c.number == predictions.c.number)
)


def _insert_of(connection: Connection, table: Table) -> Any:
    postgres = connection.dialect.name == "postgresql"
    return postgresql.insert(table) if postgres else sqlite.insert(table)


def _insert(connection: Connection, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(_insert_of(connection, predictions).on_conflict_do_nothing(), rows)


def _insert_new(connection: Connection, rows: list[dict[str, Any]]) -> dict[str, int]:
    """Insert predictions; return the numbers of the new ones by request id."""
    if not rows:
        return {}
    statement = _insert_of(connection, predictions).on_conflict_do_nothing()
    statement = statement.returning(predictions.c.request_id, predictions.c.number)
    return {name: number for name, number in connection.execute(statement, rows)}


def _model_id(connection: Connection, model: ModelRecord) -> int:
    digest = sha256(model.to_json()).hexdigest()
    row = {
        "digest": digest,
        "tag": model.tag,
        "sha256": model.sha256,
        "classes": json.dumps(model.classes),
        "floor": model.floor,
        "dtype": model.dtype,
        "shape": json.dumps(model.shape),
    }
    query = select(models.c.id).where(models.c.digest == digest)
    if (found := connection.scalar(query)) is None:
        connection.execute(_insert_of(connection, models).on_conflict_do_nothing(), row)
        found = connection.scalar(query)
    assert found is not None
    return int(found)


def _row(seen: PredictionRecord, model: int) -> dict[str, Any]:
    return {
        "request_id": seen.request_id,
        "predicted_at": seen.moment,
        "model": model,
        "predicted": seen.model.classes[seen.best],
        # SQLite has no NaN; 0 is the least sure that a model can be.
        "probability": seen.probability if isfinite(seen.probability) else 0.0,
        "rule": seen.routed.rule if seen.routed else None,
        "propensity": seen.routed.propensity if seen.routed else None,
        "objects": seen.found.to_json() if seen.found else None,
    }


def _pack(seen: PredictionRecord) -> bytes:
    shape = seen.model.shape
    if seen.found is not None:  # an image of any size
        shape = (shape[0], seen.found.height, seen.found.width)
    chip = np.frombuffer(seen.chip, seen.model.dtype).reshape(shape)
    content = BytesIO()
    np.save(content, chip, allow_pickle=False)
    return zlib.compress(content.getvalue(), FASTEST)


def _judge(
    label: Label, classes: Sequence[str], answer: str | None
) -> tuple[dict[str, Any], Verdict | None]:
    """The columns of a label, for an answer with these objects or with one class.

    Raises:
        Unprocessable: the label does not fit the model, or is of the other kind.
    """
    if isinstance(label, str):
        if answer is not None:
            raise Unprocessable(
                "label: the model that predicted finds objects, which no class confirms: send all "
                "that are there as `objects`, [] where nothing is"
            )
        if label not in classes:
            raise Unprocessable(f"label: {no_class(label, classes)}")
        return {"label": label}, None
    if answer is None:
        raise Unprocessable(
            "objects: the model that predicted names one class: send the right one as `label`"
        )
    found = FoundObjects.from_json(answer)
    true = check(label, classes, found)
    verdict = compare(found, true)
    return {"objects": json.dumps(true), **verdict._asdict()}, verdict


def _row_of(*found: Any) -> PredictionRow:
    *plain, predicted_at, answered_at, image, rule, propensity = found[:12]
    answered = None if answered_at is None else _time(answered_at)
    more = (_time(predicted_at), answered, image, rule, propensity)
    row = PredictionRow._make((*plain, *more, *[None] * 5))
    classes, predicted, objects, *counts = found[12:]
    if predicted is None:
        return row
    names, seen = json.loads(classes), FoundObjects.from_json(predicted)
    return row._replace(
        height=seen.height,
        width=seen.width,
        predicted_objects=[
            _named(names, index, box) | {"score": score} for index, box, score in seen.objects
        ],
        objects=None if objects is None else [_named(names, *item) for item in json.loads(objects)],
        verdict=None if objects is None else Verdict(*counts),
    )


def _named(names: Sequence[str], index: int, box: Iterable[float]) -> dict[str, Any]:
    return {"class": names[index], "box": tuple(box)}


def _time(micro: int) -> datetime:
    return datetime.fromtimestamp(micro / MICROSECONDS, UTC)
