"""The command line: what it prints, what it refuses, and that nobody sees a traceback."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import jaxlmm
from cases import REFERENCES, load_case, load_data
from jaxlmm.__main__ import main, plain

SLEEP = "Reaction ~ Days + (Days | Subject)"


def run(capsys, *arguments):
    """Exit status, standard output and standard error of the command line, in this process."""
    try:
        status = main(arguments)
    except SystemExit as stop:  # argparse
        status = stop.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def fit_json(capsys, *arguments):
    status, out, err = run(capsys, "fit", *arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.smoke
def test_the_readmes_first_fit_in_a_fresh_process():
    command = [sys.executable, "-W", "error::DeprecationWarning:jaxlmm", "-m", "jaxlmm"]
    done = subprocess.run([*command, "fit", "sleepstudy", SLEEP], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for expected in ("Subject", "24.74", "5.92", "25.59", "251.405", "10.467", "1743.6"):
        assert expected in done.stdout


def test_json_holds_the_references_numbers(capsys):
    case = load_case("sleepstudy_reml")
    found = fit_json(capsys, "sleepstudy", SLEEP)
    assert found["loglik"] == pytest.approx(case["loglik"], abs=1e-6)
    assert found["method"] == "REML" and found["converged"] is True and found["singular"] is False
    assert (found["nobs"], found["npar"]) == (case["n"], case["npar"])
    for name, value in case["fixef"].items():
        assert found["coef"][name] == pytest.approx(value, abs=1e-5 * case["se"][name])
        assert found["se"][name] == pytest.approx(case["se"][name], rel=1e-5)
    np.testing.assert_allclose(found["vcov"], case["vcov_fixef"], rtol=1e-5)
    (group,) = found["varcorr"]
    assert group["group"] == "Subject" and group["columns"] == ["(Intercept)", "Days"]
    np.testing.assert_allclose(group["sd"], case["theta"]["groups"][0]["sd"], rtol=1e-4)
    assert found["sigma"] == pytest.approx(case["theta"]["sigma"], rel=1e-4)
    assert len(found["theta"]) == 4
    assert found["theta"][-1] == pytest.approx(np.log(found["sigma"]))


def test_method_ml(capsys):
    found = fit_json(capsys, "sleepstudy", SLEEP, "--method", "ML")
    assert found["method"] == "ML"
    assert found["loglik"] == pytest.approx(load_case("sleepstudy_ml")["loglik"], abs=1e-6)


def test_a_singular_fit_is_valid_json(capsys):
    case = load_case("dyestuff2_singular_reml")
    found = fit_json(capsys, "dyestuff2", "Yield ~ 1 + (1 | Batch)")
    assert found["singular"] is True and found["theta"][0] == "-inf"
    assert found["varcorr"][0]["sd"] == [0.0]
    assert found["loglik"] == pytest.approx(case["loglik"], abs=1e-6)


def test_csv_with_weights_and_offset(capsys, tmp_path):
    case = load_case("sleepstudy_weighted_reml")
    found = fit_json(capsys, str(REFERENCES / case["data"]), case["formula"], "--weights", "w")
    assert found["loglik"] == pytest.approx(case["loglik"], abs=1e-6)

    data = load_data(case)
    data["o"] = 3.0 * data["Days"]
    data.to_csv(tmp_path / "offset.csv", index=False)
    moved = fit_json(capsys, str(tmp_path / "offset.csv"), case["formula"], "--weights", "w", "--offset", "o")
    assert moved["loglik"] == pytest.approx(case["loglik"], abs=1e-6)
    assert moved["coef"]["Days"] == pytest.approx(case["fixef"]["Days"] - 3.0, rel=1e-6)


def test_engine_dense_gives_the_same_fit(capsys):
    found = fit_json(capsys, "dyestuff", "Yield ~ 1 + (1 | Batch)", "--engine", "dense")
    assert found["engine"] == "dense"
    assert found["loglik"] == pytest.approx(load_case("dyestuff_reml")["loglik"], abs=1e-6)


def test_datasets_lists_and_describes(capsys):
    status, out, _ = run(capsys, "datasets")
    assert status == 0
    assert all(name in out for name in jaxlmm.datasets.names())
    status, out, _ = run(capsys, "datasets", "oats")
    assert status == 0 and "Yates (1935)" in out


def test_version(capsys):
    status, out, _ = run(capsys, "--version")
    assert status == 0 and out.strip() == f"jaxlmm {jaxlmm.__version__}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "nowhere.csv", SLEEP), "'nowhere.csv' is neither a file nor a shipped data set"),
        (("fit", "sleepstudy", "Reaction ~ Dais + (1 | Subject)"), "Dais"),
        (("fit", "sleepstudy", "Reaction ~ Days + (Days | Subject"), "^"),
        (("fit", "sleepstudy", SLEEP, "--method", "RELM"), "RELM"),
        (("fit", "sleepstudy", SLEEP, "--engine", "magic"), "magic"),
        (("fit", "sleepstudy", SLEEP, "--weights", "ww"), "ww"),
        (("datasets", "slepstudy"), "did you mean 'sleepstudy'?"),
    ],
)
def test_what_cannot_be_used_gets_a_sentence_and_status_2(capsys, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert status == 2 and out == ""
    assert err.startswith("jaxlmm: ") and message in err and "Traceback" not in err


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00binary", b"a,b\n1,2,3\n1\n1,2,3,4\n"])
def test_a_file_that_is_no_csv_table(capsys, tmp_path, content):
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    status, out, err = run(capsys, "fit", str(path), "y ~ 1 + (1 | g)")
    assert status == 2 and out == "" and err.startswith("jaxlmm: ") and "Traceback" not in err


def test_no_command_prints_the_usage(capsys):
    status, _, err = run(capsys)
    assert status == 2 and "usage:" in err


def test_plain_leaves_only_what_json_can_hold():
    mixed = {"a": np.array([1.0, np.nan, -np.inf]), "b": (np.int64(2), True, None), "c": {"d": np.inf}}
    assert plain(mixed) == {"a": [1.0, None, "-inf"], "b": [2, True, None], "c": {"d": "inf"}}
