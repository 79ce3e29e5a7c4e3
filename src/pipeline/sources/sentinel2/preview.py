"""What would be fetched: a table of scenes, and a map of their footprints in letters."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from pipeline.sources.sentinel2.area import Area
from pipeline.sources.sentinel2.assets import Asset
from pipeline.sources.sentinel2.footprints import drawn
from pipeline.sources.sentinel2.search import Choice, Scene

WIDE = 140  # columns, in a log


def show(
    title: str, area: Area, choice: Choice, describe: Callable[[Scene], tuple[int | None, str]]
) -> None:
    """Print both; `describe` gives the bytes of a scene and its offset, or why it is refused."""
    table = Table("time (UTC)", "scene", "tile", title=title)
    for column in ("clouds %", "covers %", "baseline", "MiB", "offset"):
        table.add_column(column, justify="right")
    total = 0
    for scene in choice.scenes:
        size, offset = describe(scene)
        total += size or 0
        table.add_row(
            f"{scene.time:%Y-%m-%d %H:%M}",
            scene.name,
            scene.tile,
            "?" if scene.clouds is None else f"{scene.clouds:.0f}",
            f"{100 * scene.covered:.0f}",
            "{:02}.{:02}".format(*scene.baseline) if scene.baseline else "?",
            "?" if size is None else f"{size / 2**20:.1f}",
            offset,
        )
    console = Console()
    (console if console.is_terminal else Console(width=WIDE)).print(table)
    print(drawn(area, [scene.item["geometry"] for scene in choice.scenes]))
    print(
        f"{len(choice.scenes)} to fetch, {total / 2**20:.0f} MiB; the map counts them within the "
        "area, and has a dot where one covers what is around it"
    )
    for reason, count in choice.left_out.items():
        print(f"left out: {count} {reason}")


def size_of(assets: Sequence[Asset]) -> int | None:
    """Bytes of files, if the catalogue names all of them."""
    sizes = [asset.size for asset in assets if asset.size]
    return sum(sizes) if len(sizes) == len(assets) else None
