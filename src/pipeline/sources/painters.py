"""One painter a land cover: lays materials out on the ground of a scene.

A painter maps a scene to the reflectance of its ground, (4, GRID, GRID). Classes overlap on
purpose: fields fade in season, orchards lose their rows, motorways cross suburbs, and many chips
straddle a neighbouring land cover.
"""

from collections.abc import Callable

import numpy as np

from pipeline.sources.scene import GRID, Array, Labels, Scene, band, mix

STRADDLE = 0.3  # share of chips with a neighbouring land cover; more makes the task harder


def forest(scene: Scene) -> Array:
    """Conifers and broadleaves in stands, with clearings."""
    stands = scene.patches(200, scene.draw(0, 1), edge=1.5)
    canopy = mix(scene.material("conifer"), scene.material("broadleaf"), stands)
    clearings = scene.patches(120, scene.draw(0, 0.2))
    return mix(canopy * scene.texture(30, 0.07), scene.material("shrub"), clearings)


def herbaceous(scene: Scene) -> Array:
    """Grass that nobody mows: dry spots, shrubs, some bare ground."""
    meadow = mix(scene.material("grass"), scene.material("straw"), scene.patches(150, 0.4, 1.5))
    bushes = 0.85 * scene.patches(80, scene.draw(0.05, 0.45), edge=1.4)
    bare = 0.5 * scene.patches(60, scene.draw(0, 0.12), edge=0.8)
    ground = mix(mix(meadow, scene.material("shrub"), bushes), scene.material("dry soil"), bare)
    return ground * scene.texture(60, 0.045)


def pasture(scene: Scene) -> Array:
    """Even grass in a few enclosures, with hedges and lone trees."""
    labels = scene.parcels(int(scene.draw(1, 5)))
    grazed = scene.each(labels, 0, 0.4) + 0.15 * scene.patches(120, 0.5, 1.0)
    ground = mix(scene.material("grass"), scene.material("straw"), grazed)
    ground = mix(ground, scene.material("broadleaf"), scene.patches(25, scene.draw(0, 0.08)))
    ground = mix(ground, scene.material("broadleaf"), scene.draw(0, 0.8) * borders(labels))
    return ground * scene.texture(60, 0.03)


def borders(labels: Labels) -> Array:
    """Mark the cells where one parcel meets the next, (GRID, GRID)."""
    east = labels != np.roll(labels, 1, axis=1)
    south = labels != np.roll(labels, 1, axis=0)
    east[:, 0] = south[0] = False
    edges: Array = (east | south).astype(np.float32)
    return edges


def rows(scene: Scene, labels: Labels, low: float, high: float) -> Array:
    """Draw planted rows `low` to `high` metres apart, by parcel at its own angle, 0 to 1."""
    along, across = scene.axes()
    angle = scene.each(labels, 0, 0.6) + np.pi / 2 * (scene.each(labels, 0, 1) > 0.5)
    distance = np.cos(angle) * across + np.sin(angle) * along
    return 0.5 + 0.5 * np.cos(2 * np.pi * distance / scene.each(labels, low, high))


def annual_crop(scene: Scene) -> Array:
    """Large fields, from ploughed to green to ripe, with tramlines."""
    labels = scene.parcels(int(scene.draw(2, 11)))
    soil = mix(scene.material("moist soil"), scene.material("dry soil"), scene.each(labels, 0, 1))
    ripe = (scene.each(labels, 0, 1) > 0.6) * scene.each(labels, 0.3, 1)
    crop = mix(scene.material("green crop"), scene.material("ripe crop"), ripe)
    cover: Array = np.clip(scene.each(labels, -0.4, 1.2) + 0.10 * scene.field(150), 0, 1)
    cover = cover * (1 - scene.draw(0, 0.35) * rows(scene, labels, 20, 36))
    ground = mix(soil, crop, cover)
    ground = mix(ground, scene.material("grass"), scene.draw(0, 0.9) * borders(labels))
    return ground * scene.texture(100, 0.04)


def permanent_crop(scene: Scene) -> Array:
    """Orchards and vineyards: smaller parcels, woody rows over soil or grass."""
    labels = scene.parcels(int(scene.draw(6, 18)))
    soil = mix(scene.material("moist soil"), scene.material("dry soil"), scene.each(labels, 0, 1))
    floor = mix(soil, scene.material("grass"), scene.each(labels, 0, 0.5))
    woody = mix(scene.material("shrub"), scene.material("broadleaf"), scene.each(labels, 0, 1))
    depth = scene.each(labels, 0.15, 0.9)
    cover = scene.each(labels, 0.35, 0.9) * (1 - depth * rows(scene, labels, 16, 30))
    ground = mix(floor, woody, np.clip(cover + 0.06 * scene.field(40), 0, 1))
    ground = mix(ground, scene.material("dry soil"), scene.draw(0, 0.7) * borders(labels))
    return ground * scene.texture(60, 0.045)


def highway(scene: Scene) -> Array:
    """A dual carriageway through the country, between verges, and at times a junction."""
    ground = scene.land(annual_crop, pasture, permanent_crop, herbaceous, forest, residential)
    verge = mix(scene.material("straw"), scene.material("grass"), scene.draw(0.2, 1))
    road = mix(scene.material("asphalt"), scene.material("concrete"), scene.draw(0, 0.6))
    for _ in range(1 + scene.chance(0.4)):
        _, across = scene.axes(bend=scene.draw(0, 12))
        across = across + scene.draw(-120, 120)
        lanes, median = scene.draw(10, 22), scene.draw(0, 12)
        width = 2 * lanes + median
        ground = mix(ground, verge, band(across, width + scene.draw(10, 50)))
        ground = mix(ground, road, band(across, width) - 0.8 * band(across, median))
    return ground


def river(scene: Scene) -> Array:
    """Water that meanders through the country, between trees or gravel."""
    ground = scene.land(annual_crop, pasture, herbaceous, forest, residential)
    along, across = scene.axes(bend=scene.draw(5, 35))
    swing = scene.draw(0, 80) * np.sin(2 * np.pi * along / scene.draw(400, 900) + scene.draw(0, 6))
    distance = across + swing + scene.draw(-120, 120)
    width = scene.draw(18, 150) * scene.texture(200, 0.12)
    banks = scene.material("sand" if scene.chance(0.2) else "broadleaf")
    bank = np.clip(scene.draw(0, 1) + 0.5 * scene.field(60), 0, 0.9)
    ground = mix(ground, banks, bank * band(distance, width + scene.draw(10, 60)))
    return mix(ground, water(scene, scene.draw(0.2, 1)), band(distance, width))


def water(scene: Scene, turbidity: float) -> Array:
    """Water with plumes of sediment, `turbidity` from 0 to 1."""
    plumes = np.clip(turbidity + 0.25 * scene.field(400), 0, 1)
    return mix(scene.material("clear water"), scene.material("turbid water"), plumes)


def sea_lake(scene: Scene) -> Array:
    """Open water with swell and glint, and at times a shore."""
    ground: Array = water(scene, scene.draw(0, 0.7)) * scene.texture(40, 0.03) + scene.draw(
        0, 0.012
    )
    if scene.chance(0.4):
        land = scene.land(forest, herbaceous, pasture, residential)
        shore = scene.patches(500, scene.draw(0.05, 0.5), edge=0.05)
        beach = scene.chance(0.5) * np.clip(4 * shore * (1 - shore), 0, 1)
        ground = mix(mix(ground, land, shore), scene.material("sand"), beach)
    return ground


def buildings(scene: Scene, ground: Array, depth: float, built: float, roofs: list[str]) -> Array:
    """Lay streets, and put a building on a share `built` of the lots, `depth` metres deep each."""
    width = depth * scene.draw(1.0, 1.6)
    along, across = scene.axes(bend=scene.draw(0, 25))
    x, y = along / width, across / depth  # in lots
    lots = (np.floor(x).astype(int) * GRID + np.floor(y).astype(int)) % GRID**2
    house = band((x % 1 - 0.5) * width, width * scene.draw(0.4, 0.7))
    house = house * band((y % 1 - 0.5) * depth, depth * scene.draw(0.4, 0.7))
    house = house * (scene.each(lots, 0, 1) < built)
    streets = np.maximum(band(((x + 3) % 6 - 3) * width, 7), band(((y + 1) % 2 - 1) * depth, 7))
    ground = mix(ground, scene.material("asphalt"), streets)
    kind = scene.each(lots, 0, len(roofs)).astype(int)
    for index, roof in enumerate(roofs):
        ground = mix(ground, scene.material(roof), house * (kind == index))
    return ground


def residential(scene: Scene) -> Array:
    """Houses among gardens and streets."""
    trees = scene.patches(70, scene.draw(0.2, 0.6), edge=1.2)
    ground = mix(scene.material("grass"), scene.material("broadleaf"), trees)
    ground = mix(ground, scene.material("concrete"), scene.draw(0.05, 0.35))  # paths, sheds, cars
    roofs = ["clay tile", "clay tile", "clay tile", "asphalt", "concrete"]
    return buildings(scene, ground, scene.draw(18, 40), scene.draw(0.35, 0.8), roofs)


def industrial(scene: Scene) -> Array:
    """Large halls between paved yards."""
    plots = scene.parcels(int(scene.draw(4, 12)))
    ground = mix(scene.material("asphalt"), scene.material("concrete"), scene.each(plots, 0, 0.8))
    green = 1.0 * (scene.each(plots, 0, 1) < scene.draw(0.1, 0.5))
    ground = mix(ground, scene.material("grass"), green)
    roofs = ["metal roof", "concrete", "bitumen", "clay tile", "concrete"]
    return buildings(scene, ground, scene.draw(42, 110), scene.draw(0.4, 0.85), roofs)


PAINTERS: dict[str, Callable[[Scene], Array]] = {
    "AnnualCrop": annual_crop,
    "Forest": forest,
    "HerbaceousVegetation": herbaceous,
    "Highway": highway,
    "Industrial": industrial,
    "Pasture": pasture,
    "PermanentCrop": permanent_crop,
    "Residential": residential,
    "River": river,
    "SeaLake": sea_lake,
}
CLASSES = tuple(PAINTERS)


def paint(scene: Scene, label: str) -> Array:
    """Paint the ground of a chip, (4, GRID, GRID) reflectance."""
    ground = PAINTERS[label](scene)
    if label in ("Highway", "River", "SeaLake") or not scene.chance(STRADDLE):
        return ground
    neighbour = scene.land(annual_crop, forest, herbaceous, pasture, permanent_crop)
    return mix(ground, neighbour, scene.patches(600, scene.draw(0.1, 0.42), edge=0.1))
