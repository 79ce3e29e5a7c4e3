"""Files that GitLab shows in a merge request: floors as test cases, and metrics.

JUnit XML and OpenMetrics, as docs.gitlab.com describes under "unit test reports" and "metrics
reports" (the latter from Premium on).
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree import ElementTree as XML

from pipeline.tasks.task import Check

UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # not in XML


def junit(checks: Iterable[Check], model: str) -> str:
    """The floors of the gate as test cases of a suite, XML."""
    suite = XML.Element("testsuite", name=f"gate of {model}")
    missed = 0
    for number, check in enumerate(checks, 1):
        name, text = (UNPRINTABLE.sub("?", part) for part in (check.name, check.text))
        case = XML.SubElement(suite, "testcase", classname="gate", name=name, file="params.yaml")
        if check.passed:
            XML.SubElement(case, "system-out").text = text
        else:
            missed += 1
            XML.SubElement(case, "failure", message=text).text = text
        suite.set("tests", str(number))
    suite.set("failures", str(missed))
    XML.indent(suite)
    return XML.tostring(suite, encoding="unicode") + "\n"


def openmetrics(metrics: Mapping[str, Any], model: str) -> str:
    """The numbers of reports/metrics.json, a line each; GitLab shows how they change."""
    name = re.sub(r"[^a-z0-9_]", "_", model)
    lines = [
        f"{name}_{re.sub(r'[^a-zA-Z0-9_]', '_', key)} {value}"
        for key, value in sorted(metrics.items())
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]
    return "\n".join([*lines, "# EOF", ""])
