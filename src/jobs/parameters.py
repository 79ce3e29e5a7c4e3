"""params.yaml with other values, its comments kept."""

import io
from collections.abc import Mapping
from typing import Any

from jobs.errors import Refused
from jobs.request import Scalar


def with_values(content: bytes, values: Mapping[str, Scalar]) -> bytes:
    """The text of params.yaml with `train.epochs` and the like changed.

    Raises:
        Refused: it has no such parameter, or the text is not YAML.
    """
    if not values:
        return content
    yaml, document = _load(content)
    for name, value in values.items():
        section, _, key = name.partition(".")
        value_of(document, name)
        document[section][key] = value
    written = io.BytesIO()
    yaml.dump(document, written)
    return written.getvalue()


def value_in(content: bytes, name: str) -> Scalar:
    """The value of a parameter in the text of params.yaml. Raises Refused."""
    return value_of(_load(content)[1], name)


def value_of(document: Any, name: str) -> Scalar:
    """The value of a parameter in the document of params.yaml. Raises Refused."""
    section, _, key = name.partition(".")
    try:
        value: Scalar = document[section][key]
        return value
    except (KeyError, TypeError):
        raise Refused(f"parameters: {name} is not in params.yaml: correct the name") from None


def _load(content: bytes) -> tuple[Any, Any]:
    """Reader and document. It is imported here: most jobs change nothing."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200  # letters of a line, before it would be broken
    try:
        return yaml, yaml.load(content)
    except (YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"params.yaml of the commit is not YAML: {error}") from None
