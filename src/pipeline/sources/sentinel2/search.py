"""Search a STAC API: every page, whatever the catalogue does on the way; then one item a scene.

pystac-client retries neither 502 nor 503, nor 429 on POST, and a page that is cut ends its search:
here each page has tries of its own, and the search goes on where it was. The cloud cover is
compared here, because servers that do not know the filter answer with nothing.
"""

import hashlib
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from json import JSONDecodeError
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pystac import STACError
from pystac_client import Client
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import PystacClientWarning
from urllib3 import Retry

from contracts.proxies import missing_certificates
from pipeline.errors import SourceError
from pipeline.progress import CONSOLE
from pipeline.sources.sentinel2.area import Area
from pipeline.sources.sentinel2.catalogues import Catalogue, Patience
from pipeline.sources.sentinel2.footprints import covered, overlap

PAGE = 100  # items; larger ones time out
SMALLEST_PAGE = 10
MOST = 20_000  # items; a server that repeats its pages would not end
PASSING = (429, 502, 503, 504)
SAME_PASS = timedelta(minutes=30)  # the next orbit comes 100 minutes later
SAME_PLACE = 0.8  # intersection over union: parts of a split tile have less
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]|^\.+")
LIMIT = re.compile(r"([?&]limit=)(\d+)")


class Scene(NamedTuple):
    """An item of the catalogue, and what choosing needs."""

    item: dict[str, Any]
    name: str
    """Of its files."""
    time: datetime
    tile: str
    """Of the grid of Sentinel-2 (MGRS); empty where the item has none."""
    baseline: tuple[int, int] | None
    """Version of ESA's processing, (5, 9) for 05.09."""
    clouds: float | None
    """Per cent of the whole scene, according to the item."""
    covered: float
    """Share of the area."""


class Choice(NamedTuple):
    """What a search led to."""

    scenes: list[Scene]
    left_out: Counter[str]
    """Number of items by reason."""


def search(
    catalogue: Catalogue,
    area: Area,
    dates: tuple[datetime, datetime],
    clouds: float,
    patience: Patience,
) -> Choice:
    """Find the scenes of an area, by time: of each only the newest processing.

    Raises:
        SourceError: the catalogue fails at every try, or no scene is left.
    """
    pages = _Pages(catalogue, patience)
    start, end = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in dates)
    asked = (
        f"collection {catalogue.collection or 'not named'}, dates {start}/{end}, box "
        f"{','.join(f'{number:.5g}' for number in area.box)}"
    )
    items: dict[str, dict[str, Any]] = {}
    seen = 0
    with CONSOLE.status(f"searching {catalogue.name}") as status:
        for box in area.boxes():
            for item in pages.items(box, f"{start}/{end}"):
                items[str(item.get("id"))] = item
                seen += 1
                if seen > MOST:
                    raise SourceError(
                        f"{catalogue.name} lists more than {MOST} scenes: {asked}: choose fewer "
                        "--dates, or a smaller --area"
                    )
                status.update(f"searching {catalogue.name}: {len(items)} scenes")
    if not items:
        raise SourceError(f"{catalogue.name} has no scene: {asked}{pages.hint()}")
    choice = choose((_scene(item, area) for item in items.values()), clouds)
    if not choice.scenes:
        reasons = ", ".join(f"{n} {reason}" for reason, n in choice.left_out.items())
        raise SourceError(
            f"{catalogue.name} has no scene that fits ({reasons}): {asked}: change --clouds, "
            "--dates or --area"
        )
    return choice


def choose(scenes: Iterable[Scene], clouds: float) -> Choice:
    """Leave out clouds, other places, and older processings of the same scene."""
    left_out: Counter[str] = Counter()
    kept: list[Scene] = []
    for scene in sorted(scenes, key=_newest_first):
        if not scene.covered:
            left_out["do not reach the area"] += 1
        elif any(_is_same_scene(scene, other) for other in kept):
            left_out["older processings of another scene"] += 1
        else:
            kept.append(scene)
    # The cloud cover is that of the newest processing: an older one must not take its place.
    fit = [scene for scene in kept if (scene.clouds or 0) <= clouds]
    if cloudy := len(kept) - len(fit):
        left_out[f"cloudier than {clouds:g} %"] = cloudy
    return Choice(sorted(fit, key=lambda scene: (scene.time, scene.name)), left_out)


def _newest_first(scene: Scene) -> tuple[int, int, float, str]:
    major, minor = scene.baseline or (0, 0)
    made = scene.item["properties"]
    stamp = str(made.get("s2:generation_time") or made.get("updated") or made.get("created") or "")
    return -major, -minor, -_seconds(stamp), scene.name


def _seconds(stamp: str) -> float:
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_same_scene(one: Scene, other: Scene) -> bool:
    """The same satellite over the same ground at the same time; a part of a split tile is not."""
    first, second = one.item["properties"], other.item["properties"]
    return (
        one.tile == other.tile
        and first.get("platform") == second.get("platform")
        and abs(one.time - other.time) < SAME_PASS
        and overlap(one.item["geometry"], other.item["geometry"]) > SAME_PLACE
    )


def _scene(item: dict[str, Any], area: Area) -> Scene:
    identity = str(item.get("id"))
    try:
        properties = item["properties"]
        moment = datetime.fromisoformat(properties["datetime"] or properties["start_datetime"])
        clouds = properties.get("eo:cloud_cover")
        _check_assets(item["assets"])
        return Scene(
            item=item,
            name=_name(identity),
            time=moment if moment.tzinfo else moment.replace(tzinfo=UTC),
            tile=_tile(properties),
            baseline=_baseline(properties, identity),
            clouds=None if clouds is None else float(clouds),
            covered=covered(area, item["geometry"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise SourceError(
            f"item {identity[:100]} of the catalogue is no STAC item "
            f"({type(error).__name__}: {error}): report it to its operator"
        ) from None


def _check_assets(assets: dict[str, Any]) -> None:
    for name, asset in assets.items():
        for key in ("bands", "eo:bands", "raster:bands"):
            if any(not isinstance(band, dict) for band in asset.get(key) or []):
                raise TypeError(f"{key} of asset {name}")


def _name(identity: str) -> str:
    """A name for files; two items do not get the same one."""
    name = NOT_IN_NAMES.sub("_", identity)[:150]
    return (
        name if name == identity else f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    )


def _tile(properties: dict[str, Any]) -> str:
    parts = ("mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square")
    named = properties.get("grid:code") or properties.get("s2:mgrs_tile")
    return str(named or "".join(str(properties.get(part, "")) for part in parts)).removeprefix(
        "MGRS-"
    )


def _baseline(properties: dict[str, Any], identity: str) -> tuple[int, int] | None:
    """From the properties, or from a product's name (`_N0509_`)."""
    given = properties.get("s2:processing_baseline") or properties.get("processing:version") or ""
    match = re.fullmatch(r"(\d+)\.(\d+)", str(given)) or re.search(r"_N(\d\d)(\d\d)_", identity)
    return (int(match[1]), int(match[2])) if match else None


class _Pages(StacApiIO):
    """The pages of one catalogue."""

    def __init__(self, catalogue: Catalogue, patience: Patience) -> None:
        self._catalogue, self._patience = catalogue, patience
        retry = Retry(
            total=patience.tries - 1,
            connect=2,
            read=2,
            backoff_factor=patience.wait / 2,
            status_forcelist=PASSING,
            allowed_methods=None,  # POST too: a search changes nothing
            raise_on_status=False,
            retry_after_max=int(patience.longest),
        )
        super().__init__(max_retries=retry)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PystacClientWarning)
            try:
                # The time-out of StacApiIO itself would be overwritten by that of `open`.
                self._client = Client.open(catalogue.url, stac_io=self, timeout=patience.timeout)
            except (STACError, ClientTypeError) as error:
                raise self._failed(f"it is no STAC API ({error})") from None

    def items(self, box: tuple[float, ...], dates: str) -> Iterable[dict[str, Any]]:
        """Yield every item of a box, page by page."""
        methods = {
            link.extra_fields.get("method", "GET") for link in self._client.get_links("search")
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PystacClientWarning)
            try:
                found = self._client.search(
                    method="POST" if "POST" in methods else "GET",
                    collections=[self._catalogue.collection],
                    bbox=box,
                    datetime=dates,
                    limit=PAGE,
                )
            except NotImplementedError:
                raise self._failed("it is a static catalogue, without a search") from None
            yield from found.items_as_dicts()

    def hint(self) -> str:
        """Whether the collection exists: a search for an unknown one is empty, and says nothing."""
        names = [collection.id for collection in self._client.get_collections()]
        if self._catalogue.collection in names:
            return ": widen --dates, or check --area"
        what = "it has no such collection" if self._catalogue.collection else "an address needs one"
        return f": {what}: choose --collection of {', '.join(names[:20])}"

    def read_json(self, source: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a page: again if it was cut, as a smaller one if it was too large."""
        problem, attempt = "", 0
        while attempt < self._patience.tries:
            attempt += 1
            try:
                return dict(super().read_json(source, *args, **kwargs))
            except JSONDecodeError:
                problem = "the page is cut, or no JSON"
            except APIError as error:
                problem, status = str(error).strip(), getattr(error, "status_code", None)
                if status == HTTPStatus.BAD_GATEWAY and _halve_limit(source, kwargs):
                    attempt = 0
                    continue
                if status or "Max retries" in problem:  # has had its tries
                    tries = 1 if status and status not in PASSING else self._patience.tries
                    raise self._failed(f"{_reason(status, problem)}, {tries} tries") from None
            time.sleep(self._patience.wait * (2**attempt - 1))
        raise self._failed(f"{problem[:100]}, {attempt} tries")

    def _failed(self, problem: str) -> SourceError:
        if fault := missing_certificates():
            return SourceError(fault)
        host = urlsplit(self._catalogue.url).netloc
        return SourceError(
            f"{self._catalogue.name} ({host}) cannot be searched: {problem}: check the network and "
            "--catalogue, or try again later"
        )


def _reason(status: int | None, text: str) -> str:
    """What pystac-client says, shorter: it quotes requests, or has the page of a proxy."""
    if status:
        return f"HTTP {status}" + (f" ({text[:100]})" if text and not text.startswith("<") else "")
    cause = re.search(r"Caused by (\w+)", text)
    name = cause[1] if cause else "unknown"
    return "no answer in time" if "Timeout" in name else f"no connection ({name})"


def _halve_limit(source: Any, kwargs: dict[str, Any]) -> bool:
    """Ask for a smaller page: of the first request, or of the link to the next page."""
    bodies = [kwargs.get("parameters"), getattr(source, "extra_fields", {}).get("body")]
    halved = False
    for body in bodies:
        if body and int(body.get("limit") or 0) // 2 >= SMALLEST_PAGE:
            body["limit"] = int(body["limit"]) // 2
            halved = True
    target = str(getattr(source, "target", ""))
    if (match := LIMIT.search(target)) and int(match[2]) // 2 >= SMALLEST_PAGE:
        source.target = LIMIT.sub(rf"\g<1>{int(match[2]) // 2}", target)
        halved = True
    return halved
