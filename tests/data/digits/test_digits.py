"""The embedded digits: the stated split of scikit-learn's pictures, prepared as a whole."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vit_jax import data
from vit_jax.data.decode import decode
from vit_jax.errors import UserError


def pictures_and_labels(source):
    examples = [source[i] for i in range(len(source))]
    pictures = np.stack([decode(e["image"], channels=1)[..., 0] for e in examples])
    return pictures, np.array([e["label"] for e in examples])


def test_the_split_is_the_stated_one(tmp_path):
    digits = load_digits()
    by_digit = np.argsort(digits.target, kind="stable")
    tests = {int(i) for i in by_digit[::5]}
    for split, count in (("train", 1437), ("test", 360)):
        source = data.open_source("digits", split, str(tmp_path))
        assert (len(source), source.num_classes) == (count, 10)
        pictures, labels = pictures_and_labels(source)
        chosen = [i for i in range(1797) if (i in tests) == (split == "test")]
        np.testing.assert_array_equal(labels, digits.target[chosen])
        np.testing.assert_array_equal(pictures, np.floor(digits.images[chosen] * 255 / 16 + 0.5))
        assert set(np.unique(pictures)) <= {round(v * 255 / 16 + 1e-9) for v in range(17)}
        share = np.bincount(labels) / np.bincount(digits.target)
        expected = count / 1797
        assert (np.abs(share - expected) * np.bincount(digits.target) <= 1).all()


def test_many_processes_may_prepare_at_once(tmp_path):
    code = (
        "import sys; from vit_jax import data; "
        "print(len(data.open_source('digits', 'test', sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert output == "360\n", errors
    assert os.listdir(tmp_path / "sklearn_digits") == ["1.0.0"]  # nothing is left beside it


def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    from vit_jax.data.digits.builder import SklearnDigits

    def interrupted(self, *args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SklearnDigits, "_generate_examples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data.open_source("digits", "train", str(tmp_path))
    assert os.listdir(tmp_path / "sklearn_digits") == []
    assert len(data.open_source("digits", "train", str(tmp_path))) == 1437


def test_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="no split 'validation': it has train, test"):
        data.open_source("digits", "validation", str(tmp_path))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be prepared: .*; set data.data_dir .* to a fol"):
        data.open_source("digits", "train", str(tmp_path / "file"))
