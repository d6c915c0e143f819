"""What the shipped data sets are: titles, columns, factor levels and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Description:
    """What a shipped data set holds.

    Attributes
    ----------
    name : str
        The name :func:`jaxlmm.datasets.load` takes.
    title : str
        One line.
    columns : Mapping[str, str]
        Column name to meaning, with units.
    source : str
        Citation.
    formula : str
        A model that is often fitted to these data.
    factors : Mapping[str, tuple of str]
        Factor columns and the order of their levels, the first one being the reference. An empty
        tuple stands for the natural order: "2" before "10", "PT9" before "PT10".
    """

    name: str
    title: str
    columns: Mapping[str, str]
    source: str
    formula: str
    factors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        """Title, columns, example formula and source, as text."""
        width = max(map(len, self.columns))
        lines = [f"{self.name}: {self.title}", ""]
        lines += [f"  {column:<{width}}  {meaning}" for column, meaning in self.columns.items()]
        return "\n".join([*lines, "", f"  model   {self.formula}", f"  source  {self.source}"])


_ORTHODONT_SUBJECTS = (
    *("M16", "M05", "M02", "M11", "M07", "M08", "M03", "M12", "M13", "M14", "M09", "M15", "M06", "M04"),
    *("M01", "M10", "F10", "F09", "F06", "F01", "F05", "F07", "F02", "F08", "F03", "F04", "F11"),
)

_ALL = (
    Description(
        name="sleepstudy",
        title="reaction times of 18 people over ten days of little sleep",
        columns={
            "Reaction": "average reaction time of the day (ms)",
            "Days": "days of sleep deprivation (0 to 9)",
            "Subject": "person (18)",
        },
        source="Belenky et al. (2003), Journal of Sleep Research 12:1-12; R package lme4",
        formula="Reaction ~ Days + (Days | Subject)",
        factors={"Subject": ()},
    ),
    Description(
        name="dyestuff",
        title="yield of dyestuff from six batches of an intermediate product",
        columns={"Batch": "batch of the intermediate product (6)", "Yield": "yield of standard colour (g)"},
        source="Davies and Goldsmith (1972), Statistical Methods in Research and Production, 4th ed.; R package lme4",
        formula="Yield ~ 1 + (1 | Batch)",
        factors={"Batch": ()},
    ),
    Description(
        name="dyestuff2",
        title="simulated yields like dyestuff's in which the batch variance is estimated as zero",
        columns={"Batch": "batch (6)", "Yield": "simulated yield (no unit)"},
        source="Box and Tiao (1973), Bayesian Inference in Statistical Analysis; R package lme4",
        formula="Yield ~ 1 + (1 | Batch)",
        factors={"Batch": ()},
    ),
    Description(
        name="penicillin",
        title="six samples of penicillin, each assayed on 24 plates: crossed factors",
        columns={
            "diameter": "diameter of the zone of inhibition (mm)",
            "plate": "assay plate (24)",
            "sample": "penicillin sample (6)",
        },
        source="Davies and Goldsmith (1972), Statistical Methods in Research and Production, 4th ed.; R package lme4",
        formula="diameter ~ 1 + (1 | plate) + (1 | sample)",
        factors={"plate": (), "sample": ()},
    ),
    Description(
        name="pastes",
        title="strength of a chemical paste, casks nested in batches",
        columns={
            "strength": "paste strength (no unit)",
            "batch": "delivery batch (10)",
            "cask": "cask within the batch (3)",
        },
        source="Davies and Goldsmith (1972), Statistical Methods in Research and Production, 4th ed.; R package lme4",
        formula="strength ~ 1 + (1 | batch/cask)",
        factors={"batch": (), "cask": ()},
    ),
    Description(
        name="cake",
        title="breaking angle of chocolate cakes by recipe and baking temperature: a split plot",
        columns={
            "replicate": "replicate of the recipe (15)",
            "recipe": "recipe (3)",
            "temperature": "baking temperature, as a factor (6, degrees F)",
            "temp": "baking temperature, as a number (degrees F)",
            "angle": "angle at which the cake broke (degrees)",
        },
        source="Cook (1938); Cochran and Cox (1957), Experimental Designs, table 7.5; R package lme4",
        formula="angle ~ recipe * temperature + (1 | recipe:replicate)",
        factors={"replicate": (), "recipe": (), "temperature": ()},
    ),
    Description(
        name="machines",
        title="productivity scores of six workers on three machines",
        columns={"Worker": "worker (6)", "Machine": "machine (3)", "score": "productivity (no unit)"},
        source="Milliken and Johnson (1992), Analysis of Messy Data, vol. 1, p. 285; R package nlme",
        formula="score ~ Machine + (0 + Machine | Worker)",
        factors={"Worker": (), "Machine": ()},
    ),
    Description(
        name="oats",
        title="oat yields by variety and nitrogen: a split plot in six blocks",
        columns={
            "Block": "block of the field (6)",
            "Variety": "variety of oats (3), on whole plots",
            "nitro": "nitrogen, as a number (hundredweight per acre)",
            "Nitrogen": "nitrogen, as a factor (4), on subplots",
            "yield": "yield of the subplot (quarter pounds)",
        },
        source="Yates (1935), Supplement to the Journal of the Royal Statistical Society 2:181-247; R package nlme",
        formula="yield ~ Variety * Nitrogen + (1 | Block/Variety)",
        factors={"Block": ("VI", "V", "III", "IV", "II", "I"), "Variety": (), "Nitrogen": ()},
    ),
    Description(
        name="orthodont",
        title="growth of a facial distance in 27 children from age 8 to 14",
        columns={
            "distance": "from the pituitary to the pterygomaxillary fissure (mm)",
            "age": "age (years)",
            "Subject": "child (27)",
            "Sex": "Male or Female",
        },
        source="Potthoff and Roy (1964), Biometrika 51:313-326; R package nlme",
        formula="distance ~ age * Sex + (age | Subject)",
        factors={"Subject": _ORTHODONT_SUBJECTS, "Sex": ("Male", "Female")},
    ),
    Description(
        name="ergostool",
        title="effort to arise from four types of stools, nine people",
        columns={
            "effort": "effort to arise (Borg scale)",
            "Type": "type of stool (4)",
            "Subject": "person (9)",
        },
        source="Devore (2000), Probability and Statistics for Engineering and the Sciences; R package nlme",
        formula="effort ~ Type + (1 | Subject)",
        factors={"Type": (), "Subject": ("8", "5", "4", "9", "6", "3", "7", "1", "2")},
    ),
    Description(
        name="fev_data",
        title="artificial trial: lung function of 200 patients at four visits, some missing",
        columns={
            "USUBJID": "patient (200)",
            "AVISIT": "visit (4)",
            "ARMCD": "arm: PBO (placebo) or TRT (treatment)",
            "RACE": "race (3)",
            "SEX": "Male or Female",
            "FEV1_BL": "forced expiratory volume in one second at baseline",
            "FEV1": "forced expiratory volume in one second, 263 of 800 missing",
            "WEIGHT": "made-up prior weight",
            "VISITN": "visit, as a number",
            "VISITN2": "made-up irregular coordinate of the visit",
        },
        source="artificial data of the R package mmrm (openpharma, Apache-2.0)",
        formula="FEV1 ~ RACE + SEX + ARMCD * AVISIT + (1 | USUBJID)",
        factors={"USUBJID": (), "AVISIT": (), "ARMCD": (), "RACE": (), "SEX": ("Male", "Female")},
    ),
)

CATALOGUE: Mapping[str, Description] = {description.name: description for description in _ALL}
