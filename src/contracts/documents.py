"""YAML as DVC reads it, whose numbers are those of YAML 1.2.

PyYAML keeps to YAML 1.1, where `1e-3` is a text. DVC writes numbers so, into params.yaml by
`--set-param` and into dvc.lock, and people do as well.
"""

import re
from typing import Any

import yaml

FLOAT = "tag:yaml.org,2002:float"
EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z")


class Loader(yaml.CSafeLoader):
    """Plain values only, and numbers with an exponent."""


Loader.add_implicit_resolver(FLOAT, EXPONENT, list("-+0123456789"))


def read_yaml(text: str | bytes) -> Any:
    """The document in a text; raises yaml.YAMLError."""
    return yaml.load(text, Loader=Loader)
