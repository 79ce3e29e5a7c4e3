"""The DVC remotes that the template prepares: their clients load in this environment."""

import sys

from tests.conftest import run

CLIENTS = {"s3": "dvc_s3", "gdrive": "dvc_gdrive, pydrive2.fs"}


def test_the_clients_of_s3_and_google_drive_load() -> None:
    for modules in CLIENTS.values():
        run(sys.executable, "-W", "ignore", "-c", f"import {modules}")
