"""Settings from the environment, prefix `SERVICE_`; unsafe ones stop the start.

docs/service.md lists them in one table; a test holds the table to this file.
"""

import difflib
import json
import math
import os
import re
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.faults import wanted
from contracts.frames import check_brokers
from contracts.tags import LOCAL, match_tag
from service.auth.addresses import check_url, is_loopback
from service.auth.keys import parse_keys
from service.auth.roles import Role
from service.errors import UnsafeSettings
from service.secrets import FEEDBACK, KEYS, PASSWORD, STREAM, MountedSecrets

PREFIX = "SERVICE_"
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")  # RFC 1123, as Kubernetes takes it
KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
DIGEST = re.compile(r"[0-9a-f]{64}")
DATABASE = re.compile(r"(postgres|postgresql|postgresql\+psycopg)://.|sqlite:///.")
PASSWORD_IN_URL = re.compile(r"https?://[^/@]*:[^/@]+@")
OFF = "off"  # of SERVICE_FEEDBACK
SECRET = ("api_keys", "feedback", "stream_client")  # no error shows their values
LONGEST = 100  # letters of a value


CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""Quota of a container, by cgroups: microseconds of CPU, or `max`, in a period."""


def cores() -> int:
    """Cores this process may use: a container's share, not the machine's."""
    found = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = CPU_MAX.read_text(encoding="ascii").split()
        if quota != "max":
            found = min(found, max(1, math.ceil(int(quota) / int(period))))
    return found


class Settings(BaseSettings):
    """One field a variable: `SERVICE_PORT=8080`. Lists and mappings are JSON."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(
        default_factory=cores, ge=1, le=256, description="Processes; one per core is best."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="What runs the model: `cpu`, `cuda`, or `auto`, a GPU that is there."
    )
    bundle: Path = Field(Path("model"), description="Bundle that serves until a swap.")
    tag: str = Field(
        LOCAL, description="Tag under which that bundle serves: the version baked into an image."
    )
    state: Path = Field(
        Path("artifacts/service"),
        description="Folder for the desired model and fetched bundles; survives the process.",
    )
    repository: str = Field(".", description="Git repository with the experiments: path or URL.")
    refresh: float = Field(30.0, gt=0, description="Seconds between fetches of a repository's URL.")
    fetch_timeout: float = Field(300.0, gt=0, description="Seconds a bundle may take to arrive.")
    configmap: str = Field(
        "",
        description="`namespace/name` of the ConfigMap with the desired model; a file if empty.",
    )
    release: str = Field(
        "wanted",
        description="Key in the ConfigMap: replicas of one release share it.",
    )
    kubernetes_api: str = Field(
        "", description="Address of the Kubernetes API; that of the pod's cluster if empty."
    )
    kubernetes_credentials: Path = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="Folder with the `token` and `ca.crt` of the pod's service account.",
    )
    reconcile: float = Field(
        0.5, gt=0, le=2, description="Seconds between reads of the desired model."
    )
    secrets: str = Field(
        "",
        description="Folder of mounted secrets, each read when it is used: `keys/api-keys`, "
        "`git/username`, `git/password`, `remote/*`, `feedback/url`.",
    )
    ca_file: str = Field(
        "", description="CAs of your own, in PEM, which all clients trust besides the public ones."
    )
    models: list[str] = Field(
        ["*@*"],
        description="Patterns of the tags that requests may name: `*` takes experiments too.",
        examples=[["landcover@*", "ships@v1.2.*"]],
    )
    warm: list[str] = Field(
        [],
        description="Models by name that every worker loads at its start and keeps.",
        examples=[["landcover#staging", "ships"]],
    )
    models_memory: int = Field(
        512, ge=1, description="MiB of graphs that a worker keeps loaded for who names them."
    )
    models_most: int = Field(
        16, ge=1, le=256, description="Models that a worker keeps loaded for who names them."
    )
    models_disk: int = Field(
        2048, ge=0, description="MiB of bundles that stay in the cache, or the last 5 if more."
    )
    models_wait: float = Field(
        60.0, ge=0, description="Longest `?wait=` for a model that is fetched, seconds."
    )
    routing: str = Field(
        "", description="File with the rules of the traffic; empty: what serves answers everything."
    )
    api_keys: dict[str, frozenset[Role]] = Field(
        default_factory=dict,
        description="SHA-256 of a key -> its roles. `python -m service key` makes one.",
        examples=[{"SHA-256 of a key": ["deploy"]}],
    )
    open_roles: frozenset[Role] | None = Field(
        None,
        description="Roles that need no key. On loopback all but `deploy`, elsewhere none.",
        examples=[["predict", "view"]],
    )
    jwt_issuer: str = Field("", description="Issuer of the JWTs that are accepted; none if empty.")
    jwt_audience: str = Field("", description="Audience that a JWT must carry.")
    jwt_jwks: str = Field("", description="Address of the issuer's keys.")
    jwt_claims: dict[str, str] = Field(
        default_factory=dict,
        description="Claims that a JWT must carry, with their values.",
        examples=[{"project_id": "42"}],
    )
    jwt_roles: frozenset[Role] = Field(
        frozenset({Role.DEPLOY, Role.VIEW}),
        description="Roles of a JWT that is accepted.",
        examples=[["deploy", "view"]],
    )
    max_upload: int = Field(16 << 20, ge=1024, description="Bytes that one upload may have.")
    max_pixels: int = Field(
        16 << 20, ge=1, description="Width x height x bands that one image may have."
    )
    upload_timeout: float = Field(30.0, gt=0, description="Seconds that one upload may take.")
    upload_memory: int = Field(
        256 << 20, ge=1024, description="Bytes of unfinished uploads a worker may hold."
    )
    maps_max_upload: int = Field(
        1 << 30, ge=1024, description="Bytes that one scene for `/maps` may have."
    )
    maps_max_pixels: int = Field(
        1 << 28, ge=1, description="Width x height that one scene for `/maps` may have."
    )
    maps_upload_timeout: float = Field(
        600.0, gt=0, description="Seconds that the upload of a scene may take."
    )
    maps_at_once: int = Field(
        4_000_000, ge=0, description="Pixels of the largest scene that `/maps` answers at once."
    )
    maps_queue: int = Field(100, ge=1, description="Maps that may wait in the queue.")
    maps_keep: int = Field(100, ge=0, description="Finished maps that are kept.")
    maps_keep_mib: int = Field(4096, ge=0, description="MiB of finished maps that are kept.")
    maps_keep_hours: float = Field(
        168.0, gt=0, le=87_600, description="Hours that a map is kept, from its upload on."
    )
    stream_brokers: str = Field(
        "", description="Kafka's brokers, `host:port` with commas between; empty: no stream."
    )
    stream_frames: str = Field("frames", description="Topic that frames come from.")
    stream_results: str = Field("results", description="Topic that answers go to.")
    stream_dead: str = Field(
        "frames.dead", description="Topic of frames that were not answered, with the reason."
    )
    stream_annotated: str = Field(
        "annotated", description="Topic of answers with small pictures, for `/live`."
    )
    stream_pictures: float = Field(
        0.0, ge=0, le=100, description="Pictures a second and worker for that topic; 0 sends none."
    )
    stream_group: str = Field(
        "conveyor", min_length=1, description="Workers of one group share the frames."
    )
    stream_id: str = Field(
        "", description="Name of this worker, unlike that of any other; transactions need one."
    )
    stream_batch: int = Field(
        16, ge=1, le=1024, description="Frames that wait which a worker takes at once, at most."
    )
    stream_transactions: bool = Field(
        False, description="Answers and the place in the topic in one transaction: no repeats."
    )
    stream_references: list[str] = Field(
        default_factory=list,
        description="Folders and `s3://bucket/prefix/` that a frame's `reference` may lie below.",
        examples=[["/data/frames", "s3://bucket/frames/"]],
    )
    stream_client: SecretStr = Field(
        SecretStr(""),
        description="More settings of librdkafka, such as those of SASL and TLS.",
        examples=[{"security.protocol": "SSL"}],
    )
    stream_port: int = Field(
        8001, ge=0, le=65535, description="Port of a stream worker's metrics; 0 takes a free one."
    )
    feedback: SecretStr = Field(
        SecretStr(""),
        description="Database of predictions and labels: `postgresql://...` or `sqlite:///...`; a "
        "file in `SERVICE_STATE` if empty, `off` for none.",
    )
    feedback_days: int = Field(
        90, ge=1, le=36500, description="Days that predictions, labels and images are kept."
    )
    feedback_rows: int = Field(
        1_000_000, ge=1, description="Most predictions kept; unlabelled ones are deleted first."
    )
    keep_images: int = Field(
        0, ge=0, le=1 << 20, description="MiB of images kept for labelling; 0 keeps none."
    )
    keep_below: float = Field(
        0.6, ge=0, le=1, description="A prediction less sure than this is uncertain: kept longer."
    )
    drift_window: float = Field(
        3600.0, ge=60, description="Seconds of traffic that drift is measured on."
    )
    drift_samples: int = Field(
        200, ge=1, description="Least predictions in the window to measure drift."
    )
    drift_floor: float = Field(
        0.1, ge=0, description="Least population stability index that counts as drift."
    )
    queue: int = Field(64, ge=1, description="Chips that may wait in a worker.")
    connections: int = Field(2048, ge=1, description="Connections a worker may hold.")
    drain: float = Field(
        0.0, ge=0, description="Seconds between `not ready` and the end of listening."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Log level."
    )

    @field_validator("api_keys")
    @classmethod
    def _hashes(cls, keys: dict[str, frozenset[Role]]) -> dict[str, frozenset[Role]]:
        for digest in keys:
            if not DIGEST.fullmatch(digest):
                raise ValueError(
                    "a key is given as its SHA-256, 64 hexadecimal digits: "
                    "make one with `python -m service key`"
                )
        return keys

    @field_validator("stream_brokers")
    @classmethod
    def _brokers(cls, text: str) -> str:
        return check_brokers(text) if text else text

    @field_validator("stream_references")
    @classmethod
    def _prefixes(cls, below: list[str]) -> list[str]:
        for prefix in below:  # or s3://bucket/frames would admit s3://bucket/frames-of-others/
            if prefix.startswith("s3://") and not prefix.endswith("/"):
                raise ValueError(f"{prefix!a} has no end: write {prefix}/")
        return below

    @field_validator("stream_client")
    @classmethod
    def _client(cls, text: SecretStr) -> SecretStr:
        try:
            found = json.loads(text.get_secret_value() or "{}")
        except ValueError:
            found = None  # as a mounted file may be
        if not isinstance(found, dict) or not all(
            isinstance(value, str) for value in found.values()
        ):
            raise ValueError('write {"name": "value"} of texts, as librdkafka lists them')
        return text

    @field_validator("jwt_issuer", "jwt_jwks", "kubernetes_api")
    @classmethod
    def _address(cls, url: str) -> str:
        if url:
            check_url("address", url)
        return url

    @field_validator("configmap")
    @classmethod
    def _namespace_and_name(cls, text: str) -> str:
        parts = text.split("/")
        if text and (len(parts) != 2 or not all(map(NAME.fullmatch, parts))):
            raise ValueError(
                f"{text!a} is not namespace/name of a ConfigMap: use a-z, 0-9, - and ."
            )
        return text

    @field_validator("release")
    @classmethod
    def _release(cls, text: str) -> str:
        if not KEY.fullmatch(text):
            raise ValueError(
                f"{text!a} is not a key of a ConfigMap: write letters, digits, `-`, `_` and `.`"
            )
        return text

    @field_validator("tag")
    @classmethod
    def _tag(cls, text: str) -> str:
        if text != LOCAL and match_tag(text) is None:
            raise ValueError(f"{text!a} is not the tag of a model: write name@v1.2.3")
        return text

    @field_validator("feedback")
    @classmethod
    def _database(cls, url: SecretStr) -> SecretStr:
        # Never the value itself: it may hold a password.
        text = url.get_secret_value().strip()  # a secret made by `echo` ends a line
        if text not in ("", OFF) and not DATABASE.match(text):
            raise ValueError(
                "write postgresql://user:password@host/name, sqlite:///path, `off`, or nothing"
            )
        return SecretStr(text)

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if not is_loopback(self.host) and not self.api_keys and not self.jwt_issuer:
            raise ValueError(
                f"SERVICE_HOST {self.host!a} can be reached from elsewhere, no key is configured: "
                "set SERVICE_API_KEYS (`python -m service key` makes one) or SERVICE_JWT_ISSUER, "
                "or listen on 127.0.0.1"
            )
        if self.routing and find_spec("service.routing") is None:
            raise ValueError("SERVICE_ROUTING: this service has no rules of traffic: unset it")
        if self.stream_transactions and not self.stream_id:
            raise ValueError(
                "SERVICE_STREAM_TRANSACTIONS needs SERVICE_STREAM_ID, which no other worker has: a "
                "pod's name, or a number"
            )
        if self.open_roles and Role.DEPLOY in self.open_roles:
            raise ValueError("SERVICE_OPEN_ROLES: deploy cannot be open to everybody; remove it")
        if self.jwt_issuer and not (self.jwt_audience and self.jwt_jwks and self.jwt_claims):
            raise ValueError(
                "SERVICE_JWT_ISSUER needs SERVICE_JWT_AUDIENCE, SERVICE_JWT_JWKS and "
                "SERVICE_JWT_CLAIMS: without required claims any project of the issuer could deploy"
            )
        if self.jwt_issuer:
            _check_certificates()
        if PASSWORD_IN_URL.match(self.repository):
            raise ValueError(
                "SERVICE_REPOSITORY has a password in it, which command lines show: write the "
                "address alone, and mount the password in SERVICE_SECRETS as git/password"
            )
        if MountedSecrets(self.secrets).path(PASSWORD) and self.repository.startswith("http://"):
            check_url("SERVICE_REPOSITORY", self.repository)  # it would show the token to all
        return self

    def roles_open_to_everybody(self) -> frozenset[Role]:
        """Roles that need no credentials."""
        if self.open_roles is not None:
            return self.open_roles
        loopback = frozenset({Role.PREDICT, Role.VIEW, Role.LABEL})
        return loopback if is_loopback(self.host) else frozenset()


def read_settings(**overrides: Any) -> Settings:
    """Read the environment.

    Raises:
        UnsafeSettings: a variable has a value that cannot be used, or the whole is unsafe.
    """
    _refuse_unknown()
    _unquote()
    _refuse_other_than_json()
    try:
        mounted = _mounted(os.environ.get(_variable("secrets"), ""))
        settings = Settings(**mounted | overrides)
    except ValidationError as error:
        first = {item["loc"][:1]: item for item in reversed(error.errors())}  # of each setting
        raise UnsafeSettings("; ".join(map(_sentence, reversed(first.values())))) from None
    if settings.api_keys.keys() > mounted.get("api_keys", settings.api_keys).keys():
        raise UnsafeSettings(f"SERVICE_API_KEYS: {KEYS} is mounted in SERVICE_SECRETS: unset one")
    return settings


def _mounted(folder: str) -> dict[str, Any]:
    """The settings that are mounted as secrets."""
    if not folder:
        return {}
    variable, found = _variable("secrets"), dict[str, Any]()
    if not Path(folder).is_dir():
        raise UnsafeSettings(f"{variable}: {folder!a} is no folder: mount the secrets there")
    secrets = MountedSecrets(folder)
    for name, setting, read in (
        (KEYS, "api_keys", parse_keys),
        (FEEDBACK, "feedback", str),
        (STREAM, "stream_client", str),
    ):
        try:
            if (text := secrets.read(name)) is not None:
                found[setting] = read(text)
        except OSError as error:
            reason = f"{error.strerror}: let the user of the service read it"
            raise UnsafeSettings(f"{variable}: {name}: {reason}") from None
        except UnicodeDecodeError:
            raise UnsafeSettings(f"{variable}: {name}: it is no text: write it again") from None
        except ValueError as error:
            raise UnsafeSettings(f"{variable}: {name}: {error}") from None
    return found


def _check_certificates() -> None:
    """Refuse certificates that the keys of an issuer could not be fetched with."""
    import httpx  # not for who has no issuer

    from contracts.proxies import environment_fault

    try:
        httpx.create_ssl_context()
    except OSError as error:
        raise ValueError(environment_fault(error)) from None


def _unquote() -> None:
    """Take the quotes of a shell off: `docker run --env-file` passes them on as they are."""
    for name, value in os.environ.items():
        if name.startswith(PREFIX) and re.fullmatch(r"(['\"]).*\1", value, re.DOTALL):
            os.environ[name] = value[1:-1]


def _refuse_unknown() -> None:
    """A misspelt key would admit everybody, a misspelt limit would not limit."""
    known = [_variable(name) for name in Settings.model_fields]
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, 1, cutoff=0.85)
            meant = f"did you mean {close[0]}?" if close else "docs/service.md lists all settings"
            raise UnsafeSettings(f"{name}: unknown setting; {meant}")


def _refuse_other_than_json() -> None:
    for name, field in Settings.model_fields.items():
        text = os.environ.get(_variable(name))
        if field.examples and text is not None:
            try:
                json.loads(text)
            except ValueError:
                raise UnsafeSettings(_refusal(name, text, "it is not JSON")) from None


def _sentence(item: Any) -> str:
    if not item["loc"]:  # several settings do not fit together
        return wanted(item)
    name = str(item["loc"][0])
    if item["type"] == "value_error":
        return f"{_variable(name)}: {wanted(item)}"
    return _refusal(name, item["input"], wanted(item))


def _refusal(name: str, value: object, reason: str) -> str:
    """`SERVICE_PORT is 'abc', wanted a whole number: port to listen on; 0 takes a free one`."""
    field = Settings.model_fields[name]
    shown = "a value that is not shown" if name in SECRET else repr(str(value))[:LONGEST]
    meaning = str(field.description).rstrip(".")
    example = f" (JSON, such as {json.dumps(field.examples[0])})" if field.examples else ""
    return f"{_variable(name)} is {shown}, {reason}{example}: {meaning[0].lower()}{meaning[1:]}"


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"
