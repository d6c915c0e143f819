"""Compiled programs are bounded: the least recently used are dropped, and their memory maps with them."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlmm.programs import PROGRAMS, Programs, allowed_maps, compiled, memory_maps


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
