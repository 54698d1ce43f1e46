"""Compiles in half the time what is looked at, or run a few times, and need not be fast."""

COMPILER = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def compiled(lowered):
    """The program of what was lowered."""
    return lowered.compile(compiler_options=COMPILER)
