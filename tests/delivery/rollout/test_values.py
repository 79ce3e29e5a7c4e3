"""values.yaml of an overlay: a value of the wrong form is one sentence, before kustomize runs."""

from pathlib import Path

import pytest

from delivery.errors import RolloutError
from delivery.rollout.manifests import build
from delivery.rollout.values import check_values
from tests.conftest import ROOT
from tests.k8s.conftest import NAME, rendered
from tests.make.manifests import copy_manifests

HEAD = "apiVersion: conveyor/v1\nkind: Values\nmetadata: {name: values}\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "host: https://a.example.com",
            "host: 'https://a.example.com' is no name of a host: write",
        ),
        ("host: A_b.example.com", "host: 'A_b.example.com' is no name of a host"),
        ("host: 3", "host: wanted a text"),
        ("callers: traefik", "callers: wanted a list"),
        ("callers: [Traefik]", "callers.0: 'Traefik' is no name of a namespace"),
        ("egress: [443]", "egress.0: wanted a mapping"),
        ("egress: [{port: '443'}]", "egress.0.port: wanted a whole number"),
        ("egress: [{port: 443000}]", "egress.0.port: wanted at most 65535"),
        ("egress: []", "egress: it is empty, which opens every port: write [{port: 443}]"),
        ("egress: [{port: 90, endPort: 80}]", "egress.0: port is 90 and endPort is 80: it is no"),
        ("egress: [{prot: 443}]", "egress.0.port: it is missing"),
        ("egress: [{port: 443, to: all}]", "egress.0.to: it is not known here"),
        ("prometheus: prom:9090", "prometheus: 'prom:9090' is no address: write http://prometheus"),
        ("monitorLabels: {release: 1}", "monitorLabels.release: wanted a text"),
        ("replicas: {least: two, most: 4}", "replicas.least: wanted a whole number"),
        ("replicas: {least: 0, most: 4}", "replicas.least: wanted at least 1"),
        ("replicas: {least: 5, most: 4}", "replicas: least is 5 and most is 4: most is no less"),
        ("host a.example.com", "values.yaml, line 5: it is not YAML: write KEY: VALUE"),
    ],
)
def test_a_value_of_the_wrong_form_is_one_sentence(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "values.yaml").write_text(f"{HEAD}{line}\n")
    with pytest.raises(RolloutError) as caught:
        check_values(tmp_path)
    assert reason in str(caught.value) and "docs/kubernetes.md, Values" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_values_that_ship_and_those_that_a_team_adds_are_taken(tmp_path: Path) -> None:
    for path in (ROOT / "k8s").rglob("values.yaml"):
        check_values(path.parent)
    (tmp_path / "values.yaml").write_text(f"{HEAD}host: '*.example.com'\nown: [1]\n")
    check_values(tmp_path)
    check_values(tmp_path / "without")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("host:", "hst:", "host is missing or empty in values.yaml: write it"),
        ("monitorLabels: {", "other: {", "monitorLabels is missing or empty in values.yaml"),
        ("most:", "mots:", "replicas.most is missing or empty in values.yaml"),
    ],
)
def test_a_missing_value_is_named_without_kubectls_log(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    rendered("staging")  # skips without kustomize
    folder = copy_manifests(tmp_path) / "overlays" / "staging"
    path = folder / "values.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(RolloutError) as caught:
        build(folder, NAME)
    assert str(caught.value).startswith(f"{folder}: {reason}")
