"""What a reference names, and what an error proposes instead."""

from datetime import UTC, datetime
from typing import Any

import pytest

from service.errors import NotFound, Unprocessable
from service.models.reference import Named
from service.schemas import Experiment

NOW = datetime(2026, 11, 29, tzinfo=UTC)


def entry(tag: str, *stages: str) -> Experiment:
    kind: Any = "experiment" if tag.startswith("experiment/") else "version"
    return Experiment(tag=tag, kind=kind, commit="c" * 40, date=NOW, summary="", stages=[*stages])


NAMED = Named(
    [
        entry("landcover@v1.9.0", "production"),
        entry("landcover@v1.10.0", "staging"),
        entry("landcover@v1.10.1", "staging"),  # on the same commit
        entry("ships@v2.0.0"),
        entry("ships@v10.0.0"),
        entry("experiment/12-345", "production"),
    ]
)


@pytest.mark.parametrize(
    ("reference", "tag"),
    [
        ("landcover@v1.9.0", "landcover@v1.9.0"),
        ("landcover#production", "landcover@v1.9.0"),
        ("landcover#staging", "landcover@v1.10.1"),
        ("landcover", "landcover@v1.9.0"),
        ("ships", "ships@v10.0.0"),
        ("experiment/12-345", "experiment/12-345"),
    ],
)
def test_a_reference_names_one_version(reference: str, tag: str) -> None:
    assert NAMED.find(reference).tag == tag


@pytest.mark.parametrize(
    ("reference", "near"),
    [
        ("landcover@v1.9.9", "landcover@v1.9.0"),
        ("landcover#prod", "landcover#production"),
        ("landcovr", "landcover"),
        ("ships#staging", "ships@v"),
        ("experiment/1-1", "ships"),
    ],
)
def test_what_is_not_there_is_answered_with_the_nearest_names(reference: str, near: str) -> None:
    with pytest.raises(
        NotFound, match=f"^model: {reference} is not in the registry; near it: "
    ) as e:
        NAMED.find(reference)
    assert near in e.value.detail


def test_an_empty_registry_says_so() -> None:
    with pytest.raises(NotFound, match="not in the registry, which is empty"):
        Named([]).find("landcover")


@pytest.mark.parametrize(
    "reference",
    [
        *("", "Landcover", "landcover@1.0.0", "landcover@v1", "landcover@v01.0.0", "landcover#"),
        *(
            "landcover@v1.0.0!",
            "../landcover",
            "$(id)",
            "é",
            "landcover ",
            "landcover\n",
            "x" * 200,
        ),
        *("experiment/1", "landcover@v1.0.0@v1.0.0", "landcover#staging#1", "{name}"),
    ],
)
def test_a_text_that_is_no_reference_is_refused_with_the_forms(reference: str) -> None:
    with pytest.raises(Unprocessable, match="^model: ") as error:
        NAMED.find(reference)
    assert len(error.value.detail) < 300
