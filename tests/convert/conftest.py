"""What `validate` compiles runs once here: unoptimised, it is ready in a third of the time."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def unoptimised():
    from vit_jax.convert import validate

    options = {"xla_backend_optimization_level": 0}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_forward", "_backward"):
            function = getattr(validate, name).__wrapped__
            compiled = jax.jit(function, static_argnums=0, compiler_options=options)
            patch.setattr(validate, name, compiled)
        yield
