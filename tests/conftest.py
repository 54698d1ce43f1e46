"""Every test process sees eight simulated CPU devices, as a small pod would show them."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

if jax.config.jax_platforms == "cpu":
    jax.config.update("jax_num_cpu_devices", 8)
if jax.config.jax_compilation_cache_dir is None:
    # No run in this process keeps programs.
    jax.config.update("jax_enable_compilation_cache", False)

from tests.commands import call  # noqa: F401, a fixture
from tests.object_stores import place  # noqa: F401, a fixture
