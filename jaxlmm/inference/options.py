"""What users may ask of small-sample tests, and what it means for a fit on the boundary."""

from __future__ import annotations

from ..arguments import check_choice
from ..errors import DataError
from .local import INFORMATION


def check_information(information: str | None, optional: bool = False) -> None:
    """Refuse an unknown information matrix; where `optional`, None leaves the choice to `chart_of`."""
    if not (optional and information is None):
        check_choice("information", information, INFORMATION)


def check_options(information: str | None, boundary_df: str | None) -> None:
    """Refuse unknown options, see ``Fit.test``."""
    check_information(information, optional=True)
    if boundary_df not in (None, "keep", "drop"):
        raise DataError(f"boundary_df: found {boundary_df!r}, expected 'keep' or 'drop'")


def chart_of(df: str, information: str | None, boundary_df: str | None, singular: bool) -> tuple[str, str]:
    """Chart of the covariance parameters and information matrix for "satterthwaite" or a Kenward-Roger method.

    On the boundary, Kenward-Roger keeps variances of zero as parameters, with expected information in the natural
    chart (as pbkrtest), and Satterthwaite drops them, in the solver's (as lmerTest), unless `boundary_df` says other.
    """
    keep = singular and (boundary_df or ("keep" if df.startswith("kenward") else "drop")) == "keep"
    return ("natural", information or "expected") if keep else ("solver", information or "observed")
