"""The DVC remotes that .dvc/config prepares: their clients load in this environment."""

import configparser
import sys

from tests.conftest import ROOT, run

CLIENTS = {"s3": "dvc_s3", "gdrive": "dvc_gdrive, pydrive2.fs"}


def test_the_client_of_every_prepared_remote_loads() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config")
    addresses = [section["url"] for section in config.values() if "url" in section]
    schemes = {url.partition("://")[0] for url in addresses if "://" in url}
    assert schemes == set(CLIENTS)
    for modules in CLIENTS.values():
        run(sys.executable, "-W", "ignore", "-c", f"import {modules}")
