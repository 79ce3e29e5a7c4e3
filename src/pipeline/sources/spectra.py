"""What the ground reflects: approximate spectra of land-cover materials in four Sentinel-2 bands.

The values are rounded, typical surface reflectances at the band centres (490, 560, 665 and 842 nm),
read off the spectra in

- Kokaly et al. (2017), USGS Spectral Library Version 7, https://doi.org/10.3133/ds1035
  (vegetation, soils, roofing and paving materials);
- Meerdink et al. (2019), The ECOSTRESS spectral library version 1.0, Remote Sensing of Environment
  230, https://doi.org/10.1016/j.rse.2019.05.015 (man-made materials, soils, vegetation, water);
- Jensen (2007), Remote Sensing of the Environment, 2nd ed. (clear and sediment-laden water).

They are good for a picture that looks and mixes like a real one. They are not measurements.
"""

from typing import NamedTuple

BANDS = ("B02", "B03", "B04", "B08")
"""Blue, green, red and near infrared: the four bands that Sentinel-2 takes at 10 m."""

HAZE = (1.0, 0.66, 0.40, 0.20)
"""Path reflectance of haze relative to blue: falls with wavelength about as its power of -3."""

SNR = (154.0, 168.0, 142.0, 172.0)
"""Signal to noise at the reference radiance: Drusch et al. (2012), Sentinel-2, Remote Sensing of
Environment 120, https://doi.org/10.1016/j.rse.2011.11.026."""


class Spectrum(NamedTuple):
    """One material."""

    reflectance: tuple[float, float, float, float]
    """In the order of `BANDS`, 0 to 1."""
    fades: float = 0.0
    """How far the material turns to straw when vegetation is out of season, 0 to 1."""


SPECTRA: dict[str, Spectrum] = {
    # Water absorbs the near infrared; sediment lifts green and red.
    "clear water": Spectrum((0.032, 0.026, 0.012, 0.005)),
    "turbid water": Spectrum((0.050, 0.078, 0.066, 0.024)),
    # Leaves absorb blue and red (chlorophyll) and scatter the near infrared (cell walls).
    "conifer": Spectrum((0.018, 0.034, 0.021, 0.220), fades=0.05),
    "broadleaf": Spectrum((0.025, 0.052, 0.029, 0.390), fades=0.30),
    "shrub": Spectrum((0.033, 0.056, 0.052, 0.250), fades=0.30),
    "grass": Spectrum((0.035, 0.076, 0.053, 0.380), fades=0.60),
    "green crop": Spectrum((0.030, 0.066, 0.036, 0.450), fades=0.50),
    "ripe crop": Spectrum((0.075, 0.118, 0.155, 0.310)),
    "straw": Spectrum((0.085, 0.125, 0.165, 0.280)),
    # Soils brighten with wavelength and darken when wet.
    "dry soil": Spectrum((0.105, 0.145, 0.195, 0.275)),
    "moist soil": Spectrum((0.050, 0.072, 0.098, 0.150)),
    "sand": Spectrum((0.175, 0.235, 0.285, 0.350)),
    # What people build is grey, apart from tiles.
    "asphalt": Spectrum((0.085, 0.098, 0.110, 0.130)),
    "concrete": Spectrum((0.190, 0.225, 0.250, 0.285)),
    "clay tile": Spectrum((0.075, 0.105, 0.195, 0.255)),
    "bitumen": Spectrum((0.052, 0.056, 0.062, 0.072)),
    "metal roof": Spectrum((0.380, 0.400, 0.415, 0.430)),
}
