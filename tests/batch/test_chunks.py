"""Chunks of a batch: every core gets lanes, few shapes are compiled, and results do not depend on the split."""

from __future__ import annotations

import threading

import jax
import numpy as np
import pytest

import jaxlmm
from batches import design, responses
from jaxlmm.batch import chunks, queue, refitting
from jaxlmm.runtime.devices import devices, platform


@pytest.mark.parametrize("cores", [1, 2, 4, 16])
def test_rows_are_dealt_to_all_cores(cores, monkeypatch):
    monkeypatch.setattr(chunks, "cores", lambda: cores)
    for b in (0, 1, 20, 99, 200, 1000, 8000, 16_385, 50_000):
        parts = chunks.chunks(b, 300)
        np.testing.assert_array_equal(np.concatenate([np.zeros(0, int), *parts]), np.arange(b))
        sizes = [len(rows) for rows in parts]
        assert len(parts) >= min(cores, b // queue.LEAST)
        if b:
            assert len(parts) % min(cores, max(1, b // queue.LEAST)) == 0
            assert max(sizes) - min(sizes) <= 1
            assert max(sizes) <= queue.SIZES["cpu"][-1][0] and max(sizes) * 300 <= chunks.CHUNK_FLOATS


def test_few_shapes_are_compiled():
    """Room for at most four times as many lanes as there are, but for the smallest batches."""
    steps = [capacity for capacity, _ in queue.SIZES["cpu"]]
    assert all(b <= 4 * a for a, b in zip(steps[1:-1], steps[2:], strict=True)) and len(steps) <= 5
    assert queue.sizes(300)[0] == queue.sizes(1000)[0] == 1024


def test_queues_of_a_gpu(monkeypatch):
    """At most four times the room that lanes need; slots, and chunks, by its memory and the number of parameters."""
    for module in (queue, chunks):
        monkeypatch.setattr(module, "platform", lambda: "gpu")
    assert all(queue.sizes(b)[0] <= 4 * b for b in (64, 257, 1100, 5000, 20_000))
    assert queue.sizes(1100) == (4096, 4096)
    slots = []
    for memory in (1e8, 1e6, None):
        for module in (queue, chunks):
            monkeypatch.setattr(module, "numbers_at_once", lambda memory=memory: memory)
        slots.append([queue.sizes(10**6, 1000, k)[1] for k in (0, 3, 55)])
        if memory:
            each = max(map(len, chunks.chunks(10**6, 300, 55)))
            assert each * (300 + 2 * 56**2) <= memory
    assert slots == [[16384, 16384, 1024], [512, 128, 16], [16384, 8192, 512]]


@pytest.mark.slow
def test_large_data_are_not_padded(monkeypatch):
    """Only the indices of a queue have its capacity where the data of the padding would be large."""
    model, Y = design("one-way"), responses("one-way")
    Y = Y.copy()
    Y[::3, 0] = np.nan  # designs of their own, two shapes of which are in the batch
    expected, init, rows = jaxlmm.fit_batch(model, Y), queue.Runner.__init__, []

    def seen(self, spec, shared, lanes, count, *args):
        init(self, spec, shared, lanes, count, *args)
        rows.append((count, self.capacity, {len(a) for a in jax.tree_util.tree_leaves(self.lanes)}))

    monkeypatch.setattr(queue, "PADDING", 0)
    monkeypatch.setattr(queue.Runner, "__init__", seen)
    monkeypatch.setattr(queue, "sizes", lambda *args: (1024, 64))
    found = jaxlmm.fit_batch(model, Y)
    assert rows and all(kept == {-(-count // 32) * 32} and count < capacity for count, capacity, kept in rows)
    np.testing.assert_allclose(found.loglik, expected.loglik, rtol=1e-12)
    np.testing.assert_array_equal(found.status, expected.status)


@pytest.mark.slow
def test_out_of_memory_is_answered_by_fewer_slots(monkeypatch):
    model, Y = design("one-way"), responses("one-way")
    expected, drained, tried = jaxlmm.fit_batch(model, Y).loglik, queue._drained, []

    def full(slots, *args):
        tried.append(slots)
        if slots > 16:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return drained(slots, *args)

    monkeypatch.setattr(queue, "_drained", full)
    monkeypatch.setattr(queue, "sizes", lambda *args: (256, 64))
    np.testing.assert_allclose(jaxlmm.fit_batch(model, Y).loglik, expected, rtol=1e-12)
    assert tried[:2] == [64, 16] and set(tried[2:]) <= {16}
    monkeypatch.setattr(queue, "FEWEST", 64)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        jaxlmm.fit_batch(model, Y)


def test_the_device_of_a_scope_is_the_one_that_works():
    device = jax.devices("cpu")[0]
    for chosen in (device, "cpu"):
        with jax.default_device(chosen):
            assert devices() == (device,) and platform() == "cpu" and chunks.workers() == 1


def test_few_rows_are_one_chunk_for_the_queues_of_all_cores(monkeypatch):
    monkeypatch.setattr(chunks, "cores", lambda: 4)
    assert [len(chunks.chunks(b, 300, together=True)) for b in (0, 1, 200, 4 * chunks.TOGETHER)] == [0, 1, 1, 1]
    for b, n in ((4 * chunks.TOGETHER + 1, 300), (2000, 10_000)):  # many, and more than is read at a time
        np.testing.assert_array_equal(
            [len(rows) for rows in chunks.chunks(b, n, together=True)], [len(rows) for rows in chunks.chunks(b, n)]
        )


def test_four_cores_all_get_lanes(monkeypatch):
    """At 200 lanes: four queues of 50 run in threads of their own, and the fits are those of one queue."""
    model, Y = design("one-way"), np.tile(responses("one-way"), (9, 1))[:200]
    Y = Y * np.linspace(0.5, 2.0, len(Y))[:, None]
    drained, met, lanes = queue._drained, threading.Barrier(4, timeout=60.0), {}

    def together(*args):
        if len(lanes) < 4:
            lanes[threading.get_ident()] = int(args[-1].sum())
            met.wait()
        return drained(*args)

    monkeypatch.setattr(chunks, "cores", lambda: 1)
    alone = jaxlmm.fit_batch(model, Y)
    monkeypatch.setattr(chunks, "cores", lambda: 4)
    monkeypatch.setattr(queue, "_drained", together)
    found = jaxlmm.fit_batch(model, Y)
    assert list(lanes.values()) == [50] * 4
    np.testing.assert_allclose(found.loglik, alone.loglik, rtol=1e-12)
    np.testing.assert_array_equal(found.status, alone.status)
    np.testing.assert_allclose(found.coef, alone.coef, rtol=1e-9)


def test_four_cores_all_get_lanes_of_many_chunks(monkeypatch):
    """Where chunks are prepared side by side, as with rows of their own, four threads are inside at once."""
    model, Y = design("one-way"), np.tile(responses("one-way"), (9, 1))[:200]
    met, lanes = threading.Barrier(4, timeout=60.0), {}
    fit_chunk = refitting._refit_chunk

    def together(job, design, rows, *args):
        met.wait()
        lanes[threading.get_ident()] = len(rows)
        fit_chunk(job, design, rows, *args)

    monkeypatch.setattr(chunks, "cores", lambda: 4)
    monkeypatch.setattr(refitting, "_refit_chunk", together)
    assert jaxlmm.fit_batch(model, Y, missing="drop").converged.all()
    assert list(lanes.values()) == [50] * 4


def test_statistics_in_blocks_are_those_of_all_rows(monkeypatch):
    from jaxlmm.batch import responses as module

    model, Y = design("uneven slopes"), np.tile(responses("uneven slopes"), (7, 1))
    x = np.random.default_rng(0).normal(size=Y.shape)
    with jaxlmm.runtime.precision.float64():
        for column in (None, x):
            made = module.Design(model, column is not None)
            blocks = made.responses(Y, column)
            monkeypatch.setattr(module, "IN_CACHE", 10**9)
            whole = made.responses(Y, column)
            monkeypatch.undo()
            assert len(blocks.c) == len(Y) > 64
            for a, b in zip(blocks[:2], whole[:2], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
            for a, b in zip(blocks.data, whole.data, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
