"""Shared set-up: float64 throughout, compiled code kept between runs, and a tenth of the slow tests."""

from __future__ import annotations

import gc
import hashlib
import os
import zlib
from pathlib import Path

import jax
import jaxlib
import pytest

jax.config.update("jax_enable_x64", True)

# Compiling is what takes time here: without the expensive passes, and with the jaxlib that has these flags in one piece
# and by the emitters that compile faster, unless XLA_FLAGS says otherwise (as .ci/nightly does). A flag that XLA does
# not know ends the process.
LEVEL = "--xla_backend_optimization_level"
if LEVEL not in os.environ.get("XLA_FLAGS", ""):
    flags = [os.environ.get("XLA_FLAGS", ""), f"{LEVEL}=0", "--xla_llvm_disable_expensive_passes=true"]
    if jax.__version_info__ < (0, 10):
        flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
    os.environ["XLA_FLAGS"] = " ".join(flags).lstrip()

gc.set_threshold(100_000, 20, 100)  # tracing makes many objects that live: looking through them was a tenth of the time

# Files by what they take, the longest first, so that no worker is left with a long one at the end
LONG = (
    "readme", "definitions", "likelihood", "small_sample", "structures", "lanewise", "iterative", "batching",
    "structured_terms", "influence", "traceable", "composition", "prediction", "arguments", "small_sample_oracle",
    "study_runs", "sandwich", "limits", "clusters", "torture", "crossed", "bootstrap", "units", "study_results",
    "profile", "compare",
)  # fmt: skip
MEMORY = 3e9  # bytes of a test process above which compiled code is dropped


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow-tenth",
        type=int,
        choices=range(10),
        metavar="K",
        help="of the slow tests only those of the tenth K, 0 to 9: `pytest -m slow --slow-tenth 3`",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of the smoke tests only the files that have some: importing all takes longer than most of them."""
    if config.option.markexpr != "smoke" or not collection_path.name.startswith("test_"):
        return None
    return True if "mark.smoke" not in collection_path.read_text(encoding="utf-8") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first; of the slow tests those of a tenth, without those that are so long that they have a timeout.

    A test stays in its tenth: a digest of its name says which.
    """
    place = {f"test_{name}.py": i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    tenth = config.getoption("--slow-tenth")
    if tenth is None:
        return

    def is_left_out(item: pytest.Item) -> bool:
        other = zlib.crc32(item.nodeid.encode()) % 10 != tenth
        return bool(item.get_closest_marker("slow") and (other or item.get_closest_marker("timeout")))

    config.hook.pytest_deselected(items=[item for item in items if is_left_out(item)])
    items[:] = [item for item in items if not is_left_out(item)]


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled code in pytest's own cache folder, so that only a first run pays for it."""
    if hasattr(config.option, "loadscopereorder"):  # xdist would begin with the files of most tests
        config.option.loadscopereorder = False
    if getattr(config, "cache", None) is None:  # -p no:cacheprovider
        return
    folder = config.cache.mkdir("jax") / f"{jaxlib.__version__}-{_processor()}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # small programs too: one that is found costs a third of one that is compiled, and keeping it next to nothing
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_sessionfinish() -> None:
    """Before it ends, pytest collects garbage five times: nothing that is left has to be looked through."""
    gc.freeze()


def _processor() -> str:
    """Digest of the processor's features: compiled code is only good where it was made."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join(features).encode()).hexdigest()[:12]


@pytest.fixture(autouse=True)
def x64_stays_on():
    """No test, and no call of the package, may leave JAX's global precision changed."""
    yield
    assert jax.config.jax_enable_x64, "the test left jax_enable_x64 off"


@pytest.fixture(autouse=True, scope="module")
def memory_stays_bounded():
    """Drop compiled code that is not needed any more, between modules and only when there is much of it."""
    yield
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return
    if pages * 4096 > MEMORY:
        jax.clear_caches()
