"""A version whose bundle, lock and manifest agree, until a test changes one of them."""

import hashlib

from delivery.tags import parse_version
from tests.delivery.conftest import Project

V1 = parse_version("landcover@v1.0.0")
GRAPH_SHA256 = hashlib.sha256(b"one").hexdigest()


def train_version(project: Project) -> Project:
    """Make version 1.0.0 at HEAD, with its bundle in model/."""
    project.git("tag", "--annotate", "--message=v1", V1.tag, project.train("one"))
    return project
