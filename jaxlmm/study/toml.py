"""A study as a TOML file, for the command line; the same words as in Python. Files that it names are run.

name = "cluster trial"
seed = 1
replicates = 10000
design = "cluster_trial"            # of jaxlmm.study.designs, or "file.py:function" beside this file

[grid]
clusters = [6, 10, 20]
icc = [0.05, 0.2]

[generate]                          # or generate = "file.py:function"
formula = "y ~ arm + (1 | cluster)"
beta = { arm = 0.0 }
covariance = { cluster = "icc", residual = "1 - icc" }
# lost = { hazard = 0.1 }           # dropout, where there are subjects and times
# or control, treated, sds, correlations: the arguments of jaxlmm.study.published

[[estimators]]
name = "mixed"
formula = "y ~ arm + (1 | cluster)"
df = ["asymptotic", "kenward-roger"]

[[estimators]]                      # an analysis of your own, f(data) -> {target: (estimate, se, df, p)}
name = "own"
function = "file.py:function"

[[estimators]]                      # one of jaxlmm.study.analyses, with its arguments
analysis = "bootstrap"
formula = "y ~ arm + (1 | cluster)"
null = "y ~ 1 + (1 | cluster)"
target = "arm"

[[estimators]]
analysis = "selection"
name = "by AIC"
by = "aic"
candidates = [{ name = "small", formula = "y ~ arm", residual = "iid()" }, { name = "large", formula = "..." }]

[targets]
arm = 0.0                           # or { truth = 0.0, of = "arm", null = 0.0 }
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import sys
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..arguments import nearest
from ..errors import DataError, JaxlmmError
from . import analyses, designs
from .declare import Study
from .estimators import MODEL, Analysis, Estimator, Target
from .generate import Dropout, MixedModel
from .published import published

NEEDED = ("design", "generate", "estimators", "targets", "replicates")
ANALYSES = {name.lower(): getattr(analyses, name) for name in analyses.__all__}


def read_study(path: Any) -> Study:
    """The study that a TOML file declares, or the `study` of a Python file.

    A Python file is run, and so is every one that a TOML file names (``"file.py:function"``): read files that you
    trust.

    Raises
    ------
    DataError
        In one sentence, for what is missing, unknown or impossible.
    """
    path = Path(path)
    if path.suffix == ".py":
        return _of_python(path)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: is not TOML: {error}") from None
    known = [f.name for f in dataclasses.fields(Study)]
    if unknown := [name for name in found if name not in known]:
        raise DataError(f"{path}: found {unknown[0]!r}, expected {', '.join(known)}")
    if missing := [name for name in NEEDED if name not in found]:
        raise DataError(f"{path}: {missing[0]!r} is missing")
    found["design"] = _design(found["design"], path)
    generate = found["generate"]
    kind: Any = published if isinstance(generate, Mapping) and "formula" not in generate else MixedModel
    found["generate"] = (
        _made(kind, generate, path, "generate") if isinstance(generate, Mapping)
        else _function(generate, path, "generate")
    )  # fmt: skip
    found["estimators"] = [_estimator(one, path) for one in _tables(found["estimators"], path, "estimators")]
    targets = found["targets"]
    if isinstance(targets, Mapping):
        found["targets"] = {
            name: _made(Target, value, path, f"targets.{name}") if isinstance(value, Mapping) else value
            for name, value in targets.items()
        }
    try:
        return Study(**found)
    except JaxlmmError:
        raise
    except (TypeError, ValueError, AttributeError) as error:  # tables and lists where there are numbers and texts
        raise DataError(f"{path}: a value is of another kind than expected: {error}") from error


def _tables(value: Any, path: Path, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise DataError(f"{path}: {where}: expected tables [[{where}]]")
    return value


def _estimator(values: Mapping[str, Any], path: Path) -> Any:
    """A model, a function of one's own, or one of `analyses`."""
    where, values = f"estimators, {values.get('name', values.get('analysis'))!r}", dict(values)
    if "analysis" not in values:
        return _made(Analysis if "function" in values else Estimator, values, path, where)
    name = values.pop("analysis")
    if (kind := ANALYSES.get(str(name).lower())) is None:
        raise DataError(f"{path}: {where}: analysis: found {name!r}; {nearest(name, ANALYSES)}; a function of your own "
                        "is function = 'file.py:function'")  # fmt: skip
    if "candidates" in values:
        tables = _tables(values["candidates"], path, "estimators.candidates")
        values["candidates"] = [_made(Estimator, one, path, f"{where}, candidates") for one in tables]
    return _made(kind, values, path, where)


def _made(kind: Any, values: Mapping[str, Any], path: Path, where: str) -> Any:
    """An object of plain values; what is not text, numbers and tables of these is for Python."""
    parameters = dict(inspect.signature(kind).parameters)
    known = [*parameters, *MODEL] if parameters.pop("options", None) else list(parameters)
    if unknown := [name for name in values if name not in known]:
        raise DataError(f"{path}: {where}: found {unknown[0]!r}, expected {', '.join(known)}")
    if missing := [name for name, p in parameters.items() if p.default is p.empty and name not in values]:
        raise DataError(f"{path}: {where}: {missing[0]!r} is missing")
    if "structures" in values:
        raise DataError(f"{path}: {where}: structures are classes: write the study in Python, as a file with a `study`")
    values = dict(values)
    lost = values.get("lost")
    if lost is not None:
        at = f"{where}.lost"
        values["lost"] = _made(Dropout, lost, path, at) if isinstance(lost, Mapping) else _function(lost, path, at)
    if "function" in values:
        values["function"] = _function(values["function"], path, f"{where}.function")
    try:
        return kind(**values)
    except JaxlmmError as error:
        raise DataError(f"{path}: {where}: {error}") from None
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {where}: a value is of another kind than expected: {error}") from error


def _design(value: Any, path: Path) -> Any:
    if isinstance(value, Mapping):
        return value  # columns
    if isinstance(value, str) and value in designs.NAMED:
        return designs.NAMED[value]
    if isinstance(value, str) and ":" not in value:
        raise DataError(f"{path}: design: found {value!r}, expected one of {', '.join(designs.NAMED)}, columns, or "
                        "'file.py:function'")  # fmt: skip
    return _function(value, path, "design")


def _function(value: Any, path: Path, where: str) -> Any:
    file, _, name = str(value).partition(":")
    source = path.parent / file
    if not name or not source.is_file():
        raise DataError(f"{path}: {where}: found {value!r}, expected 'file.py:function', the file beside this one")
    found = getattr(_module(source), name, None)
    if not callable(found):
        raise DataError(f"{path}: {where}: {file} has no function {name!r}")
    return found


def _of_python(path: Path) -> Study:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    study = getattr(_module(path), "study", None)
    if not isinstance(study, Study):
        raise DataError(f"{path}: expected a jaxlmm.study.Study with the name study, found {type(study).__name__}")
    return study


def _module(path: Path) -> Any:
    """A file as a module whose functions travel to workers by value, as those of a script do."""
    name = f"study_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # for getsource, and for dataclasses
    spec.loader.exec_module(module)
    with suppress(ImportError):
        import cloudpickle

        cloudpickle.register_pickle_by_value(module)
    return module
