"""A design as sufficient statistics, and responses streamed into it: what a fit costs is free of the number of rows.

Rows in the same levels of all grouping factors are a cell. Within it the columns of Z, of rank r, have an orthonormal
basis of r vectors; beyond all cells what is left of X has one of p. Coordinates in these, and the length of what is
left of y, determine the likelihood with independent residuals: r rows a cell and p + 1 rows without random effects are
data that have the same, but for the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from typing import Any

import numpy as np

from ..arguments import door
from ..errors import DataError
from ..likelihood.engines.orthogonal import Projection, orthogonalise
from ..likelihood.model import Model
from ..likelihood.parts import Term
from ..likelihood.prepared import Prepared, orthonormal, weighted
from ..linalg import thin
from ..pytrees import replace
from ..runtime.precision import float64
from ..tolerances import ALIASED, CANCELLED
from .chunks import CHUNK_FLOATS, Progress
from .fits import BatchFit, Testing, joined
from .refitting import as_batch, refit_batch, refit_design, turned
from .responses import Design
from .rows import is_sparse, is_table, sparse_numbers, summed


class SufficientStatistics:
    """Sufficient statistics of the design of a model with independent residuals, see this module.

    Parameters
    ----------
    model : with terms (no functions of times or places) and independent residuals; weights and an offset are part of it
    method : of fits that ask for none;  names, kind : of the coefficients, and of the frames of results
    asked : tests as they are given, in the rows and designs of the model

    Attributes
    ----------
    model : the reduced model, whose rows are `rows`;  nobs : rows of the data;  rows : rows that are left

    Raises
    ------
    DataError
        For other models.
    """

    def __init__(
        self, model: Model, method: str = "REML", names: tuple[str, ...] = (), kind: str = "dict",
        asked: Callable[[Testing], Testing] = lambda tests: tests,
    ):  # fmt: skip
        self._frame: Any = {"names": names, "kind": kind}
        self._method, self._asked = method, asked
        parts = [part for part in model.random if isinstance(part, Term) and part.is_plain]
        if not model.residual.is_iid or len(parts) < len(model.random):
            raise DataError(
                "statistics: sufficient statistics are those of grouping factors and independent residuals; this model "
                "has a residual structure, random functions or relationships; use fit.refit with arrays (b, n)"
            )
        self.original = model
        self.nobs, p = model.X.shape
        codes = np.stack([part.group for part in parts]) if parts else np.zeros((1, self.nobs), np.int32)
        found, first, cell = np.unique(codes, axis=1, return_index=True, return_inverse=True)
        cell, cells = cell.reshape(-1), found.shape[1]
        Z = [weighted(model, part.Z) for part in parts]
        whole = np.concatenate([*Z, np.zeros((self.nobs, 0))], 1)
        F, units = orthogonalise(whole, cell, cells, np)
        self._along = Projection(units, cell, cells)
        whole = weighted(model, model.X)
        along, left = self._along(whole)
        beyond = np.sum(left**2, 0) > ALIASED**2 * np.sum(whole**2, 0)  # rounding is no direction
        self._Q, _, _ = orthonormal(left * beyond)
        column, group = np.nonzero(np.diagonal(F).T)  # of F (q, q, cells): what the cell has a vector for
        self._kept = column, group
        X = np.concatenate([along[column, group], self._Q.T @ left, np.zeros((1, p))])
        rest = np.zeros(p + 1, np.int32)
        terms, start = [], 0
        for part, z in zip(parts, Z, strict=True):
            own = F[start : start + z.shape[1], column, group].T
            start += z.shape[1]
            places = np.concatenate([np.asarray(part.group)[first[group]], rest])
            own = np.concatenate([own, np.zeros((p + 1, z.shape[1]))])
            terms.append(Term(own, places, part.structure, part.name))
        y = np.arange(float(len(X)))
        self.model = Model(y, X, terms, engine=model.evaluator, checks=False)
        self._root = None if model.weights is None else np.sqrt(model.weights)
        self._offset = None if model.offset is None else weighted(model, model.offset)
        self.log_weights = 0.0 if model.weights is None else float(np.sum(np.log(model.weights)))

    @door
    def fit(
        self, Y: Any, method: str | None = None, *, tests: Testing | None = None, progress: Progress = "auto",
        missing: str = "status",
    ) -> BatchFit:  # fmt: skip
        """Fit the design to many responses, a row each.

        Parameters
        ----------
        Y : see `reduced`
        method : default that of the fit
        tests, progress, missing : see `jaxlmm.fit_batch`; with ``missing="drop"`` responses that lack rows
            are fitted to the rows that they have, block by block

        Raises
        ------
        DataError
            For another number of columns, and such responses with df from the design. Those that are not finite have a
            status.
        """
        if missing not in ("status", "drop"):
            raise DataError(f"missing: found {missing!r}, expected 'status' or 'drop'")
        method = method or self._method
        more: Any = {"progress": progress, "tests": self._tests(tests), **self._frame}
        parts, reduced, start = [], [np.zeros((0, self.rows))], 0
        for block, own in self._blocks(Y):
            lacks = np.flatnonzero(np.isnan(own).any(1)) if missing == "drop" else np.zeros(0, int)
            for some in np.array_split(lacks, -(-len(lacks) * self.nobs // int(CHUNK_FLOATS))) if len(lacks) else ():
                Y = block[some].toarray() if is_sparse(block) else block[some]
                parts.append((start + some, refit_batch(self.original, Y, method, missing="drop", **more)))
            if len(lacks) and tests is not None and tests.needs_design:
                raise DataError("tests: df from the design is that of all rows; found lost rows, for which use "
                                "df='satterthwaite'")  # fmt: skip
            reduced.append(np.delete(own, lacks, 0))
            start += len(own)
        whole = refit_design(self.design, np.concatenate(reduced), method, **more)
        if not parts:
            return whole
        rest = np.setdiff1d(np.arange(start), np.concatenate([rows for rows, _ in parts]))
        return joined([(rest, whole), *parts])

    @door
    def fit_rows(
        self, source: Any, columns: Sequence[str] | None = None, method: str | None = None, *,
        tests: Testing | None = None, progress: Progress = "auto",
    ) -> BatchFit:  # fmt: skip
        """Fit the design to many responses whose rows come in chunks; what is kept is free of the number of rows.

        Parameters
        ----------
        source : path of a Parquet file with a row for each of the data and a column a response (needs pyarrow); an
            array (n, b), also of a file, a data frame or a sparse matrix of SciPy, which is never made dense; or a list
            of chunks (m, b) of such in order of the rows. An iterator will do where no response lies so near to the
            span of the design that its rows have to be read twice
        columns : of a file, in the order of the responses; default all but an index of pandas
        method, tests, progress : as in `fit`

        Raises
        ------
        DataError
            For another number of rows, and columns that are not there. Responses that are not finite have a status.
        """
        reduced = self.reduced_rows(source, columns)
        method = method or self._method
        return refit_design(self.design, reduced, method, progress=progress, tests=self._tests(tests), **self._frame)

    def _tests(self, tests: Testing | None) -> Testing | None:
        return None if tests is None else self._asked(tests)

    @property
    def rows(self) -> int:
        """Rows that stand for those of the data."""
        return len(self.model.y)

    @cached_property
    def design(self) -> Design:
        """The design for fits of reduced responses, which knows how many rows the data have."""
        with float64():
            return _ReducedDesign(self)

    # -- responses

    def reduced(self, Y: Any) -> np.ndarray:
        """Responses (b, n) as rows of the reduced model (b, rows).

        Parameters
        ----------
        Y : array (b, n), also one of a file (`numpy.memmap`, a data set of h5py), in chunks; a data frame (b, n); a
            sparse matrix (b, n) of SciPy, which is never made dense; or an iterable of such blocks of responses

        Raises
        ------
        DataError
            For another number of columns.
        """
        blocks = [own for _, own in self._blocks(Y)]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.rows))

    def reduced_rows(self, source: Any, columns: Sequence[str] | None = None) -> np.ndarray:
        """As `reduced`, of responses whose rows come in chunks, see `fit_rows`."""
        K = sparse_rows(self._along.T, self._kept[0] * self._along.shape[1] + self._kept[1], self._Q.T)
        X, inner = weighted(self.original, self.original.X), self.model.X[:-1]
        return summed(K, X, inner, self._offset, self._root, source, columns)

    def _blocks(self, Y: Any) -> Iterator[tuple[Any, np.ndarray]]:
        """Blocks of responses, as they are and reduced."""
        if is_sparse(Y):
            self._check(Y.shape)
            Y = Y.tocsr()
            size = max(1, int(CHUNK_FLOATS // max(self.rows, 1)))
            yield from ((Y[i : i + size], self._of_sparse(Y[i : i + size])) for i in range(0, Y.shape[0], size))
        elif is_table(Y):
            yield from self._blocks(np.asarray(Y))
        elif hasattr(Y, "__array__") and hasattr(Y, "shape"):
            self._check(Y.shape)
            size = max(1, int(CHUNK_FLOATS // self.nobs))
            for i in range(0, len(Y), size):
                block = as_batch("Y", Y[i : i + size], self.nobs)
                yield block, self._of_dense(block)
        elif isinstance(Y, Iterable) and not isinstance(Y, str | bytes | Mapping | Set):
            for block in Y:
                yield from self._blocks(block if is_sparse(block) else np.atleast_2d(np.asanyarray(block)))
        else:
            raise DataError(
                f"Y: found {type(Y).__name__}, expected arrays or sparse matrices (b, {self.nobs}), or blocks"
            )

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[1] != self.nobs:
            hint = turned(shape, self.nobs)
            raise DataError(f"Y: expected responses of {self.nobs} rows, (b, {self.nobs}), found shape {shape}{hint}")

    def _of_dense(self, Y: np.ndarray) -> np.ndarray:
        """Reduced rows of a block; a response that is not finite stays so in all its rows."""
        bad = ~np.isfinite(Y).all(axis=1)
        y = (np.where(bad[:, None], 0.0, Y) if bad.any() else Y).T
        y = y if self._root is None else y * self._root[:, None]
        y = y if self._offset is None else y - self._offset[:, None]
        along, left = self._along(y)
        beside = thin(self._Q.T, left)
        left = left - thin(self._Q, beside)
        again = thin(self._Q.T, left)
        left = left - thin(self._Q, again)
        length = np.sqrt(np.sum(left**2, 0))
        out = np.concatenate([along[self._kept], beside + again, length[None]]).T
        out[bad] = np.where(np.isnan(Y[bad]).any(axis=1), np.nan, np.inf)[:, None]
        return out

    def _of_sparse(self, Y: Any) -> np.ndarray:
        """The same from products with what is not zero; where squares cancel, one response after the other."""
        y = sparse_numbers("Y", Y)
        y = y if self._root is None else y * self._root
        cells = (y @ self._along.T.T).toarray().reshape(y.shape[0], *self._along.shape)
        beside, square = y @ self._Q, np.asarray((y * y).sum(axis=1)).reshape(-1)
        if self._offset is not None:
            own = self._of_dense(np.zeros((1, self.nobs)))[0]  # minus the offset
            square = square - 2.0 * (y @ self._offset) + np.sum(self._offset**2)
            shift = own[: -1 - self._Q.shape[1]], own[-1 - self._Q.shape[1] : -1]
        kept = cells[:, self._kept[0], self._kept[1]]
        if self._offset is not None:
            kept, beside = kept + shift[0], beside + shift[1]
        with np.errstate(invalid="ignore"):  # of responses that are not finite
            rest = square - np.sum(kept**2, 1) - np.sum(beside**2, 1)
        out = np.column_stack([kept, beside, np.sqrt(np.maximum(rest, 0.0))])
        doubtful = np.flatnonzero(~(rest > CANCELLED * square) & np.isfinite(square))
        for i in doubtful:
            out[i] = self._of_dense(Y[[i]].toarray())[0]
        return out


class _ReducedDesign(Design):
    """The design of reduced rows, with the number of rows and the weights of the data."""

    def __init__(self, statistics: SufficientStatistics):
        super().__init__(statistics.model, nobs=statistics.nobs)  # in the units, and so on the path, of all rows
        self.original = statistics.original
        prepared: Prepared = self.template
        if not hasattr(prepared.statistics, "n"):
            raise DataError(
                f"statistics: those of engine {self.model.engine!r} do not say how many rows they are of; fit with "
                "engine='auto'"
            )
        n = np.float64(statistics.nobs)
        basis = prepared.basis._replace(n=n, log_weights=np.float64(statistics.log_weights))
        self.template = prepared._replace(statistics=replace(prepared.statistics, n=n), basis=basis)


def sparse_rows(T: Any, rows: np.ndarray, Q: np.ndarray) -> Any:
    """Rows of a sparse matrix, with those of a dense one below."""
    from scipy.sparse import csc_array, vstack

    return csc_array(vstack([T[rows], csc_array(Q)]))
