"""Modules applied in one program: op by op, JAX would compile each one for itself."""

import os

import jax

# Of a program whose bits are looked at: loops are written as users have them (see conftest.py).
_QUICK = "use_fusion_emitters=false" in os.environ.get("XLA_FLAGS", "")
NOT_QUICK = {"xla_cpu_use_fusion_emitters": True} if _QUICK else {}


def apply(module, params, *inputs, **options):
    """What `module.apply({"params": params}, *inputs, **options)` returns."""

    def run(params, *inputs):
        return module.apply({"params": params}, *inputs, **options)

    return jax.jit(run)(params, *inputs)
