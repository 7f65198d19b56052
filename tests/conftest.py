"""Settings of every test: four CPU devices, strict types and ranks, no network, and a cache of
compiled programs, which is most of what the tests wait for.
"""

import os
import socket
from pathlib import Path

import jax
import jaxlib
import pytest

# takes a third off the time of compiling; later versions have no such flag, and end at one they do
# not know
OLD_FUSIONS = "--xla_cpu_use_fusion_emitters=false"
if jaxlib.version.__version_info__ < (0, 11) and OLD_FUSIONS not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLD_FUSIONS}".strip()

# threads of scikit-learn's t-SNE wait for one another where processes of tests share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

SLOW = Path(__file__).with_name("slow.txt")

# bytes of a process whose compiled programs are kept for the next file
MOST = 1.5e9

CACHE = {
    "jax_compilation_cache_dir": Path(__file__).resolve().parents[1] / ".pytest_cache" / "compiled",
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
for option, value in CACHE.items():
    # the scripts that tests start read the environment
    text = os.environ.setdefault(option.upper(), str(value))
    jax.config.update(option, type(value)(text) if not isinstance(value, Path) else text)
# takes 40% off the time of compiling; the battery compiles as users do
UNOPTIMIZED = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0"
jax.config.update("jax_disable_most_optimizations", UNOPTIMIZED)
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")


def slow_cases():
    """The tests that slow.txt lists."""
    lines = SLOW.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if not line.startswith("#")}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what is slow, before `-m` chooses."""
    listed = slow_cases()
    for item in items:
        if item.nodeid in listed:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """No test may reach the network: connecting anywhere but to this machine is an error."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def resident():
    """Bytes of memory that this process holds; infinite where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("inf")
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Compiled programs of one file are of little use to the next, and fill the memory."""
    yield
    if resident() > MOST:
        jax.clear_caches()


@pytest.fixture(scope="module")
def optimized():
    """Programs are compiled as users' are."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", UNOPTIMIZED)


@pytest.fixture
def vmap_replicas(monkeypatch):
    """Call it: from then on the replicas of a device run vmapped, as on a GPU or TPU.

    Programs are kept by network, settings and mesh: use a mesh for which nothing is compiled yet.
    """
    return lambda: monkeypatch.setattr("jaxticket.engine.parallel.maps", lambda mesh: False)


@pytest.fixture
def tfds_dir():
    """The folder of prepared TFDS data sets that `JAXTICKET_DATA_DIR` names."""
    path = os.environ.get("JAXTICKET_DATA_DIR")
    if not path:
        pytest.skip("set JAXTICKET_DATA_DIR to a folder of prepared TFDS data sets (mnist)")
    return path
