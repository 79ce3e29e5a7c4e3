"""The grammar of the registry's tags: what it reads, and the many things that it does not."""

import re

import pytest

from delivery.errors import TagError
from delivery.tags import (
    STAGES,
    Assignment,
    Version,
    experiment_tag,
    parse_assignment,
    parse_stage,
    parse_version,
)
from tests.make.injection_strings import HOSTILE

VERSIONS = {
    "landcover@v1.2.0": Version("landcover", (1, 2, 0)),
    "landcover@v0.0.0": Version("landcover", (0, 0, 0)),
    "land-cover2@v10.20.30": Version("land-cover2", (10, 20, 30)),
}
ASSIGNMENTS = {
    "landcover#staging#3": Assignment("landcover", "staging", 3),
    "landcover#production#12": Assignment("landcover", "production", 12),
    "landcover#production": Assignment("landcover", "production", 0),
}
BAD_VERSIONS = [
    "landcover",
    "landcover@1.2.0",
    "landcover@v1.2",
    "landcover@v01.2.0",
    "landcover@v1.2.0-rc.1",
    "landcover@v1.2.0!",
    "landcover@v1.2.0#3",
    "landcover@latest",
    "Landcover@v1.2.0",
    "-x@v1.0.0",
    "a/b@v1.0.0",
    "landcover@v1.2.0^{commit}",
    "landcover@v1.2.0:dvc.lock",
    "landcover@v9999999999.0.0",
    "landcover@v1.2.\N{ARABIC-INDIC DIGIT THREE}",
    "l\N{CYRILLIC SMALL LETTER A}ndcover@v1.0.0",
]
BAD_ASSIGNMENTS = [
    "landcover#",
    "#staging",
    "landcover#staging#",
    "landcover#staging#0",
    "landcover#staging#03",
    "landcover#staging#x",
    "landcover#staging!#5",
    "landcover#staging#3#4",
    "landcover@v1.2.0#staging#3",
    "land/cover#staging#3",
]


@pytest.mark.parametrize("text", VERSIONS)
def test_a_version_is_read_and_written_back(text: str) -> None:
    version = parse_version(text)
    assert version == VERSIONS[text]
    assert version.tag == text
    assert version.text == text.partition("@")[2]
    assert re.fullmatch(r"[-._a-zA-Z0-9]+", version.release)


@pytest.mark.parametrize("text", ["landcover@v1.2.0", "v1.2.0", "1.2.0"])
def test_a_number_alone_means_the_version_of_the_model_in_question(text: str) -> None:
    assert parse_version(text, "landcover") == Version("landcover", (1, 2, 0))


@pytest.mark.parametrize("text", ["v1.2.0", "1.2.0"])
def test_a_number_alone_means_nothing_where_no_model_is_in_question(text: str) -> None:
    with pytest.raises(TagError, match="version"):
        parse_version(text)


def test_versions_are_ordered_by_number_not_by_text() -> None:
    texts = ["landcover@v10.0.0", "landcover@v2.0.0", "landcover@v1.10.0", "landcover@v1.9.0"]
    assert [version.tag for version in sorted(map(parse_version, texts))] == texts[::-1]


@pytest.mark.parametrize("text", ASSIGNMENTS)
def test_an_assignment_is_read_and_written_back(text: str) -> None:
    assert parse_assignment(text) == ASSIGNMENTS[text]
    assert parse_assignment(text).tag == text


@pytest.mark.parametrize("text", [*BAD_VERSIONS, *HOSTILE, *ASSIGNMENTS], ids=ascii)
def test_what_is_no_version_is_refused_with_field_value_and_cure(text: str) -> None:
    with pytest.raises(TagError) as refused:
        parse_version(text)
    _reads_well(str(refused.value), "version", text, "landcover@v1.2.0")
    with pytest.raises(TagError):
        parse_version(text, "landcover")


@pytest.mark.parametrize("text", [*BAD_ASSIGNMENTS, *HOSTILE, *VERSIONS], ids=ascii)
def test_what_is_no_assignment_is_refused_with_field_value_and_cure(text: str) -> None:
    with pytest.raises(TagError) as refused:
        parse_assignment(text)
    _reads_well(str(refused.value), "tag", text, "landcover#staging#3")


def test_the_stages_are_known_and_stand_in_their_order() -> None:
    assert STAGES == ("staging", "production")
    assert [parse_stage(stage) for stage in STAGES] == list(STAGES)


@pytest.mark.parametrize("text", ["Staging", "prod", "staging ", "staging#1", *HOSTILE], ids=ascii)
def test_what_is_no_stage_is_refused_with_field_value_and_cure(text: str) -> None:
    with pytest.raises(TagError) as refused:
        parse_stage(text)
    _reads_well(str(refused.value), "stage", text, "staging, production")


def test_an_experiment_is_named_by_merge_request_and_pipeline() -> None:
    assert experiment_tag("12", "345") == "experiment/12-345"


@pytest.mark.parametrize("text", ["12-3", "-1", "1" * 19, "x", "\N{SUPERSCRIPT TWO}", *HOSTILE])
def test_a_number_of_gitlab_is_a_number(text: str) -> None:
    with pytest.raises(TagError, match="merge request: "):
        experiment_tag(text, "1")
    with pytest.raises(TagError, match="pipeline: "):
        experiment_tag("1", text)


def test_a_very_long_text_is_refused_fast_and_not_repeated() -> None:
    for parse in (parse_version, parse_assignment, parse_stage):
        with pytest.raises(TagError) as refused:
            parse("a-" * 100_000)
        assert len(str(refused.value)) < 300


def _reads_well(message: str, field: str, value: str, cure: str) -> None:
    assert message.startswith(f"{field}: ")
    assert ascii(value[:64]) in message
    assert cure in message
    assert message.isascii() and message.isprintable()
