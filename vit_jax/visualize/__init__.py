"""Functions from arrays to pictures: plain arrays in, uint8 pictures out; no file is touched."""

from vit_jax.visualize.reconstruction import reconstructions, to_pixels

__all__ = ["reconstructions", "to_pixels"]
