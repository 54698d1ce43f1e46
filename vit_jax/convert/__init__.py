"""Weights in from PyTorch and others, proved equal, and out again."""
