"""TFDS as ArrayRecord: examples come back as they went in, without TensorFlow."""

import importlib
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.data.pictures import encode, smooth
from vit_jax import data
from vit_jax.data.decode import decode

BUILDER = """
import io
import tensorflow_datasets as tfds

class {name}(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.3")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(
            {features}), supervised_keys={keys})

    def _split_generators(self, manager):
        return {{"train": self._generate_examples(7), "validation": self._generate_examples(3)}}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {{key: self.value(key, i) for key in self.info.features}}

    def value(self, key, i):
        if key.startswith("image"):
            return io.BytesIO(open("{folder}/%d.png" % i, "rb").read())
        return "text" if key == "note" else i % 2
"""
IMAGE = "tfds.features.Image(shape=(None, None, 3))"
LABEL = "tfds.features.ClassLabel(names=['no', 'yes'])"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Returns a function that defines a builder in a package of its own and prepares it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for i in range(7):
        (tmp_path / f"{i}.png").write_bytes(encode(smooth(5 + i, 6, seed=i)))

    def build(name, features, keys=None):
        package = tmp_path / f"sets_{name.lower()}"
        package.mkdir()
        (package / "__init__.py").touch()
        code = BUILDER.format(name=name, features=features, keys=keys, folder=tmp_path)
        (package / "builder.py").write_text(code)
        module = importlib.import_module(f"{package.name}.builder")
        builder = getattr(module, name)(data_dir=str(tmp_path), file_format="array_record")
        builder.download_and_prepare()
        return builder

    return build


def test_round_trip(make, tmp_path):
    make("PlainSet", f"{{'image': {IMAGE}, 'label': {LABEL}, 'note': tfds.features.Text()}}")
    source = data.open_source("tfds:plain_set", "train", str(tmp_path))
    assert (len(source), source.class_names) == (7, ("no", "yes"))
    examples = [source[i] for i in range(7)]
    assert all(isinstance(example["image"], bytes) for example in examples)
    by_height = {decode(e["image"]).shape[0]: e for e in examples}
    for i in range(7):
        np.testing.assert_array_equal(decode(by_height[5 + i]["image"]), smooth(5 + i, 6, seed=i))
        assert by_height[5 + i]["label"] == i % 2
    assert examples[3]["name"] == "plain_set/1.2.3 split train, example 3"
    both = data.open_source("tfds:plain_set", "train[:5]+validation", str(tmp_path))
    assert len(both) == 8
    with pytest.raises(ValueError, match="no split 'test': it has train, validation"):
        data.open_source("tfds:plain_set", "test", str(tmp_path))


def test_the_image_among_several(make, tmp_path):
    features = f"{{'image_a': {IMAGE}, 'image_b': {IMAGE}, 'label': {LABEL}}}"
    make("TwoImages", features, keys=("image_b", "label"))
    assert len(data.open_source("tfds:two_images", "train", str(tmp_path))) == 7
    make("Unclear", features)
    with pytest.raises(ValueError, match=r"expected one Image and one ClassLabel, it has.*image_a"):
        data.open_source("tfds:unclear", "train", str(tmp_path))


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        data.open_source("tfds:mnist", "train", str(tmp_path))
    command = f"tfds.builder('mnist', data_dir='{tmp_path}', file_format='array_record')"
    assert f"{command}.download_and_prepare()" in str(error.value)
    with pytest.raises(ValueError, match="no data set 'mnits': did you mean 'mnist'"):
        data.open_source("tfds:mnits", "train", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot open 'mnist:99.0.0': .*only: 3"):
        data.open_source("tfds:mnist:99.0.0", "train", str(tmp_path))


def test_prepared_in_another_format(make, tmp_path):
    builder = make("OtherFormat", f"{{'image': {IMAGE}, 'label': {LABEL}}}")
    info = pathlib.Path(builder.data_dir, "dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(FileNotFoundError, match=r"there as tfrecord: prepare it into another"):
        data.open_source("tfds:other_format", "train", str(tmp_path))


def test_digits_are_prepared_and_read_without_tensorflow(tmp_path):
    code = f"""
        import sys
        from vit_jax import data
        source = data.open_source("digits", "train", {str(tmp_path)!r})
        transform = data.build_transform("random_shift(1)", 8, channels=1)
        with data.train_batches(source, transform, batch_size=64, seed=0) as batches:
            print(next(batches)["image"].shape)
        print(sorted({{"tensorflow", "torch"}} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "(64, 8, 8, 1)\n[]\n"
