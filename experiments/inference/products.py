"""Sums over several arrays: NumPy's einsum of all of them at once beside the matrix products that the package has.

``python experiments/inference/products.py > experiments/results/products.md``: sizes are those of 15 visits in two arms
with an unstructured residual, k = 120 covariance parameters, p = 30 coefficients, and joint tests of r = 14 rows.
"""

import time

import numpy as np

from jaxlmm.linalg import quadratic

K, P, R, ROWS = 120, 30, 14, 9000
rng = np.random.default_rng(1)
S, W, Phi = rng.normal(size=(K, P, P)), rng.normal(size=(K, K)), rng.normal(size=(P, P))
A, inner, G = rng.normal(size=(R, P)), rng.normal(size=(R, R)), rng.normal(size=(K, R, R))
J, X = rng.normal(size=(ROWS, K)), rng.normal(size=(ROWS, P))
SUMS = {
    "Kenward-Roger, joint: ab,bi,kij,cj->kac": ((inner, A, S, A), lambda: inner @ (A @ S @ A.T)),
    "Kenward-Roger, joint: kl,kab,lba->": ((W, G, G), lambda: np.sum(np.tensordot(W, G, 1) * np.swapaxes(G, 1, 2))),
    "information without directions: ka,kij,jl->ail": ((W, S, Phi), lambda: np.tensordot(W.T, S @ Phi, 1)),
    "Satterthwaite: mi,kij,mj->mk": ((A, S, A), lambda: quadratic(A, S).T),
    "predictions: mi,ij,mj->m": ((J, W, J), lambda: quadratic(J, W)),
    "conditional AIC: ij,ni,nj->": ((W, J, J), lambda: np.sum((J @ W) * J)),
    "plots, influence: ma,ab,mb->m": ((X, Phi, X), lambda: quadratic(X, Phi)),
}


def seconds(run):
    """The faster of two runs, and the value."""
    spent = []
    for _ in range(2):
        start = time.perf_counter()
        value = run()
        spent.append(time.perf_counter() - start)
    return min(spent), value


def main() -> None:
    print("# Sums over several arrays\n")
    print(f"k = {K}, p = {P}, r = {R}, {ROWS} rows; seconds, the faster of two runs, both sides in one run.\n")
    print("| sum | one einsum | products | relative difference |\n|---|---|---|---|")
    for name, (arrays, products) in SUMS.items():
        text = name.split(": ")[1]
        before, expected = seconds(lambda text=text, arrays=arrays: np.einsum(text, *arrays))
        after, found = seconds(products)
        gap = np.max(np.abs(found - expected)) / np.max(np.abs(expected))
        print(f"| {name.split(': ')[0]}: `{text}` | {before:.4f} | {after:.4f} | {gap:.0e} |")


if __name__ == "__main__":
    main()
