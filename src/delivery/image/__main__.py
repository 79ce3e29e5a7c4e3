"""Command: the image of a version, from a clean commit to a digest in the registry.

    python -m delivery.image build --version landcover@v1.2.0     its labels name its content
    python -m delivery.image scan                                 with trivy; exit 1 on a finding
    python -m delivery.image push                                 prints name@sha256:...
    python -m delivery.image resolve --version landcover@v1.2.0   the same, of a pushed version

Environment: IMAGE names the repository in the registry (default localhost/ and model.name: this
machine only), IMAGE_PREFIX where bases come from (docker.io/), IMAGE_BUILD_ARGS more build
arguments, `NAME=value` separated by spaces. In a job of GitLab, CI_REGISTRY, CI_REGISTRY_USER and
CI_REGISTRY_PASSWORD log in, and those of CI_DEPENDENCY_PROXY where bases come from there.

`build` records its image in artifacts/image/image.json, where `scan` and `push` find it. A version
whose image was pushed from a commit with the same code, packages and bundle is not built again,
unless `scan` finds what updates of Debian fix. An image has two tags: that of the version, which
moves if only the code has changed, and one with the commit, which a later commit does not move, so
that a registry that deletes untagged images keeps those that a rollback needs.
"""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from contracts import commands
from contracts.tags import Version
from delivery.errors import ImageError, VulnerableError, command
from delivery.image.image import (
    CPU,
    RECORD,
    build,
    build_train,
    find,
    image_name,
    push,
    read_record,
    scan,
    write_record,
)
from delivery.registry.registry import open_registry
from delivery.tags import parse_version

SERVABLE = ("registry", "stream", "maps", "batch")


@command
def main() -> None:
    """Run a subcommand."""
    options = _parser().parse_args()
    if "image" in options:
        options.image = options.image or image_name()
    if options.command == "resolve":
        print(find(_version(options.version), options.image).reference)
    elif options.command == "build":
        _build(options)
    elif options.command == "scan":
        _scan(options.output)
    else:
        image = push(read_record(options.output))
        write_record(image, options.output)
        print(image.reference)


def _build(options: Namespace) -> None:
    arguments = _build_arguments(options.build_arg)
    if options.target == "train":
        image = build_train(options.image, arguments)
    else:
        image = build(_version(options.version), options.image, arguments)
    write_record(image, options.output)
    size = f"{image.size / 2**20:.0f} MiB"
    done = f"{image.reference} is in the registry" if image.digest else f"built {image.id[:19]}"
    print(f"image: {done}, {size}; {options.output}")


def _scan(output: Path) -> None:
    """Scan; an image that was taken from the registry is built again if updates would fix it."""
    image = read_record(output)
    try:
        scan(image, output.parent)
    except VulnerableError:
        if not image.digest or not image.version:
            raise
        print("image: updates fix what was found in the released one: it is built again")
        arguments = _build_arguments([])
        image = build(_version(image.version), image.image, arguments, fresh=True)
        write_record(image, output)
        scan(image, output.parent)


def _version(text: str) -> Version:
    return parse_version(text, open_registry().name)


def _build_arguments(given: list[str]) -> dict[str, str]:
    words = [*os.environ.get("IMAGE_BUILD_ARGS", "").split(), *given]
    if wrong := next((word for word in words if not word.partition("=")[1]), ""):
        raise ImageError(f"build argument: {wrong!a} has no value: write NAME=value")
    pairs = (word.partition("=") for word in words)
    arguments = {key: value for key, _, value in pairs}
    prefix = arguments.get("IMAGE_PREFIX") or os.environ.get("IMAGE_PREFIX", "")
    if prefix and not prefix.endswith("/"):
        raise ImageError(f"IMAGE_PREFIX {prefix!a} does not end with a slash: write {prefix}/")
    if (runtime := arguments.get("RUNTIME", CPU)) not in (CPU, "cuda"):
        raise ImageError(f"RUNTIME {runtime!a} is no build of ONNX Runtime: write cpu or cuda")
    if "EXTRAS" in arguments:
        _check_extras(arguments["EXTRAS"])
    return arguments | ({"IMAGE_PREFIX": prefix} if prefix else {})


def _check_extras(text: str) -> None:
    """Check the extras of the service's image; it fetches models by those of `registry`."""
    named = text.split(",")
    if not {"registry"} <= set(named) <= set(SERVABLE) or len(set(named)) < len(named):
        raise ImageError(
            f"EXTRAS {text!a}: write registry and what else is to be served, each once and with "
            f"commas between: {', '.join(SERVABLE)}"
        )


def _parser() -> ArgumentParser:
    parser = commands.parser("delivery.image", __doc__)
    subcommands = parser.add_subparsers(dest="command", required=True)
    making = subcommands.add_parser("build", help="build it, unless the registry has it")
    making.add_argument("--target", choices=("serve", "train"), default="serve")
    making.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    finding = subcommands.add_parser("resolve", help="print name@digest of a version")
    finding.add_argument("--version", required=True)
    making.add_argument("--version", default="")
    for each in (making, finding):
        each.add_argument("--image", default="", help="default: $IMAGE")
    scanning = subcommands.add_parser("scan", help="scan it with trivy")
    for each in (making, scanning, subcommands.add_parser("push", help="push it")):
        each.add_argument("--output", type=Path, default=RECORD, help=f"default {RECORD}")
    return parser


if __name__ == "__main__":
    main()
