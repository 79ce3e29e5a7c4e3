"""`python -m service` serves; other commands make a key, tables, a map, a batch: see --help."""

import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from contracts.commands import parser

# Before anything imports NumPy: its threads would not survive the fork, and are not needed.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# ONNX Runtime would write a database of its use below the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

DESCRIPTION = """Serves the model bundle over HTTP. Settings come from the environment, prefix
SERVICE_: docs/service.md lists them."""


def main() -> None:
    """Do what the command line says."""
    line = parser("service", DESCRIPTION)
    commands = line.add_subparsers(dest="command")
    serving = commands.add_parser("serve", help="serve (what it does without a command)")
    serving.add_argument(
        "--with-key",
        action="store_true",
        help="without SERVICE_API_KEYS, make a key for `deploy` and print it once",
    )
    serving.add_argument(
        "--check",
        action="store_true",
        help="only say whether the settings can be used and the port is free",
    )
    commands.add_parser("key", help="make an API key, and its hash for SERVICE_API_KEYS")
    commands.add_parser("migrate", help="bring the feedback database up to date, then end")
    _add_rooms(commands)
    chosen = line.parse_args()
    if run := getattr(chosen, "run", None):
        run(chosen)
    elif chosen.command == "key":
        _print_key()
    elif chosen.command == "migrate":
        _migrate()
    else:
        _serve(getattr(chosen, "with_key", False), getattr(chosen, "check", False))


def _serve(with_key: bool, check: bool) -> None:
    # As process 1 of a container, a signal without a handler would be lost.
    signal.signal(signal.SIGTERM, _end_at_once)
    from service.auth.roles import Role, new_key
    from service.certificates import trust
    from service.errors import UnsafeSettings
    from service.server.supervisor import as_url, check_port, serve
    from service.settings import read_settings

    try:
        settings = read_settings()
        if check:
            return check_port(settings)
        trust(settings.ca_file, settings.state)
        if with_key and not settings.api_keys:
            key, digest = new_key()
            settings = settings.model_copy(update={"api_keys": {digest: frozenset({Role.DEPLOY})}})
            print(f"The page is {as_url(settings.host, settings.port)}/, the end is Ctrl-C.")
            print(f"To replace the model there, until then: {key}", flush=True)
        code = serve(settings)
    except UnsafeSettings as error:
        sys.exit(f"error: {error}")
    sys.exit(code)


def _add_rooms(commands: Any) -> None:
    """Add the commands of rooms, those that this service has."""
    for room in ("service.batch", "service.camera", "service.maps", "service.stream"):
        if find_spec(room):
            import_module(f"{room}.command").add_to(commands)


def _end_at_once(number: int, _: object) -> None:
    """End while the service is still starting; the supervisor stops in order later."""
    raise SystemExit(128 + number)


def _migrate() -> None:
    from service.errors import ServiceError, UnsafeSettings
    from service.settings import OFF, read_settings

    try:
        settings = read_settings()
        if (url := settings.feedback.get_secret_value()) == OFF:
            sys.exit("error: SERVICE_FEEDBACK is off: no database to migrate")
        from service.feedback.database import Database
        from service.feedback.tables import HEAD

        Database(url, settings.state).migrate()
    except UnsafeSettings as error:
        sys.exit(f"error: {error}")
    except ServiceError as error:
        sys.exit(f"error: {error.detail}")
    print(f"The feedback database is at revision {HEAD}.")


def _print_key() -> None:
    from service.auth.roles import new_key

    key, digest = new_key()
    print(f"key, for the client:  {key}")
    print(f"""for the service:      SERVICE_API_KEYS='{{"{digest}": ["deploy"]}}'""")


if __name__ == "__main__":
    main()
