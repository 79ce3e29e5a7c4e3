"""`python -m service camera SOURCE`: frames of a video, folder, device or RTSP stream."""

import argparse
import logging
import os
import re
import sys
import threading
from typing import Any

from service.errors import ServiceError, Unavailable, UnsafeSettings

MISSING = (
    "a camera is read with OpenCV, which is not installed: install the extra (pip install "
    "'conveyor[camera]', or pip install 'opencv-python-headless>=5,<6')"
)
FITS = ("crop", "pad", "stretch")  # of contracts.images, which takes NumPy along


class Plain(logging.Formatter):
    """What happened, and the details, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """As `kafka: 1/1 brokers are down`."""
        detail = getattr(record, "detail", "")
        return f"{record.getMessage()}: {detail}" if detail else record.getMessage()


def add_to(commands: Any) -> None:
    """Add the command `camera` to those of `python -m service`."""
    line = commands.add_parser(
        "camera",
        help="send frames of a video, a folder of images, a device or RTSP",
        description="Send frames of SOURCE into the topic SERVICE_STREAM_FRAMES, or to a service. "
        "Of a file every frame is sent; of a device or a stream the newest, and what is left out "
        "is counted. docs/stream.md has the details.",
    )
    line.add_argument(
        "source",
        metavar="SOURCE",
        help="a video, a folder of images, the number of a device, or rtsp://",
    )
    line.add_argument("--to", metavar="URL", help="a service, instead of the topic")
    line.add_argument("--name", default="", help="of the source; default: the file's, or camera")
    line.add_argument(
        "--rate", type=float, default=0, help="frames a second; default: the source's"
    )
    line.add_argument("--size", type=_size, help="WIDTHxHEIGHT to which frames are resized")
    line.add_argument("--fit", choices=FITS, default="", help="how the model's size is reached")
    line.add_argument(
        "--png", action="store_true", help="PNG instead of JPEG: no loss, 5 times as large"
    )
    line.add_argument("--loop", action="store_true", help="begin a file again at its end")
    line.add_argument("--live", action="store_true", help="take a file as if it were a camera")
    line.set_defaults(run=run)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!a}: write WIDTHxHEIGHT, such as 640x480")
    return int(found[1]), int(found[2])


def run(chosen: argparse.Namespace) -> None:
    """Send frames until the file ends, or Ctrl-C."""
    from service.settings import read_settings

    code = 1
    shown = logging.StreamHandler()
    shown.setFormatter(Plain())
    logging.basicConfig(handlers=[shown])
    try:
        try:
            import cv2  # noqa: F401
        except ImportError:
            raise Unavailable(MISSING) from None
        from service.camera.run import send_frames

        send_frames(chosen, read_settings())
        code = 0
    except UnsafeSettings as error:
        print(f"error: {error}", file=sys.stderr)
    except ServiceError as error:
        print(f"error: {error.detail}", file=sys.stderr)
    except (KeyboardInterrupt, SystemError):
        # A Ctrl-C in a callback of librdkafka's client comes out of it as SystemError.
        code = 130
    if threading.active_count() > 1:
        # OpenCV waits for a source: a thread that comes back while Python ends aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
