"""Newton steps by a Cholesky factorisation are those of eigenvalues, which are for Hessians that are not definite."""

from __future__ import annotations

import jax
import numpy as np

from jaxlmm.fitting import newton
from jaxlmm.fitting.firm import in_one_thread


def test_steps_of_many_are_those_of_eigenvalues(monkeypatch):
    rng, k, b = np.random.default_rng(0), 6, 24
    A = rng.normal(size=(b, k, k))
    H = A @ np.swapaxes(A, 1, 2) / k + 0.1 * np.eye(k)
    H[::5] -= 2.0 * np.eye(k)  # not definite
    H[3] = np.nan
    H[4] = np.diag([1.0, 1.0, 1.0, 1.0, 1.0, 1e-12])  # hardly
    g, radius, decomposed = rng.normal(size=(b, k)), rng.uniform(0.1, 5.0, b), []
    eigh = newton.eigh

    def counted(S):
        jax.debug.callback(lambda S: decomposed.append(np.shape(S)), S)
        return eigh(S)

    monkeypatch.setattr(newton, "eigh", counted)
    with jax.enable_x64(True):
        step = jax.jit(jax.vmap(lambda *args: newton.newton_step(*args, jax.numpy)))
        found = jax.block_until_ready(step(g, H, radius))
        jax.effects_barrier()
        assert len(decomposed) == 9  # seven that are not firm, three at a time
        alone = newton.newton_step(*(jax.numpy.asarray(x[1]) for x in (g, H, radius)), jax.numpy)
        jax.effects_barrier()
    with np.errstate(all="ignore"):
        right = [newton._by_eigenvalues(g[i], H[i], radius[i], np) for i in range(b) if i != 3]
        host = [newton.newton_step(g[i], H[i], radius[i], np) for i in range(b) if i != 3]
    others = np.arange(b) != 3
    for i, name in enumerate(("step", "predicted", "decrement")):
        np.testing.assert_allclose(found[i][others], [r[i] for r in right], rtol=1e-9, atol=1e-11, err_msg=name)
        np.testing.assert_allclose([h[i] for h in host], [r[i] for r in right], rtol=1e-9, atol=1e-11, err_msg=name)
        np.testing.assert_allclose(alone[i], found[i][1], rtol=1e-12)
    np.testing.assert_array_equal(found[3][others] < 0, [r[3] < 0 for r in right])
    assert np.isnan(found[2][3])


def test_eigenvalues_in_one_thread():
    A = np.random.default_rng(1).normal(size=(40, 40))
    for S in (A + A.T, A[:, :3] @ A[:, :3].T, np.diag(np.arange(40.0) // 3), np.zeros((30, 30))):
        w, Q = in_one_thread(S)
        np.testing.assert_allclose(w, np.linalg.eigvalsh(S), atol=1e-12 * max(1.0, np.abs(S).max()))
        np.testing.assert_allclose(Q * w @ Q.T, S, atol=1e-12)
        np.testing.assert_allclose(Q.T @ Q, np.eye(len(S)), atol=1e-12)
