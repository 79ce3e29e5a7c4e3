"""What GitLab's widgets of a merge request are fed with."""

from xml.etree import ElementTree as XML

from hypothesis import given
from hypothesis import strategies as st

from pipeline.reporting.widgets import junit, openmetrics
from pipeline.tasks.task import Check

CHECKS = [
    Check("accuracy", True, "0.97, wanted at least 0.8"),
    Check("recall of <Río & \x00>", False, "0.1, wanted at least 0.5"),
]


def test_each_floor_is_a_test_case_and_a_missed_one_a_failure() -> None:
    suite = XML.fromstring(junit(CHECKS, "landcover"))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    held, missed = suite.findall("testcase")
    assert held.get("name") == "accuracy" and held.find("failure") is None
    failure = missed.find("failure")
    assert missed.get("name") == "recall of <Río & ?>" and failure is not None
    assert failure.get("message") == "0.1, wanted at least 0.5"


@given(st.text(), st.text())
def test_any_name_of_a_class_is_valid_xml(name: str, text: str) -> None:
    suite = XML.fromstring(junit([Check(name, False, text)], "landcover"))
    assert [case.tag for case in suite] == ["testcase"] and suite.get("failures") == "1"


def test_metrics_are_finite_numbers_under_the_name_of_the_model() -> None:
    metrics = {"macro_f1": 0.5, "accuracy": 1, "loss": float("nan"), "name": "x", "on": True}
    text = openmetrics(metrics, "land-cover")
    assert text == "land_cover_accuracy 1\nland_cover_macro_f1 0.5\n# EOF\n"
