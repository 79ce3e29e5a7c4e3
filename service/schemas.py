"""The wire contract, shared by HTTP and later by the stream worker."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts import tags
from contracts.masks import Rle

REQUEST_ID = "^[A-Za-z0-9._-]{1,64}$"  # what the gateway takes as one; older predictions have it
CURSOR = "^[0-7][0-9a-f]{15}$"
MOST_OBJECTS = 100  # of an image: as many as a graph gives, and as COCO counts
Coordinate = Annotated[float, Field(allow_inf_nan=False)]


def _not_null(schema: dict[str, Any]) -> None:
    """A field that may be missing may not be null."""
    del schema["default"]
    schema.update(schema.pop("anyOf")[0])


class Wire(BaseModel):
    """Frozen: what was answered does not change afterwards."""

    model_config = ConfigDict(frozen=True)


class Promotion(Wire):
    """A stage that a version holds, and the tag that gave it."""

    stage: str
    tag: str
    by: str | None = Field(description="Name in the tag; null for a tag without one.")
    when: datetime


class Experiment(Wire):
    """One tagged commit: what was trained, on what, and how good it is."""

    tag: str
    kind: Literal["version", "experiment"]
    commit: str
    """Full hash, 40 hexadecimal digits."""
    date: datetime
    """When the commit was authored, with its time zone."""
    summary: str
    """First line of the commit message; never the author."""
    stages: list[str] = []
    """Stages this version holds now, such as `production`."""
    metrics: dict[str, float] = {}
    """reports/metrics.json at the commit."""
    tests: dict[str, int] = {}
    """How many tests of the model ended how, by reports/tests.json: passed, warned, failed, ..."""
    params: dict[str, dict[str, Any]] = {}
    """params.yaml at the commit, by section."""
    data_version: str | None = None
    """md5 that data.dvc names."""
    bundle_digest: str | None = None
    """md5 of model/ in dvc.lock."""
    problem: str | None = None
    """What could not be read at this commit, in a sentence."""
    merge_request: str | None = None
    """`group/project!12` of the commit's message, or `!12` of the experiment with this model."""
    approvals: list[str] = []
    """Who approved or reviewed it, as the commit's message says."""
    promotions: list[Promotion] = []
    """How it came to the stages that it holds now."""


class Listing(Wire):
    """The experiments of a repository, newest first."""

    experiments: tuple[Experiment, ...]
    fresh: bool
    """False when Git could not be looked at just now."""
    detail: str | None = None
    """Why it is not fresh."""
    checked: datetime | None = None
    """When Git was last looked at."""


class Label(Wire):
    """Which model answered."""

    name: str
    tag: str
    sha256: str


class Prediction(Wire):
    """What `/predict` answers, of a model that classifies."""

    class_: str = Field(alias="class", description="The likeliest class.")
    probability: float = Field(description="Its probability, 0 to 1.")
    probabilities: dict[str, float] = Field(description="The probability of every class.")
    request_id: str = Field(
        description="Of this prediction alone, whatever `X-Request-Id` says: for `/feedback`."
    )
    model: Label


class MapPrediction(Wire):
    """What `/predict` answers, of a model that maps: what the chip is covered by."""

    class_: str = Field(alias="class", description="The class with the largest share.")
    confidence: float = Field(description="Mean of the pixels, 0 to 1.")
    shares: dict[str, float] = Field(description="Share of each class of the pixels with data.")
    nodata: float = Field(description="Share of the pixels without data.")
    request_id: str
    model: Label


class FoundObject(Wire):
    """An object in an image."""

    class_: str = Field(alias="class")
    score: float = Field(description="0 to 1.")
    box: tuple[float, float, float, float] = Field(
        description="Left, top, right, bottom in pixels from the upper left corner."
    )


class ObjectPrediction(Wire):
    """What `/predict` answers, of a model that finds objects."""

    objects: list[FoundObject] = Field(description="The surest first; empty where nothing is.")
    counts: dict[str, int] = Field(description="Objects of each class.")
    threshold: float = Field(description="Score from which something is an object.")
    request_id: str
    model: Label


class FoundMask(FoundObject):
    """An object in an image, with its pixels."""

    area: int = Field(description="Of the mask, pixels.")
    mask: Rle = Field(description="Run-length encoding of the whole image, as COCO has it.")


class InstancePrediction(ObjectPrediction):
    """What `/predict` answers, of a model that finds objects with their masks."""

    objects: list[FoundMask] = Field(  # type: ignore[assignment]  # nobody adds to an answer
        description="The surest first; empty where nothing is."
    )


class ModelInfo(Label):
    """A model in full."""

    task: str = Field(description="`classification`, `segmentation`, `detection` or `instances`.")
    data_version: str = Field(description="md5 of the training data, as in data.dvc.")
    git_revision: str = Field(description="The commit that it was trained at.")
    trained: str = Field(description="When, UTC.")
    classes: list[str]
    input: dict[str, Any] = Field(description="What a chip must be: bands, height, width, dtype.")


class ModelRef(Wire):
    """A model by name only."""

    tag: str
    sha256: str


class WorkerInfo(ModelRef):
    """What one worker process serves."""

    pid: int


class SwapProgress(Wire):
    """How far a swap is, or how the last one ended."""

    tag: str
    step: str
    state: Literal["running", "done", "failed"]
    detail: str | None
    started: str


class RoutingRef(Wire):
    """The rules of the traffic, by name; `/routing` has them in full."""

    rule: str | None = Field(description="Rules that hold; null without any.")
    problem: str | None = Field(description="Why the file as it is does not hold.")


class Version(Wire):
    """What `/version` answers: what this replica really serves, and what it should."""

    model: ModelInfo | None
    previous: ModelRef | None
    wanted: ModelRef | None
    workers: list[WorkerInfo]
    swap: SwapProgress | None
    routing: RoutingRef | None = Field(None, description="Null without SERVICE_ROUTING.")


class SwapRequest(Wire):
    """Body of `/replace_ml_model`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tag: str = Field(
        max_length=tags.LONGEST,
        description="A version, stage or experiment tag of the repository.",
        examples=["landcover@v1.2.0"],
        # Not `pattern`: the refusal of tags.py says more than that a pattern does not match.
        json_schema_extra={"pattern": tags.PATTERN},
    )


class SwapAnswer(Wire):
    """What serves after a swap."""

    model: ModelInfo
    previous: ModelRef | None
    workers: list[WorkerInfo]
    seconds: float


class Sample(Wire):
    """A sample image that the bundle carries, with the class that it has been given."""

    index: int
    answer: str


class Problem(Wire):
    """An error (RFC 9457): what is wrong, with which value, and the cure."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str = Field(description="The id of the request.")
    step: str | None = Field(None, description="The step of a swap that failed.")


class Monitoring(Wire):
    """What this replica has seen of a model."""

    requests: int = Field(description="Predictions since the service started.")
    mean_confidence: float | None
    drift: float | None = Field(
        description="Largest distance of the window over its threshold: above 1 it has drifted."
    )
    accuracy: float | None = Field(description="Over the labels of the last 7 days.")
    f1: float | None = Field(None, description="The same, of a model that finds objects.")
    labels: int = Field(description="Labels of the last 7 days.")


class ServingExperiment(Experiment):
    """An experiment, and whether it is what serves here."""

    serving: bool
    state: Literal["serving", "loaded", "cached", "absent"] = Field(
        description="Here: answers by default; is loaded for requests that name it, by a worker at "
        "least; lies on the disk; is in the DVC remote alone."
    )
    monitoring: Monitoring | None = Field(description="Null for one that has not predicted here.")


class Experiments(Listing):
    """What `/get_experiments_metas` answers."""

    experiments: tuple[ServingExperiment, ...]
    total: int = Field(description="How many there are with these filters, on all pages.")


class Link(Wire):
    """Where something is."""

    rel: str
    href: str
    type: str


class MapJob(Wire):
    """A job that makes a map: `statusInfo` of OGC API Processes, and what is ours."""

    jobID: str
    type: Literal["process"]
    processID: Literal["map"]
    status: Literal["accepted", "running", "successful", "failed", "dismissed"]
    message: str | None = Field(description="Why it failed.")
    created: str
    started: str | None
    finished: str | None
    updated: str
    progress: int = Field(description="Percent.")
    tiles_done: int
    tiles: int
    model: Label = Field(description="It makes the map, whatever serves meanwhile.")
    height: int
    width: int
    problem: dict[str, Any] | None = Field(description="`status` and `detail` of what failed.")
    made: dict[str, Any] | None = Field(
        description="`warnings`, `square_kilometres` of each class, and mean `confidence`."
    )
    links: list[Link]


class TrueObject(Wire):
    """An object that is there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_: str = Field(alias="class", max_length=1024, description="One of the model's.")
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate] = Field(
        description="Left, top, right, bottom in pixels from the upper left corner."
    )


class FeedbackRequest(Wire):
    """Body of `POST /feedback`: one of `label` and `objects`, as the model answers."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"oneOf": [{"required": ["label"]}, {"required": ["objects"]}]},
    )

    request_id: str = Field(pattern=REQUEST_ID, description="As `/predict` answered it.")
    label: str | None = Field(
        None,
        max_length=1024,
        description="The right class, one of the model's.",
        examples=["Forest"],
        json_schema_extra=_not_null,
    )
    objects: list[TrueObject] | None = Field(
        None,
        max_length=MOST_OBJECTS,
        description="Of a model that finds objects: all that are there, [] where nothing is.",
        json_schema_extra=_not_null,
    )

    @model_validator(mode="after")
    def _has_one_label(self) -> "FeedbackRequest":
        given = self.model_fields_set & {"label", "objects"}
        if len(given) != 1 or (self.label is None and self.objects is None):
            raise ValueError(
                "give one of `label`, the right class, and `objects`, all that are there"
            )
        return self


class FeedbackAnswer(Wire):
    """What `POST /feedback` answers."""

    request_id: str
    label: str
    predicted: str
    correct: bool
    answers: int = Field(description="1, and one more for each time that it was corrected.")


class ObjectsFeedbackAnswer(Wire):
    """What `POST /feedback` answers, of a model that finds objects."""

    request_id: str
    found: int = Field(description="Objects that a box of their class overlaps by half or more.")
    missed: int = Field(description="Objects that none does.")
    false: int = Field(description="Boxes of nothing.")
    correct: bool = Field(description="Nothing is missed and nothing false.")
    answers: int = Field(description="1, and one more for each time that it was corrected.")


class Answered(Wire):
    """One prediction, with the answer that stands."""

    request_id: str
    label: str | None = Field(description="The right class; null without an answer.")
    predicted: str
    probability: float
    tag: str
    sha256: str
    predicted_at: datetime
    answered_at: datetime | None
    image: bool = Field(description="Whether `/feedback/{id}.npy` has it.")
    rule: str | None = Field(
        None, description="Rules of the traffic that chose the model, if they did."
    )
    propensity: float | None = Field(None, description="How likely they were to choose it.")


class AnsweredObjects(Answered):
    """One prediction of objects, with the answer that stands; `label` is null."""

    predicted: str = Field(description="Class of the surest box, also of one below the threshold.")
    probability: float = Field(description="Score of that box.")
    height: int = Field(description="Of the image, pixels.")
    width: int
    predicted_objects: list[FoundObject]
    objects: list[TrueObject] | None = Field(description="That are there; null without an answer.")
    found: int | None = Field(description="As `POST /feedback` answered; null without an answer.")
    missed: int | None
    false: int | None


class FeedbackPage(Wire):
    """What `GET /feedback` answers."""

    answers: list[AnsweredObjects | Answered]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Errors of a route, for the OpenAPI document."""
    return {code: {"model": Problem} for code in codes}
