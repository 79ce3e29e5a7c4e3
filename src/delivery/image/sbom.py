"""Software bill of materials of an image, as CycloneDX. Runs in the build of the image.

Lists the packages of Debian and Python that the image itself records, so that it matches the
content; without time or serial number, so that equal images have equal lists.

Source: CycloneDX 1.5 (https://cyclonedx.org/docs/1.5/json/), package-url (purl-spec).
"""

import json
import platform
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

STATUS = Path("/var/lib/dpkg/status")


def python_component(found: Distribution) -> dict[str, Any]:
    """An installed distribution of Python."""
    name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{quote(found.version)}",
        "name": found.metadata["Name"],
        "version": found.version,
        "purl": f"pkg:pypi/{name}@{quote(found.version)}",
    }
    if "License-Expression" in found.metadata:
        component["licenses"] = [{"expression": found.metadata["License-Expression"]}]
    return component


def debian_components(status: str, distribution: str) -> list[dict[str, Any]]:
    """The installed packages of Debian's database.

    Args:
        status: text of /var/lib/dpkg/status.
        distribution: `debian-12`, as package-urls name it.
    """
    components = []
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status") != "install ok installed":
            continue
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}"
        purl += f"?arch={fields['Architecture']}&distro={distribution}"
        components.append(
            {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        )
    return components


def bill() -> dict[str, Any]:
    """The document of this environment and system."""
    release = platform.freedesktop_os_release()
    distribution = f"{release['ID']}-{release['VERSION_ID']}"
    debian = debian_components(STATUS.read_text(encoding="utf-8"), distribution)
    python = [python_component(found) for found in distributions()]
    components = {component["purl"]: component for component in (*debian, *python)}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "conveyor"}},
        "components": [components[purl] for purl in sorted(components)],
    }


def main() -> None:
    """Write the document to standard output."""
    json.dump(bill(), sys.stdout, indent=1)


if __name__ == "__main__":
    main()
