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

[[estimators]]
name = "mixed"
formula = "y ~ arm + (1 | cluster)"
df = ["asymptotic", "kenward-roger"]

[targets]
arm = 0.0                           # or { truth = 0.0, of = "arm", null = 0.0 }
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import DataError, JaxlmmError
from . import designs
from .declare import Study
from .estimators import Estimator, Target
from .generate import Dropout, MixedModel

NEEDED = ("design", "generate", "estimators", "targets", "replicates")


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
    found["generate"] = _made(MixedModel, generate, path, "generate") if isinstance(generate, Mapping) else _function(
        generate, path, "generate"
    )  # fmt: skip
    estimators = found["estimators"]
    if not isinstance(estimators, list) or not all(isinstance(e, Mapping) for e in estimators):
        raise DataError(f"{path}: estimators: expected tables [[estimators]]")
    found["estimators"] = [_made(Estimator, e, path, "estimators") for e in estimators]
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


def _made(kind: Any, values: Mapping[str, Any], path: Path, where: str) -> Any:
    """An object of plain values; what is not text, numbers and tables of these is for Python."""
    known = [f.name for f in dataclasses.fields(kind)]
    if unknown := [name for name in values if name not in known]:
        raise DataError(f"{path}: {where}: found {unknown[0]!r}, expected {', '.join(known)}")
    values = dict(values)
    lost = values.get("lost")
    if lost is not None:
        at = f"{where}.lost"
        values["lost"] = _made(Dropout, lost, path, at) if isinstance(lost, Mapping) else _function(lost, path, at)
    try:
        return kind(**values)
    except TypeError as error:
        raise DataError(f"{path}: {where}: {error}") from None


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
