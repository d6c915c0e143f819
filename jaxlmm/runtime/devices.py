"""The devices that work: those of this process, or the one of a scope ``jax.default_device(device)``."""

from __future__ import annotations

from typing import Any

import jax

SHARE = 1 / 16  # of the memory of a device, for the numbers that the slots of a queue work with


def chosen_device() -> Any:
    """The device of a scope ``jax.default_device(device)``, which may be the name of a platform, or None."""
    one: Any = jax.config.values["jax_default_device"]
    return jax.local_devices(backend=one)[0] if isinstance(one, str) else one


def devices() -> tuple[Any, ...]:
    """The devices that share the work."""
    one = chosen_device()
    return tuple(jax.local_devices()) if one is None else (one,)


def platform() -> str:
    """What they are: "cpu", "gpu", "tpu"."""
    one = chosen_device()
    return jax.default_backend() if one is None else one.platform


def numbers_at_once() -> float | None:
    """Numbers of float64 that a share of the memory of a device holds; None where it does not say."""
    limit = (devices()[0].memory_stats() or {}).get("bytes_limit")
    return None if limit is None else SHARE * limit / 8
