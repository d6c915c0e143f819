"""Tests of given hypotheses in every data set of a batch, in a compiled pass over what was fitted."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import check_flag, check_names, check_word, made, numbers_of, shown
from ...batch.fits import Fitted
from ...batch.queue import sizes
from ...batch.responses import Lane, Shared, assemble
from ...distributions import f_tail, t_tail, two_sided
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...fitting.newton import Status
from ...fitting.objective import Spec, in_chart
from ...frames.alignment import refuse_masked
from ...frames.columns import make_frame
from ...frames.tables import Shown, Table, format_column, format_df
from ...likelihood.prepared import Prepared, orthonormal, prepare, weighted
from ...linalg import quadratic
from ...pytrees import frozen_pytree
from ...runtime.devices import platform
from ...runtime.programs import QUICKLY, compiled
from ...runtime.sizes import check_count
from ...tolerances import INDEPENDENT, REPEATED
from ..hypotheses.alternatives import alternative_of
from ..hypotheses.coding import Coding
from ..local import INFORMATION, Inverse, Local, blocks_at, expanded, inverse, local_of
from ..many.discoveries import qvalues
from ..many.moderated import moderation
from ..many.shares import Shares, share_count, shares_of
from ..means.scale import response_scale
from ..options import chart_of, check_options
from ..robust import sandwich
from ..robust.partition import dependent
from ..small_sample import kenward_roger, satterthwaite
from ..small_sample.degrees import DESIGN, rule_of
from .linear import expression, has_names, hypotheses

METHODS = ("satterthwaite", "kenward-roger", "kenward-roger-full", "residual", "asymptotic", *DESIGN)
SMALL_SAMPLE = METHODS[:3]
FEW = 1000  # data sets in a chunk, which compiling quickly is for


class TestStatus(IntEnum):
    """How a test, or the tests of a data set, ended; there are degrees of freedom only where it is OK."""

    __test__ = False  # nothing for pytest to collect

    OK = 0
    NOT_FITTED = 1
    NOT_DEFINITE = 2  # the information of the covariance parameters is not positive definite
    NOT_IDENTIFIED = 3  # the data do not determine covariance parameters that variances of coefficients depend on
    NOT_ESTIMABLE = 4  # a hypothesis is about what the data set cannot estimate, as a level without data


@dataclass(frozen=True, eq=False, repr=False)
class LaneTests(Shown):
    """Tests of m hypotheses in b data sets by one method; NaN where `each_status`, or `status`, is not OK.

    Attributes
    ----------
    estimate, se, df, statistic, p : (b, m) t test of every row of L
    joint, den_df, joint_p : (b,) F test of all rows together;  num_df : its numerator degrees of freedom
    status : (b,) `jaxlmm.TestStatus` of all hypotheses together, that of the first that has no test
    each_status : (b, m) of every hypothesis
    kind : library of data frames;  names : (m,) of the hypotheses, where they have some
    """

    estimate: np.ndarray
    se: np.ndarray
    df: np.ndarray
    statistic: np.ndarray
    p: np.ndarray
    joint: np.ndarray
    den_df: np.ndarray
    joint_p: np.ndarray
    num_df: float
    status: np.ndarray
    kind: str = "dict"
    each_status: Any = None  # not in files of earlier versions
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.each_status is None:
            object.__setattr__(self, "each_status", np.repeat(self.status[:, None], self.estimate.shape[1], 1))

    def frame(self) -> Any:
        """One row a data set and hypothesis, numbered from 0 or by name, with the joint test of the data set beside it.

        `status` is that of the hypothesis, `joint_status` that of all together.
        """
        b, m = self.estimate.shape
        columns: dict[str, Any] = {"dataset": np.repeat(np.arange(b), m), "hypothesis": self._labels() * b}
        names = {"estimate": "estimate", "std_error": "se", "df": "df", "statistic": "statistic", "p_value": "p"}
        columns |= {name: getattr(self, own).ravel() for name, own in names.items()}
        joint = {"joint": self.joint, "num_df": np.full(b, self.num_df), "den_df": self.den_df, "joint_p": self.joint_p}
        columns |= {name: np.repeat(values, m) for name, values in joint.items()}
        columns["status"] = [TestStatus(s).name.lower() for s in self.each_status.ravel()]
        columns["joint_status"] = np.repeat([TestStatus(s).name.lower() for s in self.status], m)
        return make_frame(self.kind, columns)

    def _labels(self) -> list[Any]:
        return list(self.names or range(self.estimate.shape[1]))

    def against(self, null: float = 0.0, side: str = "two-sided", delta: float = 0.0) -> LaneTests:
        """The same rows with other hypotheses, as `EMMeans.against`; the joint test has both sides and stays.

        Parameters
        ----------
        null : number or (m,), what estimates are compared with
        side, delta : "two-sided", "greater" or "less", and a margin (equivalence, non-inferiority)
        """
        way, at = alternative_of(side, delta), numbers_of("null", null)
        if at.shape not in ((), self.estimate.shape[1:]) or not np.isfinite(at).all():
            raise DataError(
                f"null: found {shown(null)}, expected a number, or {self.estimate.shape[1]}, one a row of L"
            )
        statistic = way.statistic(self.estimate - at, self.se)
        return replace(self, statistic=statistic, p=way.p(statistic, self.df))

    def response(self, fit: FitBase, means: bool = False, level: float = 0.95) -> Any:
        """Estimates with limits on the scale of the response of a formula, a row a data set and hypothesis.

        Columns dataset, hypothesis, estimate, std_error (delta method), df, lower, upper. Of ``log(y)`` rows of L are
        read as differences, which are ratios; of logits odds ratios. A response that stands as it is stays.

        Parameters
        ----------
        fit : the fit of a formula whose batch it is
        means : rows of L are means, transformed back, as those of ``fit.emmeans(type="response")``
        level : of the intervals

        Raises
        ------
        DataError
            For differences that have no such scale (``sqrt(y)``), and a response without a known inverse.
        """
        check_flag("means", means)
        scale = response_scale(fit.frame.formula)
        if scale is not None and not means and scale.differences is None:
            raise DataError(f"means: differences of {fit.frame.response} have no scale of the response")
        scale = scale if means or scale is None else scale.differences
        half = two_sided(level, self.df) * self.se
        columns = {"estimate": self.estimate, "std_error": self.se, "df": self.df}
        columns |= {"lower": self.estimate - half, "upper": self.estimate + half}
        columns = columns if scale is None else scale.of_table(columns)
        b, m = self.estimate.shape
        rows = {"dataset": np.repeat(np.arange(b), m), "hypothesis": self._labels() * b}
        return make_frame(self.kind, rows | {name: x.ravel() for name, x in columns.items()})

    def moderated(self, sigma: Any) -> LaneTests:
        """The tests by residual variances that are shrunk to what all data sets have in common (limma, dream).

        Standard errors are those of a residual variance ``s^2`` with the degrees of freedom of the hypothesis, which
        gives way to its posterior mean; degrees of freedom grow by those of the prior (Smyth 2004), to at most those of
        all data sets together.

        Parameters
        ----------
        sigma : (b,) residual standard deviations, ``batch.sigma``

        Raises
        ------
        DataError
            For another length, and fewer than three data sets with a test.
        """
        variance = numbers_of("sigma", sigma) ** 2
        if variance.shape != self.joint.shape:
            raise DataError(f"sigma: expected {self.joint.shape}, one a data set, found shape {variance.shape}")
        se, df = np.empty((2, *self.se.shape))
        for j in range(self.se.shape[1]):
            ratio, df[:, j] = moderation(variance, self.df[:, j])
            se[:, j] = np.sqrt(ratio) * self.se[:, j]
        ratio, den_df = moderation(variance, self.den_df)
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic, joint = self.statistic * (self.se / se), self.joint / ratio
        return replace(
            self, se=se, df=df, statistic=statistic, p=t_tail(statistic, df), joint=joint, den_df=den_df,
            joint_p=f_tail(joint, self.num_df, den_df),
        )  # fmt: skip

    def top(
        self, n: int = 10, hypothesis: int | str | None = 0, names: Sequence[Any] | None = None, method: str = "bh"
    ) -> Any:  # fmt: skip
        """The n data sets with the smallest p values, as a frame with their false discovery rates.

        Parameters
        ----------
        n : rows;  hypothesis : row of L, by number or name, or None for the joint test
        names : (b,) of the data sets; default their numbers
        method : of q values, "bh" or "storey", among all data sets with a test
        """
        b = len(self.status)
        check_count("n", n)
        check_word("method", method)
        if names is not None and np.shape(np.asarray(names, object))[:1] != (b,):
            raise DataError(f"names: expected {b}, one a data set, found {shown(names)}")
        row = self._row(hypothesis)
        p = self.joint_p if row is None else self.p[:, row]
        q = qvalues(p, method)
        t = self.joint if row is None else self.statistic[:, row]
        rows = np.lexsort((-np.abs(np.nan_to_num(t)), np.where(np.isnan(p), np.inf, p)))[:n]
        columns: dict[str, Any] = {"dataset": rows if names is None else [names[i] for i in rows]}
        if row is None:
            columns |= {"statistic": t[rows], "num_df": np.full(len(rows), self.num_df), "den_df": self.den_df[rows]}
        else:
            own = {"estimate": self.estimate, "std_error": self.se, "df": self.df, "statistic": self.statistic}
            columns |= {name: values[rows, row] for name, values in own.items()}
        columns |= {"p_value": p[rows], "q_value": q[rows]}
        status = self.status if row is None else self.each_status[:, row]
        return make_frame(self.kind, {**columns, "status": [TestStatus(s).name.lower() for s in status[rows]]})

    def _row(self, hypothesis: Any) -> int | None:
        if hypothesis is None or (isinstance(hypothesis, str) and hypothesis in self.names):
            return None if hypothesis is None else self.names.index(hypothesis)
        count = self.p.shape[1]
        if not isinstance(hypothesis, int | np.integer) or isinstance(hypothesis, bool) or not 0 <= hypothesis < count:
            own = " or ".join([*map(repr, self.names), f"0 to {count - 1}"])
            raise DataError(f"hypothesis: found {shown(hypothesis)}, expected {own}, or None (joint)")
        return int(hypothesis)

    def table(self) -> Table:
        """Means over the data sets with a test, and how many of them reject."""
        good = self.each_status == TestStatus.OK
        counts = good.sum(0)
        with np.errstate(invalid="ignore"):
            numbers = (self.estimate, self.se, self.df, np.where(np.isnan(self.p), np.nan, self.p < 0.05))
            means = [np.sum(np.where(good, x, 0.0), 0) / counts for x in numbers]
        cells = [format_column(means[0], 6), format_column(means[1]), format_df(means[2])]
        cells.append(["" if np.isnan(x) else f"{x:.3f}" for x in means[3]])
        rows = tuple(zip(map(str, self._labels()), *cells, strict=True))
        header = ("", "Mean estimate", "Mean SE", "Mean df", "p < 0.05")
        count = int(np.sum(self.status == TestStatus.OK))
        lost = [s for s in TestStatus if s and np.any(self.each_status == s)]
        note = ", ".join(f"{s.name.lower()}: {int(np.sum(np.any(self.each_status == s, 1)))}" for s in lost)
        return Table(f"Tests in {len(good)} data sets, {count} with a result:", header, rows, note=note)


@frozen_pytree(data=("spec", "chart", "information"), meta=("methods",))
@dataclass(frozen=True)
class Rule:
    """How degrees of freedom are found; a compiled pass is for methods, and serves all charts and information."""

    methods: tuple[str, ...]
    spec: Spec
    chart: float  # see `jaxlmm.fitting.objective.in_chart`
    information: int  # of `INFORMATION`


class _Found(NamedTuple):
    """What the compiled pass gives for a data set."""

    estimate: Any
    se: Any
    df: Any
    F: Any  # (), scaled
    den_df: Any
    status: Any  # ()
    each: Any  # (m,) status of every hypothesis


@made
class Tests:
    """Hypotheses ``L beta = rhs`` to be tested in every data set of `jaxlmm.fit_batch` and ``Fit.refit``.

    Parameters
    ----------
    L : (m, p) array, in the columns of X; in ``Fit.refit`` also by names of coefficients, as in ``Fit.test``; rows that
        are combinations of others do not count in the joint test, whose degrees of freedom do not depend on which rows
        say the same (in ``Fit.refit``, nor on the coding of X; it is that of the design that was fitted, in data sets
        with missing responses too)
    rhs : number or (m,)
    df : one or several of "satterthwaite", "kenward-roger", "kenward-roger-full", "residual", "asymptotic"; and, where
        a formula is known (``Fit.refit``, studies), "containment", "between-within", "between-within-sas"
    information, boundary_df : as in ``Fit.test``; on the boundary of each data set for itself
    robust : "CR0", "CR1", "CR1p", "CR1S", "CR2-mmrm" or "CR3", a sandwich with its own degrees of freedom in addition
        (key ``robust``), for one model with many complete responses
    icc : True for the shares of the random parts in the variance (key ``icc``), in the order of ``Fit.icc``: estimates
        with standard errors (delta method), and no tests

    Raises
    ------
    DataError
        For unknown methods and wrong shapes.
    """

    __test__ = False  # nothing for pytest to collect

    def __init__(
        self, L: Any, rhs: Any = 0.0, df: str | Sequence[str] = "satterthwaite", information: str | None = None,
        boundary_df: str | None = None, robust: str | None = None, icc: bool = False,
    ):  # fmt: skip
        refuse_masked("L", L)
        refuse_masked("rhs", rhs)
        check_names("df", df)
        self.df = (df,) if isinstance(df, str) else tuple(df)
        for method in self.df:
            if method not in METHODS:
                raise DataError(f"df: found {method!r}, expected some of {', '.join(METHODS)}")
        check_options(information, boundary_df)
        kinds = [kind for kind in sandwich.KINDS if kind != "CR2"]
        if robust is not None and robust not in kinds:
            raise DataError(f"robust: found {robust!r}, expected one of {', '.join(kinds)} (CR2 is for single fits)")
        check_flag("icc", icc)
        self.information, self.boundary_df, self.robust, self.icc = information, boundary_df, robust, icc
        self.of_design: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.asked = (L, rhs) if has_names(L) else None
        self.names: tuple[str, ...] = ()
        if self.asked is None:
            self._choose_rows(L, rhs)

    def _choose_rows(self, L: Any, rhs: Any) -> None:
        self.L = np.atleast_2d(numbers_of("L", L, "rows (m, p) in the columns of X"))
        if self.L.ndim != 2 or not np.all(np.isfinite(self.L)) or not np.any(self.L):
            raise DataError(f"L: expected a finite array (m, p) that is not zero, found shape {np.shape(L)}")
        if np.ndim(rhs) > 1 or (np.ndim(rhs) == 1 and len(rhs) != len(self.L)):
            raise DataError(f"rhs: expected a number or one for each of {len(self.L)} rows, found {np.shape(rhs)}")
        self.rhs = np.broadcast_to(numbers_of("rhs", rhs), (len(self.L),))
        if not np.all(np.isfinite(self.rhs)):
            raise DataError(f"rhs: found {shown(rhs)}, expected finite numbers")
        self.turn = np.eye(len(self.L))
        self._choose_basis(Coding.of_columns(self.L.shape[1]))

    @property
    def rank(self) -> int:
        """Number of hypotheses that do not repeat others."""
        return len(self.turn)

    def coded(self, coding: Coding, names: tuple[str, ...] = ()) -> Tests:
        """The same tests for a fit of a formula, whose coefficients have names and whose factors this coding."""
        out = copy(self)
        if self.asked is not None:
            L, rhs = self.asked
            found, rows = hypotheses(L, names)
            out._choose_rows(rows, rhs)
            out.names, out.asked = found or tuple(expression(row, names) for row in out.L), None
        if out.L.shape[1] == len(coding.C):
            out._choose_basis(coding)
        return out

    @property
    def needs_design(self) -> bool:
        """Whether a method counts degrees of freedom in the terms of a formula."""
        return any(method in DESIGN for method in self.df)

    def on(self, designs: Sequence[Any]) -> Tests:
        """The same tests with the degrees of freedom of designs, one for all data sets or one for each.

        Parameters
        ----------
        designs : fits, or anything with their `frame` and `data`

        Raises
        ------
        DataError
            Where a method cannot count in a design, as with groups that are not nested.
        """
        out = copy(self)
        out.of_design = {}
        for method in (m for m in self.df if m in DESIGN):
            rules = [rule_of(design, method) for design in designs]
            joint = self.rows if self.rank > 1 else self.L
            out.of_design[method] = (
                np.array([rule(self.L) for rule in rules]), np.array([np.min(rule(joint)) for rule in rules])
            )  # fmt: skip
        return out

    def _choose_basis(self, coding: Coding) -> None:
        """`turn` (r, m), the combinations of rows whose degrees of freedom are those of the joint test, and `rows`."""
        self.rows = coding.canonical(self.L)
        L = coding.of(self.L)
        size = np.linalg.norm(L, axis=1, keepdims=True)
        unit = L / np.where(size > 0, size, 1.0)
        turn = np.linalg.lstsq(unit.T, coding.of(self.rows).T, rcond=REPEATED)[0].T
        self.turn = turn / np.where(size > 0, size, 1.0)[:, 0]

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the results."""
        return (*self.df, *(() if self.robust is None else (self.robust,)), *(("icc",) if self.icc else ()))

    def empty(self, b: int, kind: str = "dict", parts: int = 0) -> dict[str, LaneTests]:
        """Results without numbers for b data sets of a model with random parts, with frames of a library."""
        if self.asked is not None:
            raise DataError("L: names of coefficients are for Fit.refit; expected rows (m, p) in the columns of X")
        if self.icc and not parts:
            raise DataError("icc: the model has no random parts")
        if lacking := [m for m in self.df if m in DESIGN and m not in self.of_design]:
            raise DataError(f"df: {lacking[0]!r} counts in the terms of a formula, which models of arrays do not have; "
                            "use Fit.refit of complete responses, or a study")  # fmt: skip
        lengths = {"icc": share_count(parts)}
        out = {key: self._empty(b, kind, lengths.get(key, len(self.L))) for key in self.keys}
        return {key: own if key == "icc" else replace(own, names=self.names) for key, own in out.items()}

    def _empty(self, b: int, kind: str, m: int) -> LaneTests:
        estimate, se, df, statistic, p = np.full((5, b, m), np.nan)
        joint, den_df, joint_p = np.full((3, b), np.nan)
        status = np.full(b, TestStatus.NOT_FITTED, int)
        each = np.full((b, m), TestStatus.NOT_FITTED, int)
        return LaneTests(estimate, se, df, statistic, p, joint, den_df, joint_p, float(self.rank), status, kind, each)

    def put(self, tests: dict[str, LaneTests], rows: np.ndarray, fitted: Fitted) -> None:
        """Test what was fitted and fill `rows` of the results."""
        if self.L.shape[1] != len(fitted.columns):
            raise DataError(f"tests: L has {self.L.shape[1]} columns, expected {len(fitted.columns)} as in X")
        if not fitted.spec.reml and (refused := [m for m in self.df if m.startswith("kenward")]):
            raise DataError(f"df: {refused[0]!r} is for REML fits, found method 'ML'")
        good = np.isin(fitted.found.status, [s for s in Status if s.is_fitted])
        for lanes, on_boundary in ((good & ~fitted.found.singular, False), (good & fitted.found.singular, True)):
            index = np.flatnonzero(lanes)
            for rule in self._rules(fitted.spec.absolute, on_boundary) if len(index) else ():
                for method, found in zip(rule.methods, self._run(rule, fitted, index), strict=True):
                    found = self._by_design(method, found, rows[index])
                    self._fill(tests[method], rows, index, found)
        if self.robust is not None:
            index = np.flatnonzero(good)
            if len(index):
                self._fill(tests[self.robust], rows, index, self._sandwich(fitted, index))
        if self.icc and good.any():
            index = np.flatnonzero(good)
            self._fill_shares(tests["icc"], rows[index], shares_of(fitted, index))

    def _by_design(self, method: str, found: _Found, rows: np.ndarray) -> _Found:
        """With the degrees of freedom of the designs of `rows`, where the method has these."""
        if method not in self.of_design:
            return found
        df, den = (a[rows if len(a) > 1 else np.zeros(len(rows), int)] for a in self.of_design[method])
        each = np.where((found.each == TestStatus.OK) & np.isnan(df), TestStatus.NOT_DEFINITE, found.each)
        status = np.where((found.status == TestStatus.OK) & np.isnan(den), TestStatus.NOT_DEFINITE, found.status)
        return found._replace(df=df, den_df=den, each=each, status=status)

    def _rules(self, spec: Spec, on_boundary: bool) -> list[Rule]:
        """Passes over data sets inside or on the boundary of the parameter space; methods share what they can."""
        groups: dict[tuple[str, str], list[str]] = {}
        for method in self.df:
            singular = on_boundary and method in SMALL_SAMPLE
            chart = chart_of(method, self.information, self.boundary_df, singular)
            groups.setdefault(chart, []).append(method)
        return [
            Rule(tuple(methods), spec, float(chart == "natural"), INFORMATION.index(information))
            for (chart, information), methods in groups.items()
        ]

    def _fill(self, out: LaneTests, rows: np.ndarray, index: np.ndarray, found: _Found) -> None:
        """Write the results of some data sets."""
        here = rows[index]
        lost = np.where(found.status == TestStatus.OK, 1.0, np.nan)
        each = np.where(found.each == TestStatus.OK, 1.0, np.nan)
        out.estimate[here] = np.where(found.each == TestStatus.NOT_ESTIMABLE, np.nan, found.estimate)
        out.se[here], out.df[here] = found.se * each, found.df * each
        with np.errstate(divide="ignore", invalid="ignore"):
            out.statistic[here] = (found.estimate - self.rhs) / out.se[here]
        out.p[here] = t_tail(out.statistic[here], out.df[here])
        out.joint[here], out.den_df[here] = found.F * lost, found.den_df * lost
        out.joint_p[here] = f_tail(out.joint[here], out.num_df, out.den_df[here])
        out.status[here], out.each_status[here] = found.status, found.each

    def _fill_shares(self, out: LaneTests, here: np.ndarray, found: Shares) -> None:
        """Write shares of variance, which are not tested."""
        each = np.where(found.known, TestStatus.OK, TestStatus.NOT_IDENTIFIED)
        sure = found.definite[:, None] & ~np.isnan(found.se)
        each = np.where(found.known & ~sure, TestStatus.NOT_DEFINITE, each)
        out.estimate[here] = np.where(found.known, found.estimate, np.nan)
        out.se[here] = np.where(each == TestStatus.OK, found.se, np.nan)
        out.df[here] = np.where(each == TestStatus.OK, np.inf, np.nan)
        out.each_status[here], out.status[here] = each, each.max(1)

    def _run(self, rule: Rule, fitted: Fitted, index: np.ndarray) -> list[_Found]:
        """Map tests over data sets, as many side by side as the solver has; a result a method."""
        L = self.L[:, fitted.columns]
        slots, place, lanes = fitted.queued(index)
        few = platform() == "cpu" and len(index) <= FEW
        every = (_over_few_lanes if few else _over_lanes)(
            rule, slots, self.turn, L, self.rhs, fitted.shared, lanes, fitted.x[place]
        )
        return [_Found(*(np.asarray(a)[: len(index)] for a in found)) for found in every]

    def _sandwich(self, fitted: Fitted, index: np.ndarray) -> _Found:
        """Sandwich estimates from the rows of complete responses to one design."""
        if fitted.rows is None:
            raise DataError(
                "tests: robust= needs one model and complete responses (b, n): data sets with designs, weights or "
                "missing rows of their own, and drawn statistics, are not supported; use Fit.test for these"
            )
        model, y = fitted.rows
        clusters = dependent(model)
        if clusters.size < 2:
            raise DataError("tests: robust= needs at least 2 independent clusters; random effects connect all rows")
        Q, R, _ = orthonormal(model.X, model.weights)
        offset = 0.0 if model.offset is None else model.offset
        prepared = prepare(model, compact=False, orthogonal=True)
        kind = str(self.robust)
        L = np.linalg.solve(R.T, self.L[:, fitted.columns].T).T
        capacity, slots = sizes(len(index), prepared.statistics.work + Q.size)
        place = np.resize(index, -(-len(index) // capacity) * capacity)
        responses = weighted(model, (y[place] - offset).T).T
        found = _sandwiches(
            fitted.spec.absolute, kind, clusters.size, slots, self.turn, L, self.rhs, prepared, Q, clusters.codes,
            fitted.x[place], responses,
        )  # fmt: skip
        return _Found(*(np.asarray(a)[: len(index)] for a in found))


def _mapped(
    rule: Rule, slots: int, turn: Array, L: Array, rhs: Array, shared: Shared, lanes: Lane, x: Array
) -> list[_Found]:  # fmt: skip
    def one(inputs: tuple[Lane, Array]) -> list[_Found]:
        prepared, _ = assemble(shared, inputs[0])
        return _test_lane(rule, turn, L, rhs, prepared, inputs[1])

    return jax.lax.map(one, (lanes, x), batch_size=slots)


_over_lanes = compiled("slots")(_mapped)
# for few data sets compiling takes longer than running
_over_few_lanes = compiled("slots", options=QUICKLY)(_mapped)


def _test_lane(rule: Rule, turn: Array, L: Array, rhs: Array, prepared: Prepared, x: Array) -> list[_Found]:
    """Tests in one data set by every method of a rule, x being the solver's coordinates; a pure function."""
    spec, chart = rule.spec, rule.chart
    x = in_chart(chart, lambda chart, x: spec.map("solver_to_natural", x) if chart == "natural" else x, x)
    at = expanded(spec, prepared, chart, x)
    basis, alias = prepared.basis, jnp.asarray(prepared.basis.alias)
    inner = jax.scipy.linalg.solve_triangular(basis.R, L.T, trans=1).T
    # a column that others span has no coefficient of its own: a hypothesis has to give it the weight that they give it
    size = jnp.abs(L) + jnp.abs(inner * (1.0 - alias)) @ jnp.abs(basis.R)
    estimable = ~jnp.any((alias > 0) & (jnp.abs(inner) > REPEATED * size), -1)
    inner = inner * (1.0 - alias)
    local = local_of(spec, prepared, chart, x, at)
    inv = inverse(jnp.stack([getattr(local, kind) for kind in INFORMATION])[rule.information], local)
    estimate = inner @ (basis.c + at.normal.beta)
    out = []
    for method in rule.methods:
        vcov, scale, rows = local.Phi, jnp.ones(()), turn @ inner
        each, status = jnp.full(len(inner), TestStatus.OK), jnp.full((), TestStatus.OK)
        if method in SMALL_SAMPLE:
            hidden = kenward_roger.adjustment(at, inv.lost @ inv.lost.T) if method.startswith("kenward") else None
            known = jax.vmap(lambda row: _is_known(inv, local, hidden, row[None]))(inner)  # noqa: B023
            each, status = (
                jnp.where(inv.definite, jnp.where(k, TestStatus.OK, TestStatus.NOT_IDENTIFIED), TestStatus.NOT_DEFINITE)
                for k in (known, _is_known(inv, local, hidden, rows))
            )
            df = satterthwaite.row_df(inner, local.Phi, local.P, inv.W)
        else:
            den = jnp.asarray(basis.n - basis.rank if method == "residual" else jnp.inf)
            df = jnp.broadcast_to(den, (len(inner),))
        if method.startswith("kenward"):
            total = kenward_roger.adjustment(at, inv.W)
            if method.endswith("full"):
                total = total + kenward_roger.curvature(spec, prepared, chart, x, local.P, inv.W)
            vcov = kenward_roger.adjusted(local.Phi, total)
        if method == "satterthwaite":
            den = satterthwaite.joint_df(rows, local.Phi, local.P, inv.W)
        elif method in SMALL_SAMPLE:
            scale, den = kenward_roger.joint(rows, local.Phi, local.P, inv.W)
        each = jnp.where(estimable, each, TestStatus.NOT_ESTIMABLE)
        status = jnp.where(jnp.all(estimable), status, TestStatus.NOT_ESTIMABLE)
        out.append(_result(inner, turn, vcov, estimate, rhs, df, scale, den, status, each))
    return out


def _is_known(inv: Inverse, local: Local, hidden: Array | None, rows: Array) -> Array:
    """Whether the law of hypotheses (r, p) does not depend on what the data say nothing about."""
    root = jnp.linalg.cholesky(local.Phi)
    U = root @ jnp.linalg.qr((rows @ root).T)[0]
    known = jnp.all(inv.known(U.T @ local.P @ U))
    return known if hidden is None else known & (jnp.max(jnp.abs(U.T @ hidden @ U), initial=0.0) < INDEPENDENT)


def _result(
    L: Array, turn: Array, vcov: Array, estimate: Array, rhs: Array, df: Array, scale: Array, den: Array, status: Array,
    each: Array,
) -> _Found:  # fmt: skip
    """Standard errors and F; without a positive variance there is no test."""
    rows, variance = turn @ L, quadratic(L, vcov)
    V = rows @ vcov @ rows.T
    unit = jax.lax.rsqrt(jnp.diagonal(V))  # each in its own standard error
    gap = unit * (turn @ (estimate - rhs))
    F = scale * gap @ jnp.linalg.solve(unit[:, None] * V * unit, gap) / len(turn)
    each = jnp.where((each == TestStatus.OK) & ~((variance > 0) & (df > 0)), TestStatus.NOT_DEFINITE, each)
    proper = jnp.all(variance > 0) & (den > 0) & jnp.isfinite(F)
    status = jnp.where((status == TestStatus.OK) & ~proper, TestStatus.NOT_DEFINITE, status)
    return _Found(estimate, jnp.sqrt(jnp.maximum(variance, 0.0)), df, F, den, status, each)


@compiled("kind", "count", "slots")
def _sandwiches(
    spec: Spec, kind: str, count: int, slots: int, turn: Array, L: Array, rhs: Array, prepared: Prepared, Q: Array,
    codes: Array, x: Array, y: Array,
) -> _Found:  # fmt: skip
    n, p = Q.shape
    OK = jnp.full((), TestStatus.OK)

    def one(inputs: tuple[Array, Array]) -> _Found:
        x, y = inputs
        C = blocks_at(spec, prepared, "solver", x)
        U = jnp.concatenate([Q, y[:, None]], 1)
        S = prepared.statistics.solve(C, U)
        grams = jax.ops.segment_sum(U[:, :, None] * S[:, None, :], codes, count)
        at = sandwich.adjusted(grams, kind)
        vcov = sandwich.covariance(at, sandwich.factor_of(kind, count, n, p))
        estimate = L @ (at.root @ (at.root.T @ jnp.sum(grams, 0)[:p, p]))
        df = sandwich.row_df(at, L)
        rows = turn @ L
        along = jnp.linalg.eigh(rows @ vcov @ rows.T)[1].T
        den = satterthwaite.pooled(sandwich.row_df(at, along @ rows), len(turn))
        return _result(L, turn, vcov, estimate, rhs, df, jnp.ones(()), den, OK, jnp.full(len(L), OK))

    return jax.lax.map(one, (x, y), batch_size=slots)
