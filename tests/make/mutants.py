"""What the decoder says of damaged images and of attacks, in a process whose memory is measured.

python -m tests.make.mutants SEED COUNT     damaged images; COUNT 0: the attacks
"""

import json
import logging
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from contracts.bundle import Input
from service.errors import ServiceError
from service.inference.decode import decode
from tests.make import images

MAX_PIXELS = 16 << 20
ODD = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\0")


def wants(bands: int, dtype: str) -> Input:
    """A model's input of 64 x 64 pixels."""
    names = tuple(f"B{number:02d}" for number in range(bands))
    return Input.model_validate(
        {"dtype": dtype, "bands": names, "height": 64, "width": 64, "scale": 10000.0}
        | {"units": "reflectance", "nodata": 0, "valid_max": 65535, "resolution": 10.0}
    )


CHIPS, PICTURES = wants(4, "uint16"), wants(3, "uint8")
FILES = [(name, content, CHIPS) for name, content in images.CHIPS.items()] + [
    (name, content, PICTURES) for name, content in images.PICTURES.items()
]


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes, Input]]:
    """Damaged images, the formats in turn; the same seed and number give the same one."""
    for number in range(count):
        name, content, wanted = FILES[number % len(FILES)]
        generator = random.Random(f"{seed} {number}")
        for _ in range(generator.choice((1, 1, 2, 5))):
            content = generator.choice(WAYS)(generator, content)
        yield f"seed {seed}, number {number}, {name}", content, wanted


def _somewhere(generator: random.Random, content: bytes) -> int:
    """Half of the time in the header, where it hurts."""
    return generator.randrange(min(len(content), generator.choice((300, 1 << 30))) or 1)


def _flip(generator: random.Random, content: bytes) -> bytes:
    at = _somewhere(generator, content)
    return content[:at] + bytes((content[at] ^ 1 << generator.randrange(8),)) + content[at + 1 :]


def _overwrite(generator: random.Random, content: bytes) -> bytes:
    at = _somewhere(generator, content)
    odd = generator.choice((*ODD, generator.randbytes(generator.randrange(1, 9))))
    return content[:at] + odd + content[at + len(odd) :]


def _cut(generator: random.Random, content: bytes) -> bytes:
    return content[: _somewhere(generator, content) + 1]


def _remove(generator: random.Random, content: bytes) -> bytes:
    at = _somewhere(generator, content)
    return content[:at] + content[at + generator.randrange(1, 64) :] + b"\0"


def _repeat(generator: random.Random, content: bytes) -> bytes:
    at = _somewhere(generator, content)
    piece = content[at : at + generator.randrange(1, 64)]
    return content[:at] + piece * generator.choice((2, 3, 100)) + content[at:]


def _cross(generator: random.Random, content: bytes) -> bytes:
    _, other, _ = generator.choice(FILES)
    at = _somewhere(generator, content)
    return content[:at] + other[_somewhere(generator, other) :] + b"\0"


WAYS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_flip, _flip, _overwrite, _overwrite),
    *(_cut, _remove, _repeat, _cross),
)


def attacks() -> Iterator[tuple[str, bytes, Input]]:
    """Every attack, for a model of chips and for one of pictures."""
    for group in (images.bombs, images.broken, images.strangers):
        for name, content in group():
            yield name, content, CHIPS
            yield name, content, PICTURES


def verdict(content: bytes, wanted: Input, resize: bool) -> str:
    """`right`, the status of a refusal, or what went wrong."""
    try:
        chip = decode(content, wanted, MAX_PIXELS, "stretch" if resize else "")
    except ServiceError as error:
        return str(error.status)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    if chip.shape != wanted.shape or chip.dtype != wanted.dtype or not chip.flags.c_contiguous:
        return f"{chip.shape} {chip.dtype}"
    return "right"


def measure(seed: int, count: int) -> dict[str, Any]:
    """Run it in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", __name__, str(seed), str(count)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"seed {seed}: {found.returncode} {found.stderr[-2000:]}"
    report: dict[str, Any] = json.loads(found.stdout)
    return report


def main(seed: int, count: int) -> None:
    """Print the verdicts, and by how many MiB the peak of memory grew."""
    logging.disable(logging.CRITICAL)
    for _, content, wanted in FILES:
        assert verdict(content, wanted, False) == "right"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verdicts: dict[str, int] = {}
    wrong = []
    for number, (name, content, wanted) in enumerate(mutants(seed, count) if count else attacks()):
        found = verdict(content, wanted, bool(number % 3 == 0 and count))
        verdicts[found] = verdicts.get(found, 0) + 1
        if found != "right" and not (found.isdigit() and 400 <= int(found) < 500):
            wrong.append(f"{name}: {found}")
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"wrong": wrong, "verdicts": verdicts, "growth": growth}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
