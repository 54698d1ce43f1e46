"""Modules applied in one program: op by op, JAX would compile each one for itself."""

import jax


def apply(module, params, *inputs, **options):
    """What `module.apply({"params": params}, *inputs, **options)` returns."""

    def run(params, *inputs):
        return module.apply({"params": params}, *inputs, **options)

    return jax.jit(run)(params, *inputs)
