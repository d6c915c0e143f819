"""Means of transformed responses on their own scale, margins and sides, against R's emmeans 1.8.4 and closed forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

import jaxlmm
from jaxlmm.errors import DataError
from jaxlmm.inference.hypotheses.alternatives import alternative_of
from jaxlmm.inference.means.multiplicity import Reach, adjusted, critical

# d <- sleepstudy; d$cond <- factor(rep(c("a", "b", "c"), 60)); e <- emmeans(lmer(log(Reaction) ~ Days + cond +
# (1 | Subject), d), ~ cond, type = "response", lmer.df = "satterthwaite")
RTOL = 2e-6


@pytest.fixture(scope="module")
def data():
    found = jaxlmm.datasets.load("sleepstudy")
    return found.assign(cond=["a", "b", "c"] * 60)


@pytest.fixture(scope="module")
def fit(data):
    return jaxlmm.lmm("log(Reaction) ~ Days + cond + (1 | Subject)", data)


@pytest.fixture(scope="module")
def means(fit):
    return fit.emmeans("cond", type="response")


def check(frame, rtol=RTOL, **columns):
    for name, expected in columns.items():
        np.testing.assert_allclose(frame[name], expected, rtol=rtol, err_msg=name)


def test_means_and_limits_are_transformed_back(means):
    check(
        means.frame(), estimate=[292.97370, 292.66253, 294.59746], std_error=[9.592707, 9.582519, 9.645873],
        lower=[273.68575, 273.39507, 275.20261], upper=[313.62096, 313.28787, 315.35916],
    )  # fmt: skip
    assert "back-transformed from log(Reaction) to Reaction" in str(means) and "Response" in str(means)


def test_a_single_difference_has_sides_and_margins_without_an_adjustment(means):
    """Two means have one pair, which Tukey and Dunnett leave as it is."""
    two = dataclasses.replace(means, labels={"cond": ["a", "b"]}, functions=means.functions[:2], shift=means.shift[:2])
    for found in (two.pairs(), two.contrast("trt.vs.ctrl")):
        row = found.frame()
        p = found.test(side=">")["p_value"][0]
        np.testing.assert_allclose(min(p, 1 - p), row["p_value"][0] / 2, rtol=1e-6)
        assert found.test(delta=1.25)["p_value"][0] < 0.001 and found.against(side="<").adjust == "none"


def test_differences_of_logarithms_are_ratios(means):
    found = means.pairs()
    assert found.labels["contrast"] == ["a / b", "a / c", "b / c"]
    check(
        found.frame(), estimate=[1.0010632213, 0.9944881953, 0.9934319572],
        std_error=[0.01794011504, 0.01782228360, 0.01780335469], lower=[0.9595068998, 0.9532048174, 0.9521924261],
        upper=[1.044419351, 1.037559560, 1.036457576],
    )  # fmt: skip
    check(found.frame(), rtol=1e-4, p_value=[0.9981, 0.9489, 0.9282], df=[159.1754] * 3)
    again = found.contrast("revpairwise", adjust="none").frame()
    np.testing.assert_allclose(again["estimate"].iloc[0], 0.9944881953 / 1.0010632213, rtol=RTOL)
    assert "ratios of Reaction" in str(found)


def test_margins_and_sides(means):
    """R's emmeans has margins on the scale of the model, log(1.25), null = log(300); here they are on the table's."""
    pairs = means.pairs()
    check(
        pairs.test(delta=1.25, adjust="holm"), statistic=[-12.39217337, -12.14305898, -12.08376246],
    )  # fmt: skip
    check(pairs.test(delta=1.25, adjust="holm"), 1e-4, p_value=[6.085383e-25, 1.971604e-24, 1.971604e-24])
    check(
        pairs.test(delta=1.05, side=">", adjust="none"), rtol=1e-5, statistic=[2.781800739, 2.414093307, 2.354796788],
        p_value=[0.003029637267, 0.008454486268, 0.009876325485],
    )  # fmt: skip
    check(
        means.test(null=300.0, side="less"), rtol=1e-5, statistic=[-0.7238176478, -0.7562725537, -0.5550143627],
        p_value=[0.2385920060, 0.2289536931, 0.2923817332],
    )  # fmt: skip
    one = means.confint(side="greater")
    check(one, lower=[276.9216989, 276.6275825, 278.4564967])
    assert np.all(np.isinf(one["upper"]))
    text = str(pairs.against(delta=1.25, adjust="holm"))
    assert "equivalence: between 1 / 1.25 and 1 * 1.25" in text
    assert "non-inferiority: > 1 / 1.05" in str(pairs.against(side=">", delta=1.05, adjust="none"))


def test_sides_of_linear_hypotheses(fit):
    """The t distribution by hand; an interval of one side, the margins of equivalence."""
    both = fit.test("Days", rhs=0.02)
    t, df, se = both.rows.statistic[0], both.rows.df[0], both.rows.se[0]
    found = fit.test("Days", rhs=0.02, side="less")
    np.testing.assert_allclose([found.rows.statistic[0], found.rows.p[0]], [t, stats.t.cdf(t, df)], rtol=1e-12)
    expected = [-np.inf, found.rows.estimate[0] + stats.t.ppf(0.95, df) * se]
    np.testing.assert_allclose(found.limits[0], expected, rtol=1e-12)
    found = fit.test("Days", rhs=0.02, delta=0.01)
    t = [(both.rows.estimate[0] - end) / se for end in (0.01, 0.03)]
    np.testing.assert_allclose(found.rows.p[0], max(stats.t.sf(t[0], df), stats.t.cdf(t[1], df)), rtol=1e-10)
    np.testing.assert_array_equal(found.limits, both.limits)
    assert "equivalence: between rhs - 0.01 and rhs + 0.01" in str(found) and found.joint == both.joint


def test_predictions_on_the_response_scale(data):
    fit = jaxlmm.lmm("log(Reaction) ~ Days + (1 | Subject)", data)
    new = data.iloc[[0, 50, 70]].assign(Days=[1.0, 2.0, None])
    plain, shown = fit.predict(new, interval="prediction"), fit.predict(new, interval="prediction", type="response")
    for name in ("estimate", "lower", "upper"):
        np.testing.assert_allclose(shown[name], np.exp(plain[name]), rtol=1e-12)
    np.testing.assert_allclose(shown["std_error"], np.exp(plain["estimate"]) * plain["std_error"], rtol=1e-12)
    np.testing.assert_allclose(fit.predict(new, type="response"), np.exp(fit.predict(new)), rtol=1e-12)
    assert list(shown.index) == list(plain.index) and np.isnan(shown["estimate"].iloc[2])


def test_fieller_ratios(data):
    """The set of r for which a - r b is not significant, found by a dense search; without limits where b may be 0."""
    fit = jaxlmm.lmm("Reaction ~ Days * cond + (1 | Subject)", data)
    found = fit.ratio({"Days": 1, "Days:cond[T.b]": 1}, "Days", df="asymptotic")
    grid = np.linspace(0.3, 2.0, 200001)
    L = np.zeros((2, len(fit.coef)))
    names = list(fit.coef_names)
    L[0, [names.index("Days"), names.index("Days:cond[T.b]")]] = 1.0
    L[1, names.index("Days")] = 1.0
    rows = L[0] - grid[:, None] * L[1]
    t = rows @ fit.coef / np.sqrt(np.sum(rows @ fit.vcov * rows, 1))
    inside = grid[np.abs(t) < stats.norm.ppf(0.975)]
    np.testing.assert_allclose([found.lower, found.upper], inside[[0, -1]], atol=1e-5)
    np.testing.assert_allclose(found.estimate, (L[0] @ fit.coef) / (L[1] @ fit.coef), rtol=1e-12)
    outside = fit.ratio("Days", "cond[T.b]", df="asymptotic")
    L = np.eye(len(fit.coef))[[names.index("Days"), names.index("cond[T.b]")]]
    rows = L[0] - np.array([outside.upper, 0.0, outside.lower])[:, None] * L[1]
    t = rows @ fit.coef / np.sqrt(np.sum(rows @ fit.vcov * rows, 1))
    np.testing.assert_allclose(np.abs(t[[0, 2]]), stats.norm.ppf(0.975), rtol=1e-8)
    assert outside.upper < 0 < outside.lower and np.abs(t[1]) > 2 and "all ratios but those between" in outside.note
    nothing = fit.ratio("cond[T.c]", "cond[T.b]")
    assert np.isinf([nothing.lower, nothing.upper]).all() and "no ratio is excluded" in nothing.note
    assert "Fieller" in str(found) and list(found.frame()["term"]) == ["Days + Days:cond[T.b] / Days"]


def test_bias_adjustment(fit):
    check(
        fit.emmeans("cond", type="response", bias_adjust=0.3).frame(), estimate=[306.1575146, 305.8323471, 307.8543476],
        std_error=[10.02437918, 10.01373236, 10.07993783], lower=[286.0016085, 285.6978484, 287.5867304],
    )  # fmt: skip
    own = fit.emmeans("cond", type="response", bias_adjust=True).frame()["estimate"]
    variance = np.square(fit.varcorr().frame()["sd_or_corr"]).sum()
    np.testing.assert_allclose(own, [292.97370 * (1 + variance / 2)] + list(own[1:]), rtol=1e-5)


def test_regridded_means_are_numbers(means):
    found = means.regrid().pairs().frame()
    check(found, estimate=[0.3111651, -1.6237637, -1.9349287], rtol=1e-5)
    check(found, std_error=[5.247620, 5.265198, 5.262514])
    raw = np.array([292.9736976, 292.6625326, 294.5974613])
    np.testing.assert_allclose(found["estimate"], raw[[0, 0, 1]] - raw[[1, 2, 2]], rtol=1e-5)


@pytest.mark.parametrize(
    ("adjust", "p", "upper"),
    [
        ("scheffe", [0.9982435253, 0.9346569817], [1.044167176, 1.052188174]),
        ("hochberg", [0.9527903127, 0.9527903127], [1.040279242, 1.048270374]),
        ("hommel", [0.9527903127, 0.9527903127], [1.040279242, 1.048270374]),
        ("mvt", [0.9974193979, 0.9063614875], [1.03970486, 1.04769158]),
    ],
)
def test_adjustments(means, adjust, p, upper):
    found = means.contrast("consec", adjust=adjust).frame()
    check(found, 1e-4, p_value=p)
    check(found, 1e-5, upper=upper)


def test_one_sided_dunnett(means):
    found = means.contrast("dunnett").against(side="greater").frame()
    check(found, 2e-5, lower=[0.9649817736, 0.9713617189])
    check(found, 1e-4, p_value=[0.6899487028, 0.5372428343])


def test_interactions_and_scales_without_ratios(data):
    fit = jaxlmm.lmm("sqrt(Reaction) ~ Days * cond + (1 | Subject)", data)
    means = fit.emmeans(["cond", "Days"], at={"Days": [0, 3, 9]}, type="response")
    check(means.frame().iloc[:3] if means.labels["Days"][:2] == [0, 0] else means.frame().iloc[::3],
          estimate=[247.1033, 253.6747, 254.9452], rtol=1e-6)  # fmt: skip
    found = means.contrast(["pairwise", "poly"], interaction=True)
    frame = found.frame()
    assert "on the scale of the model" in str(found)
    linear = frame[frame["Days contrast"] == "linear"]
    check(linear, 1e-5, estimate=[0.4578177, 0.3891599, -0.0686578], std_error=[0.4994039] * 3)
    quadratic = frame[frame["Days contrast"] == "quadratic"]
    check(quadratic, 1e-4, estimate=[0.1526059, 0.1297200, -0.0228859], std_error=[0.1664680] * 3)
    others = means.contrast("del.eff", by="Days").frame()
    check(others[others["Days"] == 0], 1e-4, estimate=[-0.22756800, 0.08390872, 0.14365928], p_value=[0.7441] * 3)


def test_averages_on_the_response_scale(data, fit):
    """Averages of exp(eta), their changes and slopes, with errors by derivatives of the average in the coefficients."""
    fit = jaxlmm.lmm("log(Reaction) ~ Days * cond + (1 | Subject)", data)
    X, b, V = fit.model.X, fit.coef, fit.vcov

    def mean(columns, change=None):
        design = X.copy()
        for name, value in columns.items():
            design[:, list(fit.coef_names).index(name)] = value
        return np.exp(design @ b), design

    value, design = mean({})
    gradient = np.mean(value[:, None] * design, 0)
    found = fit.predictions(type="response").frame()
    check(found, 1e-9, estimate=[value.mean()], std_error=[np.sqrt(gradient @ V @ gradient)])
    a, at_a = mean({"cond[T.b]": 0, "cond[T.c]": 0, "Days:cond[T.b]": 0, "Days:cond[T.c]": 0})
    days = np.asarray(data["Days"], float)
    c, at_c = mean({"cond[T.b]": 0, "cond[T.c]": 1, "Days:cond[T.b]": 0, "Days:cond[T.c]": days})
    gradient = np.mean(c[:, None] * at_c - a[:, None] * at_a, 0)
    found = fit.comparisons("cond", change=("a", "c"), type="response").frame()
    check(found, 1e-9, estimate=[np.mean(c - a)], std_error=[np.sqrt(gradient @ V @ gradient)])
    names = list(fit.coef_names)
    slope = np.zeros_like(X)
    slope[:, names.index("Days")] = 1.0
    for level in "bc":
        slope[:, names.index(f"Days:cond[T.{level}]")] = X[:, names.index(f"cond[T.{level}]")]
    gradient = np.mean(value[:, None] * (slope + (slope @ b)[:, None] * X), 0)
    found = fit.slopes("Days", type="response").frame()
    check(found, 1e-8, estimate=[np.mean(value * (slope @ b))], std_error=[np.sqrt(gradient @ V @ gradient)])
    ratio = fit.emtrends("Days", type="response").frame()["estimate"]
    check({"estimate": ratio}, 1e-10, estimate=np.exp(fit.emtrends("Days").frame()["estimate"]))


@pytest.mark.parametrize(
    ("response", "back", "ratio"),
    [
        ("log10(Reaction / 100)", lambda x: 100 * 10**x, lambda d: 10**d),
        ("2 * log(Reaction) - 3", lambda x: np.exp((x + 3) / 2), lambda d: np.exp(d / 2)),
        ("1 - log2(Reaction)", lambda x: 2 ** (1 - x), lambda d: 2.0**-d),
        ("log1p(Reaction)", np.expm1, np.exp),
        ("I(Reaction / 10 + 2)", lambda x: 10 * (x - 2), lambda d: 10 * d),
        ("100 / Reaction", lambda x: 100 / x, None),
        ("Reaction**0.5", np.square, None),
        ("Reaction**2", np.sqrt, None),
        ("log(Reaction / 1000 / (1 - Reaction / 1000))", lambda x: 1000 / (1 + np.exp(-x)), np.exp),
        ("logit(Reaction / 1000)", lambda x: 1000 / (1 + np.exp(-x)), np.exp),
        ("-cbrt(Reaction)", lambda x: -(x**3), None),
    ],
)
def test_any_invertible_response(data, response, back, ratio):
    fit = jaxlmm.lmm(f"{response} ~ cond + (1 | Subject)", data)
    plain, shown = fit.emmeans("cond", df="asymptotic"), fit.emmeans("cond", df="asymptotic", type="response")
    link, found = plain.frame(), shown.frame()
    check(found, 1e-10, estimate=back(np.asarray(link["estimate"])))
    limits = np.sort([back(np.asarray(link["lower"])), back(np.asarray(link["upper"]))], axis=0)
    check(found, 1e-10, lower=limits[0], upper=limits[1])
    numeric = [(back(x + 1e-5) - back(x - 1e-5)) / 2e-5 for x in link["estimate"]]
    check(found, 1e-6, std_error=np.abs(numeric) * link["std_error"])
    differences = shown.pairs()
    if ratio is None:
        assert "on the scale of the model" in str(differences)
        return
    check(differences.frame(), 1e-9, estimate=ratio(np.asarray(plain.pairs().frame()["estimate"])))


def test_a_decreasing_scale_turns_sides_around(data):
    fit = jaxlmm.lmm("100 / Reaction ~ cond + (1 | Subject)", data)
    shown = fit.emmeans("cond", type="response", df="asymptotic").against(null=290.0, side="greater").frame()
    link = fit.emmeans("cond", df="asymptotic").against(null=100 / 290.0, side="less").frame()
    np.testing.assert_allclose(shown["p_value"], link["p_value"], rtol=1e-8)
    np.testing.assert_allclose(shown["lower"], 100 / np.asarray(link["upper"]), rtol=1e-10)
    assert np.all(np.asarray(shown["upper"]) == np.inf)
    asked = fit.emmeans("cond", type="response", df="asymptotic").against(null=290.0, side="greater")
    assert "one-sided tests: > 290" in str(asked)


@pytest.mark.slow
def test_hypotheses_of_a_decreasing_logarithm_are_said_as_asked(data):
    up, down = (jaxlmm.lmm(f"{sign}log(Reaction) ~ cond + (1 | Subject)", data) for sign in ("", "-"))
    for side, words in ((">", "non-inferiority: > 1 / 1.25"), ("<", "non-superiority: < 1 * 1.25"),
                        ("two-sided", "equivalence: between 1 / 1.25 and 1 * 1.25")):  # fmt: skip
        asked = [
            fit.emmeans("cond", type="response").pairs().against(side=side, delta=1.25, adjust="holm")
            for fit in (up, down)
        ]
        assert all(words in str(found) for found in asked)
        np.testing.assert_allclose(*(found.frame()["p_value"] for found in asked), rtol=1e-6)


def test_hommel_is_its_definition():
    """All sets of hypotheses, each tested by Simes: the p value is the largest over those that hold the hypothesis."""
    rng = np.random.default_rng(0)
    for m in (2, 3, 5):
        p = rng.uniform(size=m) ** 3
        expected = np.zeros(m)
        for chosen in range(1, 2**m):
            members = [i for i in range(m) if chosen >> i & 1]
            simes = min(1.0, min(len(members) * x / (j + 1) for j, x in enumerate(np.sort(p[members]))))
            expected[members] = np.maximum(expected[members], simes)
        t = stats.norm.isf(p / 2)
        found = adjusted("hommel", t, np.full(m, np.inf), np.eye(m), 0)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_one_tail_of_several():
    """Independent statistics: P(max T > c) = 1 - P(T <= c)^m with infinite degrees of freedom; limits meet it."""
    for c in (-1.0, 0.0, 0.7, 2.1):
        found = Reach(np.eye(3), tails=1).exceed(np.array([c]), np.array([np.inf]))[0]
        assert found == pytest.approx(1 - stats.norm.cdf(c) ** 3, abs=2e-5)
    side = alternative_of("greater", 0.0)
    limit = critical("mvt", 0.95, np.full(3, 9.0), np.eye(3), 0, side)
    np.testing.assert_allclose(adjusted("mvt", limit, np.full(3, 9.0), np.eye(3), 0, side), 0.05, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.emmeans("cond", type="mu"), "type: found 'mu', expected 'link'"),
        (lambda f: f.emmeans("cond", bias_adjust=True), "bias_adjust: for means of a transformed response"),
        (lambda f: f.emmeans("cond").regrid(), "regrid: these are on the scale of the model"),
        (lambda f: f.emmeans("cond").pairs().test(side=">"), "adjust: 'tukey' has two sides"),
        (lambda f: f.emmeans("cond").pairs().test(delta=0.1, adjust="mvt"), "adjust: 'mvt' has no form"),
        (lambda f: f.emmeans("cond").test(side="up"), "side: found 'up', expected one of"),
        (lambda f: f.emmeans("cond").test(delta=-1.0), "delta: found -1.0, expected a margin"),
        (lambda f: f.emmeans("cond").test(joint=True, side=">"), "joint: an F test has no side"),
        (lambda f: f.emmeans("cond", type="response").test(null=-3.0), "null: found -3.0, which estimates"),
        (lambda f: f.emmeans("cond", type="response").test(delta=1.2), "use regrid"),
        (lambda f: f.emmeans("cond").contrast(["poly", "poly"], interaction=True), "method: expected one for"),
    ],
)  # fmt: skip
def test_messages(fit, call, message):
    with pytest.raises(DataError, match=message):
        call(fit)


def test_a_response_of_two_columns_has_no_scale(data):
    fit = jaxlmm.lmm("log(Reaction) - Days ~ cond + (1 | Subject)", data)
    with pytest.raises(DataError, match=r"type: log\(Reaction\) - Days is no function of one column"):
        fit.emmeans("cond", type="response")


@pytest.mark.slow
def test_batches_have_the_ratios_and_means_of_single_fits(fit):
    Y = fit.simulate(3, seed=4)
    rows = np.array([[0, 0, -1.0, 0], [0, 0, 0, -1.0], [1, 4.5, 0, 0]])  # a / b, a / c; the mean of a
    batch = fit.refit(Y, tests=jaxlmm.Tests(rows))
    tests, one = batch.tests["satterthwaite"], fit.refit(Y[1])
    ratios, means = tests.response(fit).iloc[3:5], tests.response(fit, means=True, level=0.9).iloc[[5]]
    single = one.emmeans("cond", type="response", level=0.9)
    pairs = single.pairs(adjust="none").contrast("identity", level=0.95).frame().iloc[:2]
    names = ("estimate", "std_error", "df", "lower", "upper")
    check(ratios, 1e-6, **{name: pairs[name].to_numpy() for name in names})
    check(means, 1e-6, **{name: single.frame()[name].to_numpy()[:1] for name in names})
    new = {"Days": [3.0], "cond": ["b"], "Subject": ["308"]}
    back = fit.predict_batch(batch, Y, new, type="response")
    np.testing.assert_allclose(back[1], one.predict(new, type="response"), rtol=1e-7)
    root = jaxlmm.lmm("sqrt(Reaction) ~ Days + (1 | Subject)", fit.data)
    with pytest.raises(DataError, match="means: differences of sqrt"):
        tests.response(root)
    with pytest.raises(DataError, match="batch: found ndarray"):
        fit.predict_batch(Y, Y)
