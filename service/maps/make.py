"""The use case: a scene and a model in, a map and its STAC item out.

Strips are read one ahead of those that workers map, and kept in the work file as they finish. A
process that is killed loses the strips in the workers' hands, and the next call goes on from there.
"""

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from contracts.bundle import NODATA, Segmentation
from service.errors import BundleRefused, ServiceError, Unprocessable
from service.files import replace_file
from service.inference.bundle import Bundle, read_bundle
from service.maps import likeness, scene as scenes
from service.maps.cog import write_map
from service.maps.grid import Grid, Strip
from service.maps.item import Origin, item_of, unsure_share
from service.maps.pool import Pool, working
from service.maps.radiometry import check_darkest
from service.maps.scene import Reader, Scene, open_scene
from service.maps.work import Counts, Work, count, refusal, total, work_on
from service.maps.worker import Setup

VERSION = 1  # of how the pixels of a map are made; another one begins work files anew
SLOTS = 2  # strips in memory: one is read while the other is mapped
PAUSE = 0.2  # seconds between two looks at whether the caller wants to stop
TILE = 768  # pixels: two workers take less than 1 GiB with a U-Net of 0.12 M parameters
TILES = (64, 4096)
SUFFIXES = (".tif", ".tiff")

log = logging.getLogger("service.maps")


class Cancelled(ServiceError):
    """The caller wanted no more of it; what is finished is kept."""

    status = 409


class Options(NamedTuple):
    """How to make a map."""

    workers: int = 0
    """Processes; 0: one a core."""
    tile: int = TILE
    """Edge of a tile, pixels, at most. The map is the same for any."""
    bands: tuple[str, ...] = ()
    """Names of the scene's bands, where the file has none."""
    offset: int | None = None
    """Digital numbers to add to the scene's, where the file is silent or wrong."""
    item: Path | None = None
    """STAC item of the scene; otherwise it is looked for beside it."""
    tag: str = ""
    """Of the model, for the item of the map."""
    scene_href: str = ""
    model_href: str = ""
    """Addresses for the item, where paths must not be seen."""


class Made(NamedTuple):
    """A finished map."""

    item: dict[str, Any]
    item_path: Path
    counts: Counts
    warnings: list[str]


def make_map(
    scene: Path,
    target: Path,
    bundle: Path,
    options: Options = Options(),
    progress: Callable[[int, int], None] = lambda done, of: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Made:
    """Map a scene into `target`, with its item beside it as NAME.json.

    GDAL runs in this process, so a server calls this in a child; killing it at any time is safe.

    Args:
        scene: GeoTIFF.
        target: the map; replaced in one step when it is whole.
        bundle: folder of a segmentation model. It is read once, at the beginning.
        options: see there.
        progress: called with finished and all tiles.
        cancelled: asked several times a second; where it says yes, Cancelled is raised.

    Raises:
        ServiceError: the scene, the model or the disk does not allow it; field, value, cure.
    """
    _check_options(target, scene, options)
    model = read_bundle(bundle)
    manifest = _segmentation(model)
    with ExitStack() as stack:
        opened = stack.enter_context(
            open_scene(scene, manifest, options.bands, options.offset, options.item)
        )
        grid, setup = plan(opened, model, manifest, options.tile)
        sha256 = scenes.digest(scene)
        sample = likeness.take_sample(opened, manifest)
        given = options.offset is not None
        check_darkest(sample.ground, sample.below_zero, opened.offset, given, manifest)
        work = stack.enter_context(
            work_on(target, _key(sha256, opened, manifest, grid), *opened.dataset.shape)
        )
        pool = stack.enter_context(working(options.workers or cores(), setup, model.graph))
        far = likeness.find_drift(sample, manifest, pool)
        try:
            _map_strips(opened, grid, work, pool, manifest, progress, cancelled)
        except OSError as error:
            raise refusal(error, target) from None
        except Unprocessable:
            work.is_needed = False  # another file has another digest
            raise
        counts = total(work.done.values())
        if not sum(counts.labels):
            work.is_needed = False
            raise Unprocessable(
                f"no pixel of {scene.name} has data: every band is {opened.conversion.nodata}: "
                "take another scene"
            )
        pool.close()
        write_map(target, work, opened.dataset, manifest)
        origin = Origin(sha256, bundle, options.tag, options.scene_href, options.model_href)
        made = _describe(target, opened, manifest, counts, origin, far)
        work.is_needed = False
    return made


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan(scene: Scene, model: Bundle, manifest: Segmentation, tile: int) -> tuple[Grid, Setup]:
    """Divide a scene for a model.

    A network that is not exact gets windows as large as the chips that it learned from; they
    overlap by half, so that half of one is both stride and margin.
    """
    stride, margin, window = manifest.stride, manifest.margin, 0
    if not manifest.exact:
        edge = min(manifest.input.height, manifest.input.width)
        stride = margin = max(1, edge // 2 // stride) * stride
        window = 2 * margin
        log.warning("the network is not exact in tiles: windows of %d pixels are blended", window)
    height, width = scene.dataset.shape
    grid = Grid(height, width, max(tile // stride, 1) * stride, stride, margin)
    setup = Setup(
        graph=len(model.graph),
        dtype=manifest.input.dtype,
        bands=len(manifest.input.bands),
        slots=SLOTS,
        strip=grid.panel,
        tile=grid.tile,
        margin=margin,
        window=window,
        classes=len(manifest.classes),
        nodata=NODATA,
    )
    return grid, setup


def _check_options(target: Path, scene: Path, options: Options) -> None:
    if target.suffix.lower() not in SUFFIXES:
        raise Unprocessable(f"-o {target.name}: a map is a GeoTIFF: name it NAME.tif")
    if not target.parent.is_dir():
        raise Unprocessable(f"-o {target.name}: its folder does not exist: make it first")
    if target.resolve() == scene.resolve():
        raise Unprocessable(f"-o {target.name} is the scene itself: take another name")
    if scene.with_suffix(".json").resolve() == target.with_suffix(".json").resolve():
        raise Unprocessable(f"-o {target.name}: its item would replace the scene's: rename it")
    if not TILES[0] <= options.tile <= TILES[1]:
        raise Unprocessable(f"--tile {options.tile}: take {TILES[0]} to {TILES[1]} pixels")
    if options.workers < 0 or options.workers > 1024:
        raise Unprocessable(f"--workers {options.workers}: take 1 to 1024, or 0 for one a core")


def _segmentation(model: Bundle) -> Segmentation:
    if not isinstance(model.manifest, Segmentation):
        raise BundleRefused(
            f"--bundle holds a model of the task {model.manifest.task}, which has one answer for "
            "a whole image: use a segmentation model (model.task in params.yaml)"
        )
    return model.manifest


def _key(sha256: str, scene: Scene, manifest: Segmentation, grid: Grid) -> str:
    """Digest of everything that decides on the strips and their pixels."""
    parts = [VERSION, sha256, manifest.sha256, scene.bands, scene.conversion, grid.tile, grid.panel]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _map_strips(
    scene: Scene,
    grid: Grid,
    work: Work,
    pool: Pool,
    manifest: Segmentation,
    progress: Callable[[int, int], None],
    cancelled: Callable[[], bool],
) -> None:
    """Map the strips that are not finished."""
    strips = grid.strips()
    of = sum(len(grid.tiles(strip)) for strip in strips)
    done = sum(len(grid.tiles(strip)) for strip in strips if strip.number in work.done)
    progress(done, of)
    reader = Reader(scene, grid)
    pending: deque[tuple[Strip, int, list[Future[Any]]]] = deque()

    def keep_oldest() -> int:
        strip, slot, tasks = pending.popleft()
        _await(tasks, cancelled)
        height, width = (span.stop - span.start for span in (strip.rows, strip.columns))
        planes = pool.memory.outputs[slot][:, :height, :width]
        work.add(strip, planes, count(planes, len(manifest.classes)))
        return len(grid.tiles(strip))

    todo = [strip for strip in strips if strip.number not in work.done]
    for turn, strip in enumerate(todo):
        if len(pending) == SLOTS:
            done += keep_oldest()
            progress(done, of)
        slot = turn % SLOTS
        reader.fill(strip, pool.memory.inputs[slot])
        pending.append((strip, slot, list(_submit(strip, slot, grid, pool, manifest))))
    while pending:
        done += keep_oldest()
        progress(done, of)


def _submit(
    strip: Strip, slot: int, grid: Grid, pool: Pool, manifest: Segmentation
) -> Iterator[Future[Any]]:
    """Queue the tiles of a strip; one without data is answered here."""
    rows, columns = grid.tile
    numbers, answers = pool.memory.inputs[slot], pool.memory.outputs[slot]
    inner = slice(grid.margin, grid.margin + rows)
    for left in grid.tiles(strip):
        tile = numbers[:, inner, left + grid.margin : left + grid.margin + columns]
        if manifest.input.nodata is not None and not _has_data(tile, manifest.input.nodata):
            answers[:, :, left : left + columns] = NODATA
        else:
            yield pool.submit({"slot": slot, "left": left})


def _has_data(tile: Any, nodata: int) -> bool:
    """Whether any pixel has data; a few are looked at first."""
    return bool((tile[:, ::16, ::16] != nodata).any() or (tile != nodata).any())


def _await(tasks: list[Future[Any]], cancelled: Callable[[], bool]) -> None:
    left = set(tasks)
    while left:
        finished, left = wait(left, PAUSE)
        for task in finished:
            task.result()
        if cancelled():
            raise Cancelled("the map was cancelled; what is finished is kept for another start")


def _describe(
    target: Path,
    scene: Scene,
    manifest: Segmentation,
    counts: Counts,
    origin: Origin,
    far: dict[str, float],
) -> Made:
    away = likeness.outside(scene, manifest)
    said = likeness.warnings(away, unsure_share(counts), far, scene, manifest)
    if (scene.item or {}).get("properties", {}).get("datetime") is None:
        said.append("the date of the scene is unknown: `datetime` is when the map was made")
    findings = {"warnings": said, "drift": far, "outside": round(away, 4)}
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    sha256 = scenes.digest(target)
    item = item_of(target, sha256, scene, manifest, counts, origin, created, findings)
    path = target.with_suffix(".json")
    try:
        replace_file(path, json.dumps(item, indent=2) + "\n")
    except OSError as error:
        raise refusal(error, path) from None
    return Made(item, path, counts, said)
