"""The embedded data set: 1,797 real handwritten digits, as a TFDS builder of ours."""
