"""TFDS builder over the handwritten digits that come with scikit-learn.

1,797 grey pictures of 8x8 pixels with 17 grey levels, scaled from 0..16 to 0..255: the test part of
the "Optical Recognition of Handwritten Digits" set of the UCI repository (Alpaydin and Kaynak,
1998), written by 13 people who wrote nothing of the part scikit-learn leaves out.

The split is fixed: order the pictures by digit, keeping scikit-learn's order within a digit; every
fifth, beginning with the first, is for testing. That gives 1,437 for training and 360 for testing,
with each digit in both in proportion, to within one picture.
"""

import io
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

_CITATION = """\
@misc{optdigits,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}
"""


class SklearnDigits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits of 8x8 pixels: 1,437 to train on, 360 to test on.

    The examples are PNG bytes: preparing them needs no TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=[str(d) for d in range(10)]),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html",
            citation=_CITATION,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = ((digits.images * 255 + 8) // 16).astype(np.uint8)  # 0..16 -> 0..255, rounded
        train, test = split_of(digits.target)
        return {
            "train": self._generate_examples(images, digits.target, train),
            "test": self._generate_examples(images, digits.target, test),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, chosen: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for index in chosen:
            png = io.BytesIO()
            Image.fromarray(images[index]).save(png, "PNG")
            yield int(index), {"image": io.BytesIO(png.getvalue()), "label": int(labels[index])}


def split_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the training and of the test pictures, ascending."""
    by_digit = np.argsort(labels, kind="stable")
    return np.sort(np.delete(by_digit, np.s_[::5])), np.sort(by_digit[::5])
