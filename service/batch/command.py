"""`python -m service batch IN OUT`: predicts many images without a server."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.tags import LOCAL
from service.console import Progress, ends_with_a_sentence
from service.errors import Unavailable

# pyarrow, which this needs, is an extra; and NumPy waits for this command.
if TYPE_CHECKING:
    from service.batch.table import Summary

MISSING = (
    "a batch writes Parquet with pyarrow, which is not installed: install the extra (pip install "
    "'conveyor[batch]', or pip install 'pyarrow>=21,<27')"
)
FITS = ("crop", "pad", "stretch")  # of contracts.images, which takes NumPy along
REASONS = 10  # of bad files, in the summary


def add_to(commands: Any) -> None:
    """Add the command `batch` to those of `python -m service`."""
    line = commands.add_parser(
        "batch",
        help="predict a folder, list, zip archive or S3 prefix of images into a Parquet table",
        description="Predict each image of IN as /predict does, and write one row an image into "
        "OUT. Started again after it was stopped, it goes on. docs/batch.md has the details.",
    )
    line.add_argument(
        "place", metavar="IN", help="folder, text file of paths, zip archive, or s3://bucket/prefix"
    )
    line.add_argument("target", type=Path, metavar="OUT", help="the table, NAME.parquet")
    model = line.add_mutually_exclusive_group()
    model.add_argument("--bundle", type=Path, help="folder of the model; default: model/")
    model.add_argument("--tag", help="tag of the model, such as landcover@v1.2.0; it is fetched")
    line.add_argument("--workers", type=int, default=0, help="processes; default: one a core")
    line.add_argument(
        "--fit",
        choices=FITS,
        default="",
        help="what becomes of an image of another size; default: as the model was trained",
    )
    line.add_argument("--overwrite", action="store_true", help="replace an OUT that is there")
    line.add_argument("--fail-on-bad", action="store_true", help="exit code 1 if any file is bad")
    line.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Make the table that the command line asks for."""
    with ends_with_a_sentence():
        summary = _run(chosen)
    if summary.failed == summary.rows:
        sys.exit("error: no file could be predicted: the column `error` of OUT says why")
    if summary.failed and chosen.fail_on_bad:
        sys.exit(f"error: {summary.failed} files are bad, and --fail-on-bad was given")


def _run(chosen: argparse.Namespace) -> "Summary":
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise Unavailable(MISSING) from None
    from service.batch.models import find_bundle
    from service.batch.run import Options, check_target, predict_all
    from service.batch.sources import open_source
    from service.settings import read_settings

    settings = read_settings()
    tag = chosen.tag or (LOCAL if chosen.bundle else settings.tag)
    options = Options(tag, chosen.workers, chosen.fit, chosen.overwrite)
    check_target(chosen.target, options)
    found = open_source(chosen.place)
    bundle = find_bundle(chosen.bundle, chosen.tag, settings)
    started = time.monotonic()
    summary = predict_all(found, chosen.target, bundle, settings, options, Progress("images"))
    _report(chosen.target, summary, found.passed_over, time.monotonic() - started)
    return summary


def _report(target: Path, summary: "Summary", passed_over: int, seconds: float) -> None:
    print(f"{target}: {summary.rows} images in {seconds:.1f} s, {summary.failed} of them bad")
    for name, count in summary.classes.most_common():
        print(f"  {count:9,}  {name}")
    if passed_over:
        print(f"{passed_over} other files were passed over")
    if not summary.failed:
        return
    print("bad files, by reason:")
    for why, count in summary.reasons.most_common(REASONS):
        print(f"  {count:9,}  {why}")
    print("the first of them:")
    for path, _ in summary.bad:
        print(f"  {path}")
