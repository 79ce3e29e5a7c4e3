"""Every operation of the OpenAPI document, with what it allows and what it does not.

Schemathesis reads the document and sends what follows from it to the running service: the edges of
every schema, then hundreds of random requests, valid ones and others. Each answer has to be what
the document says, and none may be an error of the server. Nothing is left to chance: the same
requests go out in every run.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.python._constants.orchestrator import make_constants_value_source

from contracts.tags import PATTERN, match_tag
from service.app import create_app
from service.auth.roles import ROLES
from service.container import Container
from service.schemas import Problem
from service.settings import read_settings
from tests.make.images import CHIPS, PICTURES
from tests.make.repositories import Project
from tests.make.server import DEPLOY_KEY, Server, serving
from tests.make.wire import SECRETS

PROBLEM = "application/problem+json"
UNKNOWN = "x-schemathesis-unknown-property"
ACCEPTS = "positive_data_acceptance"
# No schema says what an image is, or which metrics the experiments of a repository have.
MAY_REFUSE = ["2xx", "400", "413", "415", "422"]
CONFIG = {
    "suppress-health-check": ["all"],  # the machine may be busy
    "headers": {"authorization": f"Bearer {DEPLOY_KEY}"},
    "generation": {"deterministic": True, "max-examples": 40},
    "operations": [
        {
            "include-path": ["/predict", "/preview"],
            "checks": {ACCEPTS: {"expected-statuses": [*MAY_REFUSE, "403", "404"]}},
        },
        {
            # No schema says which models a registry has, or which tensors they take.
            "include-path-regex": "/(v2/)?models/.*",
            "checks": {ACCEPTS: {"expected-statuses": [*MAY_REFUSE, "403", "404"]}},
        },
        {
            # A model that classifies draws no map.
            "include-path": ["/maps"],
            "checks": {ACCEPTS: {"expected-statuses": [*MAY_REFUSE, "409"]}},
        },
        {
            "include-path-regex": "/get_experiments?_metas",
            "checks": {ACCEPTS: {"expected-statuses": MAY_REFUSE}},
        },
        {
            # A tag that could be one is looked up in Git, by a process of its own.
            "include-path": ["/replace_ml_model"],
            "generation": {"max-examples": 25},
        },
    ],
}


UNDOCUMENTED = {
    *("GET /", "GET /web/{file}", "GET /docs", "GET /openapi.json"),
    *("GET /routing", "PUT /routing"),  # no routing.yaml is here
    "GET /get_experiment_metas",  # an older name
}
OPERATIONS = {f"{method} {path}" for method, path in ROLES} - UNDOCUMENTED


@st.composite
def images(draw: st.DrawFn) -> bytes:
    """An image that is taken, whole or with some bytes changed."""
    content = bytearray(draw(st.sampled_from([*CHIPS.values(), *PICTURES.values()])))
    for _ in range(draw(st.integers(0, 3))):
        content[draw(st.integers(0, min(len(content), 400) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


schemathesis.openapi.media_type(
    "image/tiff", images(), aliases=["image/png", "image/jpeg", "application/octet-stream"]
)


def describe() -> dict[str, Any]:
    """The OpenAPI document; making it starts nothing."""
    container = Container()
    container.settings.override(read_settings(state=Path("unused")))
    app: Any = create_app(container).app
    document: dict[str, Any] = app.openapi()
    return document


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return describe()


@pytest.fixture(scope="module")
def fuzz(document: dict[str, Any]) -> Callable[..., Callable[..., None]]:
    """The requests of an operation, as a test; `parametrize` makes them while pytest collects,
    which every worker of the tests does, for seconds each."""
    load_all_checks()
    api = schemathesis.openapi.from_dict(document, config=SchemathesisConfig.from_dict(CONFIG))
    found: Any = api.get_all_operations()
    operations = {it.label: it for it in (result.ok() for result in found)}
    constants = make_constants_value_source(api)

    def build(label: str, check: Callable[..., None]) -> Callable[..., None]:
        return build_operation_test(
            config=api.config,
            operation=operations[label],
            test_func=check,
            given_kwargs={},
            feedback=FeedbackSources(constants_value_source=constants),
        )

    return build


@pytest.fixture(scope="module")
def fuzzed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real service, beside a repository with one experiment that is no bundle."""
    folder = tmp_path_factory.mktemp("fuzz")
    project = Project(folder / "project")
    project.train(b"graph")
    project.tag("experiment/1-1")
    with serving(bundle, folder, repository=project.folder) as running:
        workers = running.workers()
        yield running
        assert running.workers() == workers
        assert [line for line in running.lines() if line.get("level") == "error"] == []


@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_an_answer_conforms_to_the_openapi_document(
    label: str, fuzz: Callable[..., Callable[..., None]], fuzzed: Server
) -> None:
    fuzz(label, conforms)(fuzzed=fuzzed)


def conforms(case: "schemathesis.Case[Any]", fuzzed: Server) -> None:
    response = case.call(base_url=fuzzed.url)
    if UNKNOWN not in (case.query or {}):  # servers pass over parameters that they do not know
        case.validate_response(response)
    assert response.status_code < 500
    said = response.content.decode("latin-1")
    assert not [secret for secret in SECRETS if secret in said]
    if response.status_code >= 400:  # 405 too, which no operation can document
        assert response.headers["content-type"] == [PROBLEM]
        Problem.model_validate_json(response.content)


def test_the_document_is_the_one_that_is_served(fuzzed: Server, document: dict[str, Any]) -> None:
    assert httpx.get(fuzzed.url + "/openapi.json").json() == document


def test_every_operation_is_documented(document: dict[str, Any]) -> None:
    paths = document["paths"].items()
    found = {f"{method.upper()} {path}" for path, methods in paths for method in methods}
    assert found == OPERATIONS


def test_every_error_is_documented_as_a_problem(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            errors = {
                status: answer["content"]
                for status, answer in operation["responses"].items()
                if status >= "400"
            }
            schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
            assert all(content == {PROBLEM: schema} for content in errors.values()), (method, path)
            if ROLES[method.upper(), path] is not None:  # 503: the issuer of a token is not there
                assert {"401", "403", "503"} <= set(errors), (method, path)


@settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.from_regex(PATTERN, fullmatch=True))
def test_a_tag_of_the_documented_pattern_is_one_of_the_grammar(tag: str) -> None:
    assert match_tag(tag)
