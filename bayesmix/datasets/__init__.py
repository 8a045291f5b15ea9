"""Small real data sets, each with its source, as pandas DataFrames.

The numbers are published facts; the files in this folder hold them as their sources print them.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "load_biochemists",
    "load_death_notices",
    "load_diabetes",
    "load_faithful",
    "load_galaxies",
    "load_iris",
    "load_thyroid",
]


def load_faithful() -> pd.DataFrame:
    """Eruptions of the Old Faithful geyser in Yellowstone, August 1985: 272 x 2.

    `eruptions` : how long it erupted, minutes (1.6 to 5.1).
    `waiting` : how long until the next eruption, minutes (43 to 96, rounded to whole minutes).

    Source: Azzalini & Bowman (1990), A look at some data on the Old Faithful geyser, Applied
    Statistics 39, 357-365; Härdle (1991), Smoothing techniques with implementation in S; as
    `faithful` in R.
    """
    return _read("faithful")


def load_iris() -> pd.DataFrame:
    """Fifty flowers of each of three species of iris: 150 x 5.

    `sepal_length`, `sepal_width`, `petal_length`, `petal_width` : cm, to one decimal.
    `species` : "setosa", "versicolor" or "virginica".

    Source: Anderson (1935), The irises of the Gaspé peninsula; Fisher (1936), The use of multiple
    measurements in taxonomic problems, Annals of Eugenics 7, 179-188; as `iris` in R.
    """
    return _read("iris")


def load_galaxies() -> pd.DataFrame:
    """Velocities of 82 galaxies in the Corona Borealis region: 82 x 2, in 1000 km/s.

    `velocity_mass` : with row 78 as 26.690, a typing error of the widely used copy in R's MASS.
    `velocity_corrected` : with row 78 as 26.960, as published. The other 81 rows are equal.

    Source: Postman, Huchra & Geller (1986), Probes of large-scale structure in the Corona Borealis
    region, Astronomical Journal 92, 1238-1247; Roeder (1990), Density estimation with confidence
    sets exemplified by superclusters and voids in the galaxies, JASA 85, 617-624.
    """
    return _read("galaxies") / 1000.0


def load_thyroid() -> pd.DataFrame:
    """Five laboratory tests of 215 patients' thyroid function: 215 x 6.

    `diagnosis` : "Normal", "Hypo" or "Hyper", from the full medical record.
    `RT3U` : T3-resin uptake test, percent.  `T4` : total serum thyroxin.
    `T3` : total serum triiodothyronine.  `TSH` : basal thyroid-stimulating hormone.
    `DTSH` : largest change of TSH after an injection of thyrotropin-releasing hormone.

    Source: Coomans, Broeckaert, Jonckheer & Massart (1983), Comparison of multivariate
    discriminant techniques for clinical data, Methods of Information in Medicine 22, 93-101; as
    `thyroid` in R's mclust.
    """
    return _read("thyroid")


def load_diabetes() -> pd.DataFrame:
    """Three blood measurements of 145 adults, not obese: 145 x 4.

    `class` : "Normal", "Chemical" or "Overt" diabetes.
    `glucose` : area under the plasma glucose curve.  `insulin` : area under the plasma insulin
    curve.  `sspg` : steady-state plasma glucose.

    Source: Reaven & Miller (1979), An attempt to define the nature of chemical diabetes using a
    multidimensional analysis, Diabetologia 16, 17-24; as `diabetes` in R's mclust, which says that
    this copy differs from the published data. Kept for comparison with it.
    """
    return _read("diabetes")


def load_death_notices() -> pd.DataFrame:
    """Death notices of women aged 80 and over in The Times, per day, 1910-1912: 10 x 2.

    `count` : notices on one day, 0 to 9.  `frequency` : on how many of the 1096 days.
    `df["count"].repeat(df["frequency"])` gives one row per day.

    Source: Hasselblad (1969), Estimation of finite mixtures of distributions from the exponential
    family, JASA 64, 1459-1471.
    """
    return _read("death_notices")


def load_biochemists() -> pd.DataFrame:
    """Articles written by 915 doctoral students of biochemistry: 915 x 6.

    `art` : articles in the last three years of the doctorate, 0 to 19.
    `fem` : "Men" or "Women".  `mar` : "Married" or "Single".  `kid5` : children under six.
    `phd` : prestige of the department.  `ment` : articles by the mentor in the same three years.

    Source: Long (1990), The origins of sex differences in science, Social Forces 68, 1297-1316; as
    `bioChemists` in R's pscl.
    """
    return _read("biochemists")


def _read(name: str) -> pd.DataFrame:
    import pandas as pd

    with files(__package__).joinpath(f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)
