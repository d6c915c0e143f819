"""The solver for many data sets of one shape: a compiled queue of lanes.

A fixed number of slots is stepped together. A slot whose lane has ended hands in the result and takes the next lane,
all inside one compiled loop, so that no lane waits for a slow neighbour, the working set stays in the cache, and one
shape is compiled once. What a lane does depends on its own data only.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ..fitting.basins import Basins
from ..fitting.boundary import Ends
from ..fitting.newton import State, Status, abandoned, advance, initial_state
from ..fitting.objective import Spec, objective, packing_of
from ..runtime.devices import devices, numbers_at_once, platform
from ..runtime.precision import float64
from ..runtime.programs import compiled
from .responses import Lane, Shared, assemble

# Capacity of a queue and the most slots: few sizes, so that few programs are compiled.
SIZES = {"cpu": ((16, 16), (256, 64), (1024, 64), (4096, 128), (16384, 128))}
SIZES_OTHERWISE = ((256, 256), (1024, 1024), (4096, 4096), (16384, 16384), (65536, 16384))
# Numbers that the slots may work with together: what a core's cache holds; on a GPU, what a share of its memory holds,
# derivatives in k parameters included (this many where it does not say).
WORK = {"cpu": 2**15}
WORK_OTHERWISE = 2**25
LEAST = 50  # lanes of a queue below which another thread costs more than it saves
PADDING = 2**24  # bytes of data that no lane needs, up to which another program would cost more
FEWEST = 16  # slots: with these out of memory is what it says


class Queue(NamedTuple):
    """State of `_drain`: what each slot works on, and the results so far."""

    next: Any  # the next lane that has not been started
    owner: Any  # (slots,) lane of each slot; the number of lanes where it is idle
    state: State  # (slots, ...)
    best: Any  # (lanes, size) results
    status: Any
    decrement: Any
    iterations: Any


def _drain(
    slots: int, spec: Spec, shared: Shared, lanes: Lane, order: Any, starts: Any, known: Any, most: Any, total: Any
) -> Ends:  # fmt: skip
    """Run the solver for the first `total` lanes of `order` (capacity,) from `starts` (capacity, k).

    `known` (capacity, ...) are optima that need not be found again, see `Basins`; `most` (capacity,) evaluations.

    A fixed number of slots is stepped together; a slot whose lane has ended takes the next one from the queue.
    """
    capacity, total = starts.shape[0], total[0]
    prepared, _ = assemble(shared, jax.tree_util.tree_map(lambda a: a[0], lanes))
    packing = packing_of(spec, prepared.basis.R.shape[-1])
    basins = Basins(spec, packing)

    def step(index: Any, old: State) -> State:
        prepared, scale = assemble(shared, jax.tree_util.tree_map(lambda a: a[order[index]], lanes))
        state = advance(packing, old, objective(spec, prepared, scale)(old.trial), jnp, spec.charts(prepared.coords))
        return abandoned(state, basins.holds(known[index], state, jnp))

    def fresh(index: Any) -> State:
        return initial_state(packing, starts[index], jnp)

    def refill(queue: Queue, ended: Any, state: State) -> Queue:
        free = ended | (queue.owner == capacity)
        lane = queue.next + jnp.cumsum(free, dtype=jnp.int32) - 1
        taken = free & (lane < total)
        owner = jnp.where(taken, lane, jnp.where(free, capacity, queue.owner))
        start = jax.vmap(fresh)(jnp.minimum(lane, capacity - 1))
        choose = jax.vmap(lambda taken, new, old: jax.tree_util.tree_map(partial(jnp.where, taken), new, old))
        count = queue.next + jnp.sum(taken, dtype=jnp.int32)
        return queue._replace(next=count, owner=owner, state=choose(taken, start, state))

    def body(queue: Queue) -> Queue:
        index = jnp.minimum(queue.owner, capacity - 1)
        state = jax.vmap(step)(index, queue.state)
        exhausted = state.iteration >= most[index]
        ended = ((state.status != Status.RUNNING) | exhausted) & (queue.owner < capacity)
        status = jnp.where(state.status == Status.RUNNING, Status.MAX_ITERATIONS, state.status).astype(jnp.int32)
        row = jnp.where(ended, queue.owner, capacity)  # nothing is written for the others
        queue = queue._replace(
            best=queue.best.at[row].set(state.best, mode="drop"),
            status=queue.status.at[row].set(status, mode="drop"),
            decrement=queue.decrement.at[row].set(state.decrement, mode="drop"),
            iterations=queue.iterations.at[row].set(state.iteration, mode="drop"),
        )
        return refill(queue, ended, state)

    zero, none = jnp.zeros(capacity), jnp.zeros(capacity, jnp.int32)
    idle = jnp.full(slots, capacity, jnp.int32)
    empty = jax.vmap(fresh)(jnp.zeros(slots, jnp.int32))
    first = jnp.zeros((), jnp.int32)
    queue = Queue(first, idle, empty, jnp.zeros((capacity, packing.size)), none, zero, none)
    queue = refill(queue, jnp.zeros(slots, bool), empty)
    queue = jax.lax.while_loop(lambda queue: jnp.any(queue.owner < capacity), body, queue)
    return Ends(queue.best, queue.status, queue.decrement, queue.iterations)


@compiled("slots", "devices")
def _drained(slots: int, devices: tuple[Any, ...], *args: Any) -> Ends:
    """`_drain`; on several devices each drains a queue of its own, without communication."""
    drain = partial(_drain, slots)
    if len(devices) > 1:
        mesh, own = Mesh(np.array(devices), ("lanes",)), P("lanes")
        drain = jax.shard_map(drain, mesh=mesh, in_specs=(P(), P(), *(own,) * 6), out_specs=own, check_vma=False)
    return drain(*args)


class Runner:
    """Runs the solver for lanes of one shape, as many as the queues of all devices hold.

    Parameters
    ----------
    shared, lanes : what the lanes have in common and of their own, see `assemble`; one row a lane
    count : number of lanes
    queues : that run side by side on the one device, where there are lanes for them
    """

    def __init__(self, spec: Spec, shared: Shared, lanes: Lane, count: int, queues: int = 1):
        self.devices, self.queues = devices(), queues
        statistics = (lanes.data if shared.prepared is None else shared.prepared).statistics
        self.capacity, self.slots = sizes(-(-count // len(self.devices)), statistics.work, spec.count)
        self.spec, self.shared = spec, shared  # many small arrays, which a program takes faster than `device_put`
        each = sum(a.nbytes for a in jax.tree_util.tree_leaves(lanes)) / count
        rows = self._rows(-(-count // len(self.devices)), each)
        dealt = self._dealt(np.arange(count))[0].reshape(len(self.devices), -1)[:, :rows].ravel()
        self.lanes = jax.device_put(jax.tree_util.tree_map(lambda a: a[dealt], lanes))

    def _rows(self, count: int, each: float) -> int:
        """Rows of data on a device for `count` lanes of `each` bytes.

        The capacity, so that one program serves all counts; where the rows that no lane needs would take much memory,
        hardly more than there are lanes, and only the indices of the queue have its capacity.
        """
        if (self.capacity - count) * each <= PADDING:
            return self.capacity
        step = max(1, self.capacity // 32)
        return min(self.capacity, -(-count // step) * step)

    def _dealt(self, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Deal lanes to the queues.

        Returns
        -------
        position in `lanes` for each place of the queues (devices * capacity,), which places are taken, and how many
        of each queue (devices,). Lane i belongs to device ``i % devices``, whatever else is run.
        """
        d = len(self.devices)
        place, taken = np.zeros((d, self.capacity), int), np.zeros((d, self.capacity), bool)
        totals = np.zeros(d, np.int32)
        for i in range(d):
            mine = np.flatnonzero(lanes % d == i)
            place[i, : len(mine)], taken[i, : len(mine)], totals[i] = mine, True, len(mine)
        return place.ravel(), taken.ravel(), totals

    def __call__(self, lanes: np.ndarray, s: np.ndarray, known: np.ndarray, most: np.ndarray) -> Ends:
        """Run `lanes` (b,), some perhaps again, from scaled coordinates s (b, k) for `most` (b,) evaluations.

        `known` (b, ...) as in `Basins`.
        """
        if np.bincount(lanes % len(self.devices)).max(initial=0) > self.capacity:
            halves = [self(*(np.array_split(x, 2)[i] for x in (lanes, s, known, most))) for i in range(2)]
            return Ends(*(np.concatenate(pair) for pair in zip(*halves, strict=True)))
        parts = [np.arange(i, len(lanes), self.queues) for i in range(self.queues)]
        parts = parts if len(lanes) >= LEAST * self.queues else [np.arange(len(lanes))]
        dealt = [self._dealt(lanes[part]) for part in parts]
        inputs = []
        for part, (place, _, totals) in zip(parts, dealt, strict=True):
            mine = part[place] if len(part) else place
            order = (lanes[mine] // len(self.devices)).astype(np.int32)
            inputs.append((self.shared, self.lanes, order, s[mine], known[mine], most[mine], totals))
        ends: Ends | None = None
        for part, (place, taken, _), out in zip(parts, dealt, self._run(inputs), strict=True):
            ends = ends or Ends(*(np.empty((len(lanes), *a.shape[1:]), a.dtype) for a in out))
            for mine, found in zip(ends, out, strict=True):
                mine[part[place[taken]]] = np.asarray(found)[taken]
        assert ends is not None
        return ends

    def _run(self, inputs: list[tuple[Any, ...]]) -> list[Ends]:
        """Drain the queues, with fewer slots where the memory of a device does not hold what they work with."""
        while True:
            try:
                if len(inputs) == 1:
                    return [self._drained(inputs[0])]
                with ThreadPoolExecutor(len(inputs)) as pool:  # a program on a CPU has the thread that calls it
                    return list(pool.map(self._drained, inputs))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or self.slots <= FEWEST:
                    raise
                self.slots //= 4

    def _drained(self, each: tuple[Any, ...]) -> Ends:
        with float64():
            return jax.block_until_ready(_drained(self.slots, self.devices, self.spec, *each))


def sizes(count: int, work: int = 1, parameters: int = 0) -> tuple[int, int]:
    """Capacity of the queue of a device for `count` lanes, and its slots, where a lane works with `work` numbers."""
    here = platform()
    known = SIZES.get(here, SIZES_OTHERWISE)
    capacity, slots = next(((capacity, slots) for capacity, slots in known if count <= capacity), known[-1])
    most = WORK[here] if here in WORK else int((numbers_at_once() or WORK_OTHERWISE) // (1 + parameters))
    fit = max(most // work, 4)
    return capacity, min(slots, 1 << (fit.bit_length() - 1))
