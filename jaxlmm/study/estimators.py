"""What is estimated from every data set of a study, and by which models and tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..arguments import check_mapping, check_names, check_number, made, shown
from ..errors import DataError
from ..inference.fixed_effects.in_batches import METHODS, Tests

ESTIMATE = "estimate"  # the test of targets that have none: variances
CHOSEN = "chosen"  # which model a selection has chosen
LRT = "lrt"
MODEL = ("residual", "variance", "weights", "offset", "relationship", "structures", "engine")  # arguments of `lmm`


class Row(NamedTuple):
    """What a data set has one row of numbers for."""

    estimator: str
    test: str
    target: str


@made
@dataclass(frozen=True, eq=False)
class Target:
    """A quantity that is estimated.

    Parameters
    ----------
    truth : its true value: a number, an expression of the factors of the grid (``"effect"``, ``"sqrt(icc)"``), or None,
        then that of the generating model's coefficients
    of : a coefficient's name; weights of several ``{"arm": 1, "arm:visit2": 1}``; a list of coefficients, whose joint F
        test it is, with no estimate (its truth is the largest of theirs); or ``"loglik"``, or what a bootstrap reports
        of variances, ``"sigma"``, ``"sd_(Intercept)|cluster"``; or ``"chosen"``, see `jaxlmm.study.analyses.Selection`;
        default the target's own name
    null : the value that is tested
    """

    truth: Any = None
    of: str | Mapping[str, float] | Sequence[str] | None = None
    null: float = 0.0

    @property
    def is_variance(self) -> bool:
        """Whether it is a standard deviation, a correlation or the log-likelihood, of which there is no test."""
        return isinstance(self.of, str) and (
            self.of in ("sigma", "loglik", CHOSEN) or self.of.startswith(("sd_", "cor_"))
        )

    @property
    def is_joint(self) -> bool:
        """Whether several coefficients are tested together."""
        return isinstance(self.of, tuple)

    @property
    def weights(self) -> Mapping[str, float]:
        """Weights of the coefficients."""
        if isinstance(self.of, Mapping):
            return self.of
        return dict.fromkeys((self.of,) if isinstance(self.of, str) else self.of or (), 1.0)


@made
@dataclass(frozen=True, eq=False)
class Estimator:
    """A model that is fitted to every data set, and the tests of its coefficients; see `jaxlmm.lmm` and `jaxlmm.Tests`.

    Parameters
    ----------
    name : in tables
    formula, method, residual, variance, weights, offset, relationship, structures, engine : as for `jaxlmm.lmm`
    df : degrees of freedom, one or several of "satterthwaite", "kenward-roger", "kenward-roger-full", "residual",
        "asymptotic" (Wald's z), all from the same fit
    robust : a sandwich of `jaxlmm.Tests` in addition
    lrt : formula of the model without the target, for a likelihood ratio test in addition (by ML); a mapping from
        targets to formulas where there are several
    information, boundary_df : as in `jaxlmm.Tests`
    """

    name: str
    formula: str
    method: str = "REML"
    df: str | Sequence[str] = "satterthwaite"
    robust: str | None = None
    lrt: str | Mapping[str, str] | None = None
    residual: Any = None
    variance: str | None = None
    weights: str | None = None
    offset: str | None = None
    relationship: Mapping[str, Any] | None = None
    structures: Mapping[str, Any] | None = None
    engine: str = "auto"
    information: str | None = None
    boundary_df: str | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """The df methods."""
        return (self.df,) if isinstance(self.df, str) else tuple(self.df)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `jaxlmm.lmm` beside formula, data and method."""
        return {name: getattr(self, name) for name in MODEL}

    def null_formula(self, target: str) -> str | None:
        """The model without a target."""
        return self.lrt.get(target) if isinstance(self.lrt, Mapping) else self.lrt

    def rows(self, targets: Mapping[str, Target]) -> list[Row]:
        """What there is a row of numbers for, in order: tests, then targets."""
        robust = () if self.robust is None else (self.robust,)
        tested = [name for name, target in targets.items() if not target.is_variance]
        out = [Row(self.name, test, name) for test in (*self.methods, *robust) for name in tested]
        out += [Row(self.name, LRT, name) for name in tested if self.null_formula(name)]
        return out + [Row(self.name, ESTIMATE, name) for name, target in targets.items() if target.is_variance]

    def check(self, targets: Mapping[str, Target]) -> None:
        """Refuse what cannot be done, before anything runs."""
        if self.method not in ("REML", "ML"):
            raise DataError(f"estimator {self.name!r}: method: found {self.method!r}, expected 'REML' or 'ML'")
        check_names(f"estimator {self.name!r}: df", self.df)
        if self.lrt is not None and not isinstance(self.lrt, str):
            check_mapping(f"estimator {self.name!r}: lrt", self.lrt, "{'arm': 'y ~ 1 + (1 | cluster)'}")
        for method in self.methods:
            if method not in METHODS:
                raise DataError(f"estimator {self.name!r}: df: found {method!r}, expected some of {', '.join(METHODS)}")
            if method.startswith("kenward") and self.method == "ML":
                raise DataError(f"estimator {self.name!r}: df: {method!r} is for REML, found method 'ML'")
        Tests([[1.0]], df=self.methods, information=self.information, boundary_df=self.boundary_df, robust=self.robust)
        tested = [name for name, target in targets.items() if not target.is_variance]
        if self.lrt is None:
            return
        if self.method != "ML":
            raise DataError(f"estimator {self.name!r}: lrt compares fixed effects, which needs method='ML'")
        if isinstance(self.lrt, str) and len(tested) > 1:
            raise DataError(f"estimator {self.name!r}: lrt: expected a mapping from targets to formulas, as there are "
                            f"several targets ({', '.join(tested)})")  # fmt: skip
        for name in tested:
            if self.null_formula(name) and targets[name].null != 0.0:
                raise DataError(f"estimator {self.name!r}: lrt leaves the target out, which tests 0, not the null "
                                f"{targets[name].null:g} of {name!r}")  # fmt: skip


@made
@dataclass(frozen=True, eq=False)
class Analysis:
    """An analysis of one's own, beside models of jaxlmm, on the same data sets.

    Parameters
    ----------
    name : in tables
    function : ``f(data, **factors)``, with those factors of the cell that it takes and `data` a dict of arrays (n,),
        rows without a response left out. It returns a mapping from targets to ``(estimate, se, df, p)``, or to fewer of
        these; None or NaN is what there is not. Without a p it is that of ``(estimate - null) / se`` on df (infinite
        where there are none). A target that is left out has no row. What it raises is a status of its data set
    test : in tables
    vectorised : whether it is written in JAX, to be compiled and mapped over data sets (of one design); then rows
        without a response stay, as NaN
    """

    name: str
    function: Callable[..., Any]
    test: str = "own"
    vectorised: bool = False

    def rows(self, targets: Mapping[str, Target]) -> list[Row]:
        """What there is a row of numbers for."""
        return [Row(self.name, self.test, name) for name in targets]

    def check(self, targets: Mapping[str, Target]) -> None:
        """Refuse what cannot be called."""
        if not callable(self.function):
            raise DataError(
                f"estimator {self.name!r}: function: expected f(data), found {type(self.function).__name__}"
            )


def is_estimator(one: Any) -> bool:
    """Whether it is declared as an estimator: those of `analyses` bring what applies them."""
    return isinstance(one, Estimator | Analysis) or hasattr(one, "fitter")


def estimators_of(given: Any) -> tuple[Any, ...]:
    """Estimators, functions of a data set among them by their names."""
    several = (given,) if is_estimator(given) or callable(given) or not isinstance(given, Iterable) else tuple(given)
    out = []
    for one in several:
        if not is_estimator(one):
            if not callable(one):
                raise DataError(f"estimators: found {one!r}, expected Estimator, Analysis or a function f(data)")
            one = Analysis(getattr(one, "__name__", type(one).__name__), one)
        out.append(one)
    return tuple(out)


def targets_of(given: Any) -> dict[str, Target]:
    """Targets by name."""
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Iterable):
        raise DataError(f"targets: found {shown(given)}, expected names, or a mapping of names to true values")
    pairs = given.items() if isinstance(given, Mapping) else [(name, None) for name in given]
    out = {}
    for name, value in pairs:
        target = value if isinstance(value, Target) else Target(value)
        of = name if target.of is None else target.of
        if not isinstance(of, str | Mapping | Sequence) or not of:
            raise DataError(f"targets[{name!r}]: of: expected a name, names or weights of coefficients, found {of!r}")
        if not isinstance(target.truth, str) and target.truth is not None:
            check_number(f"targets[{name!r}]: truth", target.truth)
        check_number(f"targets[{name!r}]: null", target.null, finite=True)
        of = of if isinstance(of, str) else dict(of) if isinstance(of, Mapping) else tuple(of)
        out[name] = Target(target.truth, of, float(target.null))
    return out
