"""Compiled programs are bounded: the least recently used are dropped, and their memory maps with them."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from cases import some
from jaxlmm.inference.robust import partition
from jaxlmm.interface import model_of
from jaxlmm.likelihood.engines.crossed import engine as crossed
from jaxlmm.likelihood.engines.crossed import layout as crossing
from jaxlmm.likelihood.engines.grouped import engine as grouped
from jaxlmm.likelihood.engines.marginal import statistics as clustered
from jaxlmm.likelihood.prepared import prepare
from jaxlmm.runtime.programs import PROGRAMS, Programs, allowed_maps, compiled, memory_maps


def counted(programs, *static):
    """A function that is traced once a program, and the sizes it has been traced for."""
    traced = []

    @compiled(*static, programs=programs)
    def function(x, power=2):
        traced.append(x.shape[0])
        return jnp.sum(jnp.linalg.cholesky(jnp.eye(len(x)) + x[:, None] * x) ** power)

    return function, traced


def test_the_least_recently_used_programs_are_dropped():
    function, traced = counted(Programs(most=3))
    for n in (1, 2, 3, 1, 4, 1, 2):  # 2 is the least recently used when 4 comes, and 3 when 2 comes again
        function(np.ones(n))
    assert traced == [1, 2, 3, 4, 2]


def test_programs_are_told_apart_by_shape_type_and_static_arguments():
    programs = Programs()
    function, traced = counted(programs, "power")
    for x in (np.ones(2), np.ones(2, np.float32), jnp.ones(2)):
        for power in (2, 3):
            assert float(function(x, power)) == pytest.approx(float(function(x, power)))
    assert len(programs) == len(traced) == 4


def test_nothing_is_dropped_in_ordinary_use():
    programs = Programs()
    function, traced = counted(programs)
    for _ in range(2):
        for n in range(1, 20):
            function(np.ones(n))
    assert traced == list(range(1, 20))
    assert PROGRAMS.maps is None and len(PROGRAMS) <= PROGRAMS.most


@pytest.mark.skipif(memory_maps() is None or np.isinf(allowed_maps()), reason="no /proc")
@pytest.mark.slow
def test_memory_maps_come_back():
    held = Programs()
    function, _ = counted(held)
    before = memory_maps()
    for n in range(20, 40):
        function(np.ones(n))
    each = (memory_maps() - before) / 20
    assert each > 3
    limit = before + int(8 * each)
    bounded = Programs(maps=limit, few=2)
    function, _ = counted(bounded)
    held.most = 1
    held._make_room()
    for n in range(20, 80):
        function(np.ones(n))
        assert memory_maps() < limit + 3 * each
    assert 2 <= len(bounded) < 20


def test_others_maps_leave_a_few_programs():
    programs = Programs(maps=0, few=5)  # as where the user's own programs are many
    function, traced = counted(programs)
    for _ in range(3):
        for n in range(1, 6):
            function(np.ones(n))
    assert traced == [1, 2, 3, 4, 5]


def test_programs_work_inside_transformations_and_threads():
    programs = Programs(most=1)
    function, _ = counted(programs)
    other, _ = counted(programs)

    def both(x):
        return function(x) + other(x) + function(x[:2])

    x = np.arange(1.0, 4.0)
    expected = float(both(x))
    assert float(jax.jit(both)(x)) == pytest.approx(expected)
    slope = jax.grad(both)(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(both))(np.stack([x, x])), np.stack([slope, slope]))
    found = {}

    def work(n):
        for _ in range(5):
            found.setdefault(n, set()).add(round(float(both(np.arange(1.0, n))), 8))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(found[n]) == 1 for n in range(4, 8))


def rows(kind, n, groups, levels, seed=0):
    """Columns of a design and the model's arguments: crossed, nested, repeated measures, and those within centres."""
    rng = np.random.default_rng(seed)
    g = np.arange(n) % groups
    data = {"g": g, "k": g % levels, "h": rng.integers(0, levels, n), "v": np.arange(n) // groups}
    data |= {"x": rng.normal(size=n), "y": rng.normal(size=n) + rng.normal(size=groups)[g]}
    formula, options = {
        "crossed": ("y ~ x + (1|g) + (1|h)", {}),
        "nested": ("y ~ x + (1|k/g)", {}),
        "repeated": ("y ~ x", {"residual": "cs(v|g)"}),
        "within centres": ("y ~ x + (1|k)", {"residual": "cs(v|g)"}),
    }[kind]
    return formula, data, options


def exact(monkeypatch):
    """Sizes are what they are."""
    for module in (crossing, grouped, clustered, crossed, partition):
        for name in ("fine", "row_bucket", "bucket"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda size, *_: size)


@pytest.mark.parametrize("kind", some(["crossed", "nested", "repeated", "within centres"], "crossed"))
def test_what_is_rounded_up_contributes_nothing(kind, monkeypatch):
    formula, data, options = rows(kind, 75, 19, 5)
    found = []
    for whole in (False, True):
        if whole:
            exact(monkeypatch)
        _, model = model_of(formula, data, **options)
        compact, full = (prepare(model, compact=compact, orthogonal=True).statistics for compact in (True, False))
        C = model.blocks(np.linspace(-0.5, 0.4, model.size))
        D = jax.tree_util.tree_map(lambda G: np.stack([np.eye(len(G)), np.ones(G.shape)]), C)
        expansion = jax.jit(lambda s, C, D: s.expand(C, D, jnp.linalg.inv))(compact, C, D)
        solved = jax.jit(lambda s, C, B: s.solve(C, B))(full, C, np.column_stack([data["y"], data["x"]]))
        found.append((jax.tree_util.tree_leaves((compact, full)), jax.tree_util.tree_leaves((expansion, solved))))
    (padded, first), (own, second) = found
    assert sum(np.size(a) for a in padded) > sum(np.size(a) for a in own)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * np.max(np.abs(b)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crossed", "nested"])
def test_data_of_other_sizes_share_programs(kind):
    kept = []
    for n, groups, levels in ((75, 19, 9), (78, 20, 9), (80, 21, 10)):
        formula, data, options = rows(kind, n, groups, levels)
        fit = jaxlmm.lmm(formula, data, **options)
        fit.ranef()
        assert np.all(np.isfinite(fit.fitted))
        kept.append(set(PROGRAMS._kept))
    assert kept[0] == kept[1] == kept[2]
