"""Simulation studies: declare one, run it anywhere, kill it, resume it, get the table with Monte Carlo errors.

    study = Study(
        design=designs.cluster_trial, grid={"clusters": [6, 10, 20], "size": [10]},
        generate=MixedModel("y ~ arm + (1 | cluster)", {"arm": 0.0}, {"cluster": 0.05, "residual": 0.95}),
        estimators=[Estimator("mixed", "y ~ arm + (1 | cluster)", df=("asymptotic", "kenward-roger"))],
        targets={"arm": 0.0}, replicates=10_000, seed=1,
    )
    results = run(study, "type1")
    results.summary()

Files a newcomer reads in order: `declare` (what a study is) with `cells`, `estimators` and `describe`; `drawing`,
`generate` and `published`, `estimate`, `jointly`, `selecting`, `resampling`, `laws`, `applying` and `analyses` (one
chunk), `chunk` and `parts` (its rows), `rehearsal` (what is wrong with it), `store` and `progress` (the directory),
`executors` and `cluster` (who works), `running`, `until`, `merging`, `measures`, `ademp` and `results` (what came out),
`single`, `plots`, `page`, `sizing`, `power`; `toml` reads a study from a file.
"""

from . import analyses, designs, plots
from .declare import Study
from .estimators import Analysis, Estimator, Target
from .executors import Inline, Processes
from .generate import Dropout, MixedModel
from .merging import merge
from .page import report
from .power import power_curve
from .progress import Progress, status
from .published import published
from .results import Results, read
from .running import run
from .single import StudyReplicate
from .sizing import SampleSize, sample_size
from .store import StudyError
from .until import run_until

__all__ = [
    "Analysis",
    "Dropout",
    "Estimator",
    "Inline",
    "MixedModel",
    "Processes",
    "Progress",
    "Results",
    "SampleSize",
    "Study",
    "StudyError",
    "StudyReplicate",
    "Target",
    "analyses",
    "designs",
    "merge",
    "plots",
    "power_curve",
    "published",
    "read",
    "report",
    "run",
    "run_until",
    "sample_size",
    "status",
]
