"""Every test process sees eight simulated CPU devices, as a small pod would show them.

What is tested is what a program computes, not how fast, and most of the time goes into compiling:
XLA's backend is told to spend less on it, here and in the processes that tests start. Tests of
training as users run it ask for the fixture `optimized`; XLA_FLAGS= in the environment leaves all
as it is.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

if jax.config.jax_platforms == "cpu":
    jax.config.update("jax_num_cpu_devices", 8)

from tests.commands import call  # noqa: F401, a fixture
from tests.object_stores import place  # noqa: F401, a fixture
from tests.training.processes import CACHE

if jax.config.jax_compilation_cache_dir is None:
    # Runs of the same small model, here and in processes that tests start, share its programs.
    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if jax.__version_info__ < (0, 11):
    # An older way to write loops takes half the time; later versions do not have it any more.
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", QUICK)  # XLA reads it when it first compiles


@pytest.fixture(scope="module")
def optimized():
    """Processes that tests of this module start compile as users' do."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("XLA_FLAGS") == QUICK:
            patch.delenv("XLA_FLAGS")
        yield
