"""HTTP routes of feedback: add a label, list predictions, download an image."""

from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Path, Query
from starlette.responses import Response

from service.errors import NotFound
from service.feedback.objects import LISTED
from service.feedback.service import FeedbackService
from service.schemas import (
    CURSOR,
    REQUEST_ID,
    Answered,
    AnsweredObjects,
    FeedbackAnswer,
    FeedbackPage,
    FeedbackRequest,
    ObjectsFeedbackAnswer,
    problems,
)

if TYPE_CHECKING:
    from service.feedback.store import PredictionRow

MOST = 1000  # predictions of one page
NPY = "application/octet-stream"
ERRORS = problems(401, 403, 404, 422, 503, 507)


def add_feedback(app: FastAPI, answers: FeedbackService | None) -> None:
    """Register the routes; without a service they answer that feedback is off."""

    def need() -> FeedbackService:
        if answers is None:
            raise NotFound("feedback is off here: SERVICE_FEEDBACK names its database")
        return answers

    @app.post("/feedback", tags=["feedback"], responses={**ERRORS, **problems(400, 408, 413)})
    async def give(request: FeedbackRequest) -> FeedbackAnswer | ObjectsFeedbackAnswer:
        """Label a prediction. The same label again changes nothing; another label replaces it."""
        if request.label is not None:
            given = await need().add_label(request.request_id, request.label)
            return FeedbackAnswer(
                request_id=request.request_id,
                label=request.label,
                predicted=given.predicted,
                correct=given.correct,
                answers=given.answers,
            )
        objects = [(item.class_, item.box) for item in request.objects or ()]
        given = await need().add_label(request.request_id, objects)
        assert given.verdict is not None
        return ObjectsFeedbackAnswer(
            request_id=request.request_id,
            **given.verdict._asdict(),
            correct=given.correct,
            answers=given.answers,
        )

    @app.get("/feedback", tags=["feedback"], responses=ERRORS)
    async def answered(
        after: Annotated[
            str | None, Query(pattern=CURSOR, description="`next` of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MOST, description="At most so many.")] = 100,
        labelled: Annotated[
            bool | None, Query(description="Only predictions with a label, or only those without.")
        ] = None,
    ) -> FeedbackPage:
        """List predictions with their labels, in the order of their arrival."""
        number = int(after, 16) if after else 0
        rows = await need().list_predictions(number, limit + 1, labelled)
        more = len(rows) > limit or sum(row.listed for row in rows) >= LISTED
        rows = rows[:limit]
        return FeedbackPage(
            answers=[_answered(row) for row in rows],
            next=f"{rows[-1].number:016x}" if more else None,
        )

    @app.get(
        "/feedback/{id}.npy",
        tags=["feedback"],
        response_class=Response,
        responses={200: {"content": {NPY: {}}}, **ERRORS},
    )
    async def image(id: Annotated[str, Path(pattern=REQUEST_ID)]) -> Response:
        """Download the stored image of a prediction as NPY, (bands, height, width)."""
        return Response(await need().read_image(id), media_type=NPY)


def _answered(row: "PredictionRow") -> Answered:
    facts = row._asdict()
    if row.predicted_objects is None:
        return Answered(**{name: facts[name] for name in Answered.model_fields})
    none = dict.fromkeys(("found", "missed", "false"))
    facts |= row.verdict._asdict() if row.verdict else none
    return AnsweredObjects(**{name: facts[name] for name in AnsweredObjects.model_fields})
