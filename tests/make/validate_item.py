"""Run by .venv-stac/bin/python: reads a STAC item from stdin, prints "valid" or what is wrong.

STAC's core schema comes with pystac, so that nothing is asked for over a network; MLM's fields are
checked by stac-model, the models that its schema is made of.
"""

import json
import sys

import pystac.validation
from stac_model.schema import MLModelProperties  # type: ignore[import-not-found]

item = json.load(sys.stdin)
pystac.validation.validate_dict({**item, "stac_extensions": []})
MLModelProperties.model_validate(item["properties"])
print("valid")
