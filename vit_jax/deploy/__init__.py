"""A model leaves this library: as weights for another one, or as a program that needs none.

`program` says what a program computes, `stablehlo` and `onnx_file` write it, `description` what
stands beside it; `load` runs a StableHLO program with JAX alone; `export` chooses by format.
"""
