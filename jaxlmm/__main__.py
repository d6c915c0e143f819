"""The command line, ``python -m jaxlmm``: ``fit``, ``datasets``; ``study``, ``merge``, ``status``, ``report``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxlmm

from . import datasets
from .errors import DataError, JaxlmmError
from .frames.files import read_file

USER_ERROR = 2  # the exit status, as argparse's own
INTERRUPTED = 130  # as shells say of SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 2 where the input cannot be used, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        print(options.run(options))
    except (JaxlmmError, OSError, ImportError) as error:
        print(f"jaxlmm: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as error:
        print(f"jaxlmm: {error or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jaxlmm", description="Linear mixed models in JAX.")
    parser.add_argument("--version", action="version", version=f"jaxlmm {jaxlmm.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    fit = commands.add_parser("fit", help="fit a model and print its summary")
    fit.set_defaults(run=_fit)
    fit.add_argument("data", metavar="DATA", help="a shipped data set's name, or the path of a CSV or Parquet file")
    fit.add_argument("formula", metavar="FORMULA", help='as in lme4: "y ~ x + (x | g)"')
    fit.add_argument("--method", default="REML", help="REML (default) or ML")
    fit.add_argument("--weights", metavar="COLUMN", help="prior weights w: Var(e) = sigma^2 / w")
    fit.add_argument("--offset", metavar="COLUMN", help="a known part of the mean")
    fit.add_argument("--engine", default="auto", help="auto (default), or the name of one, see jaxlmm.Model")
    fit.add_argument("--json", action="store_true", help="print the numbers as JSON")

    shipped = commands.add_parser("datasets", help="list the shipped data sets, or describe one")
    shipped.set_defaults(run=_datasets)
    shipped.add_argument("name", nargs="?", metavar="NAME", help="the data set to describe")

    study = commands.add_parser(
        "study",
        help="run a simulation study, or go on with it",
        description="Run a simulation study, or go on with it. FILE is code: the Python file itself, and every .py "
        "file that a study.toml names ('file.py:function'), is run, here and in the workers. Run files that you trust.",
    )
    study.set_defaults(run=_study)
    study.add_argument("file", metavar="FILE", help="study.toml (runs the .py files that it names), or a .py")
    study.add_argument("--out", metavar="DIR", required=True, help="directory of the study")
    study.add_argument("--executor", default="processes", help="processes (default), inline or dask")
    study.add_argument("--workers", type=int, help="worker processes; default one a core or GPU")
    study.add_argument("--scheduler", metavar="ADDRESS", help="of dask, for a cluster that runs")
    study.add_argument("--mixed", action="store_true", help="go on with other versions or another device")
    study.add_argument("--shard", metavar="K/N", help="the K-th of N shares only, for arrays of jobs; see merge")
    merge = commands.add_parser("merge", help="put shares of a study into one directory")
    merge.set_defaults(run=_merge)
    merge.add_argument("dir", metavar="DIR", help="directory of the whole")
    merge.add_argument("shares", metavar="SHARE", nargs="+", help="directories of the shares")
    merge.add_argument("--mixed", action="store_true", help="accept other versions or another device")
    status = commands.add_parser("status", help="how far a simulation study is")
    status.set_defaults(run=_status)
    status.add_argument("dir", metavar="DIR", help="directory of the study")
    report = commands.add_parser("report", help="write the tables and pictures of a study to DIR/report.html")
    report.set_defaults(run=_report)
    report.add_argument("dir", metavar="DIR", help="directory of the study")
    report.add_argument("--out", metavar="FILE", help="write there instead")
    report.add_argument("--level", type=float, default=0.95, help="of intervals")
    report.add_argument("--alpha", type=float, default=0.05, help="of tests")
    return parser


def _fit(options: argparse.Namespace) -> str:
    """Summary or JSON of the fit that the options ask for."""
    fit = jaxlmm.lmm(
        options.formula,
        _read(options.data, [text for text in (options.formula, options.weights, options.offset) if text]),
        method=options.method,
        weights=options.weights,
        offset=options.offset,
        engine=options.engine,
    )
    if not options.json:
        return str(fit.summary())
    return json.dumps(plain(fit_numbers(fit)), indent=2, allow_nan=False)


def _datasets(options: argparse.Namespace) -> str:
    """List of the shipped data sets, or the description of one."""
    if options.name:
        return str(datasets.describe(options.name))
    every = [datasets.describe(name) for name in datasets.names()]
    return "\n".join(f"{one.name:<12}{one.title}\n{'':<12}{one.formula}" for one in every)


def _study(options: argparse.Namespace) -> str:
    """Run the study that a file declares."""
    from .study import cluster, run, toml

    study, executor = toml.read_study(options.file), options.executor
    if options.scheduler:
        executor = cluster.Dask(options.scheduler)
    results = run(study, options.out, executor, options.workers, mixed=options.mixed, shard=options.shard)
    return f"{results}\nin {options.out}; tables and pictures: python -m jaxlmm report {options.out}"


def _merge(options: argparse.Namespace) -> str:
    """Put shares of a study together."""
    from .study import merge

    return f"{merge(options.dir, options.shares, options.mixed)}\nin {options.dir}"


def _status(options: argparse.Namespace) -> str:
    """How far a study is."""
    from .study import status

    return str(status(options.dir))


def _report(options: argparse.Namespace) -> str:
    """Write the report of a study."""
    from .study import report

    return str(report(options.dir, options.level, options.alpha, options.out))


def _read(data: str, mentioned: Sequence[str]) -> Any:
    """A shipped data set, or the table in a file, see `read_file`.

    Raises
    ------
    DataError
        If there is neither such a data set nor such a file, or the file is not a table.
    """
    if data in datasets.names():
        return datasets.load(data)
    if not Path(data).is_file():
        raise DataError(
            f"{data!r} is neither a file nor a shipped data set; the data sets are: " + ", ".join(datasets.names())
        )
    return read_file(data, mentioned)


def fit_numbers(fit: Any) -> dict[str, Any]:
    """All numbers of a fit by name; vectors of coefficients as name -> value."""
    names = fit.coef_names
    groups = [
        {"group": g.group, "columns": g.columns, "sd": g.sd, "corr": g.corr, "cov": g.cov} for g in fit.varcorr().groups
    ]
    rows = fit.wald("asymptotic").rows(np.eye(len(names)))  # NaN is what the data do not identify
    known = np.isfinite(rows.se)
    scalars = ("loglik", "aic", "bic", "nobs", "npar", "df_resid", "converged", "singular", "status")
    return {
        "method": fit.method,
        "engine": fit.engine,
        **{name: getattr(fit, name) for name in scalars},
        "coef": dict(zip(names, rows.estimate, strict=True)),
        "se": dict(zip(names, rows.se, strict=True)),
        "vcov": np.where(known[:, None] & known, fit.vcov, np.nan),
        "sigma": fit.varcorr().sigma,
        "theta": fit.theta,
        "varcorr": groups,
        "certificate": fit.certificate,
    }


def plain(value: Any) -> Any:
    """Turn `value` into what JSON can hold: NaN becomes null, infinities "inf" and "-inf"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)  # text, and enumerations such as the status


if __name__ == "__main__":
    sys.exit(main())
