"""TFDS classification data sets prepared as ArrayRecord: `tfds:NAME[/CONFIG][:VERSION]`.

They are read as `tfds.data_source` reads them, with their images left encoded and without
TensorFlow. Preparing one is a step of its own (it may download hundreds of gigabytes, and some
builders need TensorFlow for it); the error for a data set that is not prepared has the command.
"""

import difflib
import os

import tensorflow_datasets as tfds

from vit_jax import storage
from vit_jax.data.sources import Example, Source
from vit_jax.errors import MissingFileError, UserError


class TfdsSource(Source):
    """A split of a prepared TFDS data set with one image and one class label an example."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
        """Opens a split.

        Args:
          builder: of a data set that is prepared as ArrayRecord.
          split: a name or a TFDS slice, such as "train" or "train[:90%]".

        Raises:
          UserError: there is no such split, or not exactly one image and one label.
        """
        _check_split(builder, split)
        self._image, self._label = image_and_label(builder.info)
        # Only these two are parsed and the image is not decoded, whatever else a record holds.
        self._features = tfds.features.FeaturesDict(
            {key: builder.info.features[key] for key in (self._image, self._label)}
        )
        self._decoders = {self._image: tfds.decode.SkipDecoding()}
        self._records = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        self._name = f"{builder.info.full_name} split {split}"
        if not len(self._records):
            raise UserError(f"{self._name} is empty")
        self.class_names = tuple(self._features[self._label].names)
        self.fingerprint = f"tfds:{builder.info.full_name}:{split}:{len(self._records)}"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        """Reads a record; the image stays encoded."""
        record = self._features.deserialize_example_np(
            self._records[index], decoders=self._decoders
        )
        return {
            "image": record[self._image],
            "label": int(record[self._label]),
            "name": f"{self._name}, example {index}",
        }


def open_source(name: str, split: str, data_dir: str | None = None) -> TfdsSource:
    """Opens a split of a TFDS data set that is prepared.

    Args:
      name: `NAME[/CONFIG][:VERSION]`.
      split: a name or a TFDS slice, such as "train" or "train[:90%]".
      data_dir: where prepared data sets are, a folder or a `gs://` URL; None is the TFDS default.

    Raises:
      UserError: no such data set, configuration, version or split, or it is not for
        classification; or it is in S3.
      MissingFileError: it is not prepared as ArrayRecord; the message has the command.
    """
    _check_place(data_dir or tfds.core.constants.DATA_DIR)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, _catalogue(), n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see tfds.list_builders"
        raise UserError(f"TFDS has no data set {name!r}: {hint}") from error
    except (AssertionError, ValueError) as error:  # configuration or version, said by TFDS
        raise UserError(f"TFDS cannot open {name!r}: {error}") from error
    if not builder.is_prepared() or not _has_array_record(builder):
        raise MissingFileError(_how_to_prepare(builder, name, data_dir))
    return TfdsSource(builder, split)


def image_and_label(info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """Returns the keys of the image and of the class label; UserError where they are not clear."""
    features = info.features
    images = [key for key in features if isinstance(features[key], tfds.features.Image)]
    labels = [key for key in features if isinstance(features[key], tfds.features.ClassLabel)]
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    image, label = (info.supervised_keys or (None, None))[:2]
    if image in images and label in labels:
        return image, label
    raise UserError(
        f"{info.full_name} is not for image classification: expected one Image and one ClassLabel, "
        f"it has {dict(features.items())}"
    )


def _check_place(data_dir: str | os.PathLike[str]) -> None:
    """Raises UserError where ArrayRecord cannot read: it opens files and `gs://` by itself."""
    place = storage.path(data_dir)
    if storage.is_remote(place) and place.parts[1] == "s3":
        raise UserError(
            f"data_dir {str(place)!r}: TFDS data sets are read from a file system and from gs://, "
            f"not from S3; copy them (aws s3 sync {place} DIR) or mount the bucket, and give the "
            "folder"
        )
    storage.check(place)


def _catalogue() -> list[str]:
    return tfds.list_builders(with_community_datasets=False)  # those would be a download


def _check_split(builder: tfds.core.DatasetBuilder, split: str) -> None:
    there_is = list(builder.info.splits)
    for part in split.split("+"):
        if part.split("[")[0].strip() not in there_is:
            raise UserError(
                f"{builder.info.full_name} has no split {part!r}: it has {', '.join(there_is)}"
            )


def _has_array_record(builder: tfds.core.DatasetBuilder) -> bool:
    formats = builder.info.available_file_formats()
    return any(getattr(f, "value", f) == "array_record" for f in formats)


def _how_to_prepare(builder: tfds.core.DatasetBuilder, name: str, data_dir: str | None) -> str:
    where = f", data_dir={data_dir!r}" if data_dir is not None else ""
    code = f"tfds.builder({name!r}{where}, file_format='array_record').download_and_prepare()"
    other = ""
    if builder.is_prepared():
        other = (
            f" It is there as {builder.info.file_format.value}: prepare it into another data_dir, "
            "or delete that copy first."
        )
    place = str(builder.data_dir)
    return (
        f"TFDS data set {name!r} is not prepared as ArrayRecord in {place!r}.{other}"
        f' Prepare it once with: python -c "import tensorflow_datasets as tfds; {code}"'
    )
