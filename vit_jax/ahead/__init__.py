"""Compiling a train step for chips that are not attached, and what the program tells.

report = vit_jax.compile_ahead(config, "tpu", topology="v5e:16x16")
print(report)
"""
