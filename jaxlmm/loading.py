"""Reading fits from files: the model is made as `lmm` makes it, and nothing is estimated again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arguments import door
from .batch.fits import BatchFit
from .covariance import Over
from .errors import DataError, JaxlmmError
from .fitting.monte_carlo import MonteCarlo
from .fitting.newton import Status
from .fitting.units import Certificate, Estimate
from .formula.specs import Structures, given_structures
from .frames.relationship import Precision
from .inference.fixed_effects.in_batches import LaneTests
from .interface import lmm, model_of
from .likelihood.engines import Engine, Iterative
from .likelihood.engines.choice import as_engine
from .results import Fit
from .runtime.precision import refuse_after_fork
from .saving import Call, Unpacker, data_of, read
from .saving.archive import Archive, digest_of, sentence
from .saving.columns import column_of
from .saving.fits import layout


def _estimate(certificate: Certificate | None = None, **numbers: Any) -> Estimate:
    """An estimate; in files of version 0.1 some of its numbers are in its certificate."""
    return Estimate(**numbers, **({} if certificate is None else vars(certificate)))


def _batch(**numbers: Any) -> BatchFit:
    """A batch; in files of version 0.1 two fields have other names."""
    if "varcorr" in numbers:
        numbers |= {"covariances": numbers.pop("varcorr"), "boundary": numbers.pop("singular")[:, None]}
    return BatchFit(**numbers)


RECORDS: dict[str, Callable[..., Any]] = {
    cls.__name__: cls for cls in (Certificate, Iterative, LaneTests, MonteCarlo, Over, Precision, Status)
}
RECORDS |= {"Estimate": _estimate, "BatchFit": _batch}
SAME = 1e-9  # relative difference of sums of columns that is rounding


@door
def load(path: Any, structures: Structures | None = None, engines: Sequence[Engine] = ()) -> Fit | BatchFit:
    """Read what ``fit.save(path)`` or ``batch.save(path)`` has written.

    A fit does all that the original does, with the same numbers: the estimates are read bit for bit, the model is made
    again from the data in the file. The file holds data only; nothing in it is run.

    Parameters
    ----------
    path : of the file
    structures : covariance classes of one's own that the fit was made with, or structures of them, by name, as in
        `jaxlmm.lmm`
    engines : objects of engine classes of one's own, one of which the fit was made with

    Returns
    -------
    Fit or BatchFit
        As it was saved. The data frame of a `Fit` is of the library that the original had, with the saved columns,
        their types and the order of levels; it has no index.

    Raises
    ------
    DataError
        For a file that is damaged, not from jaxlmm or from a later version; for an unknown structure or engine;
        when this version makes another model of the data than the one that was fitted.
    OSError
        Where there is no such file.
    """
    refuse_after_fork()
    own = given_structures(structures)
    engines = [as_engine(engine) for engine in (engines if isinstance(engines, Sequence) else [engines])]
    archive = read(path)
    try:
        found = _made(archive, Unpacker(archive.arrays, RECORDS, own, path, engines), path)
    except ImportError:
        raise
    except DataError as error:
        if str(error).startswith((str(path), "structures:", "engines:")):
            raise
        raise _damaged(path, error) from error
    except Exception as error:  # what a damaged file leads to can be anything
        raise _damaged(path, error) from error
    if archive.sha256 is not None and archive.sha256 != digest_of(archive):
        raise DataError(f"{path}: the file is damaged: its content is not what was written (sha256 differs)")
    return found


def _damaged(path: Any, error: Exception) -> DataError:
    kind = "" if isinstance(error, JaxlmmError) else f"{type(error).__name__} "
    return DataError(f"{path}: the file is damaged: {kind}{sentence(error)}")


def _made(archive: Archive, unpacker: Unpacker, path: Any) -> Fit | BatchFit:
    """The fit or the batch in an archive."""
    if archive.kind == "batch":
        batch: BatchFit = _expected(unpacker.unpack(archive.content), BatchFit)
        return batch
    call, data, rest = _parts(archive, unpacker)
    frame, model = model_of(data=data, **call.arguments())
    if not _same(layout(frame), rest["layout"]):
        raise DataError(
            f"{path}: this version of jaxlmm makes another model of the data than the one that was fitted; load the "
            "file with the version that wrote it, or fit again"
        )
    if not np.array_equal(frame.y, rest["y"]):  # of fit.refit(y)
        frame, model = dataclasses.replace(frame, y=rest["y"]), model.replace(y=rest["y"])
    return Fit(data, frame, model, rest["estimate"], rest["method"], call, data)


def _parts(archive: Archive, unpacker: Unpacker) -> tuple[Call, Any, dict[str, Any]]:
    """The call, the data and everything else of a fit."""
    content = archive.content
    given = dict(content["call"]["arguments"])
    named = given.pop("structures")
    arguments = {name: unpacker.unpack(value) for name, value in given.items()}
    arguments |= {name: column_of(value, unpacker) for name, value in content["call"]["arrays"].items()}

    def given_as(name: str, entry: Any) -> Any:
        if "class" not in entry:  # a structure
            return unpacker.unpack(entry)
        qualified, fields = entry["class"]
        return unpacker.structure(qualified, fields, name)

    own = named and {name: given_as(name, entry) for name, entry in named["dict"]}
    data = data_of(content["data"], unpacker)
    rest = {name: unpacker.unpack(content[name]) for name in ("method", "y", "layout")}
    rest["estimate"] = _expected(unpacker.unpack(content["estimate"]), Estimate)
    return Call(**arguments, structures=own, maker=lmm, written=content["call"].get("written")), data, rest


def _expected(found: Any, cls: type) -> Any:
    if not isinstance(found, cls):
        raise TypeError(f"expected {cls.__name__}, found {type(found).__name__}")
    return found


def _same(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether two layouts are of the same model; sums of columns to rounding, as other machines sum otherwise."""
    a, b = new.pop("sums"), old.pop("sums")
    return new == old and bool(np.allclose(a, b, rtol=SAME, atol=SAME * np.max(np.abs(b), initial=1.0)))
