"""What Orbax needs to keep checkpoints in an object store.

It writes each array there by TensorStore, and files about them by epath. A store cannot rename a
folder in one step, so a checkpoint counts as complete when a last file, `commit_success.txt`, is in
its folder.

Orbax 0.12 has TensorStore write to `gs://` but not to `s3://`, which TensorStore can do. So the
function of Orbax that says where an array lies is wrapped here (`prepare`): a folder of S3 is
described as one of Google's, and the description changed to the other driver.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from vit_jax import storage
from vit_jax.errors import UserError

COMMITTED = "commit_success.txt"
AWS_REGION = "us-east-1"  # of a store that is not Amazon's and has none
# TensorStore waits 1, 2, 4 ... s after a request that failed, then gives up: after some 3 minutes.
RETRIES = {"max_retries": 10, "initial_delay": "1s", "max_delay": "32s"}


def manager_options(directory: Path) -> dict[str, Any]:
    """Returns options of `CheckpointManager` for a folder of checkpoints."""
    if not storage.is_remote(directory):
        return {}
    prepare()
    mode = ocp.options.AtomicityMode.COMMIT_FILE
    return {"atomicity_options": ocp.options.AtomicityOptions(mode=mode)}


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint, whose name is that of a step, was written to its end."""
    return not storage.is_remote(checkpoint) or (checkpoint / COMMITTED).exists()


@functools.cache
def prepare() -> None:
    """Makes Orbax know `s3://`, and give up on a store that is gone; once in a process.

    Raises:
      UserError: this Orbax has another such function.
    """
    try:
        from orbax.checkpoint._src.serialization import tensorstore_utils

        original = tensorstore_utils.build_kvstore_tspec
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"this version of orbax-checkpoint cannot be told of object stores ({error}); install "
            "orbax-checkpoint==0.12.8, or use a workdir on a file system"
        ) from error
    tensorstore_utils.build_kvstore_tspec = _knowing_s3(original)


def _knowing_s3(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps Orbax's `build_kvstore_tspec(directory, name, ...)`."""

    @functools.wraps(original)
    def build(directory: str, *arguments: Any, **options: Any) -> Any:
        if not storage.is_remote(directory):
            return original(directory, *arguments, **options)
        scheme, _, rest = os.fspath(directory).partition("://")
        driver = _s3_driver() if scheme == "s3" else {"gcs_request_retries": RETRIES}
        return _with_driver(original(f"gs://{rest}", *arguments, **options), driver)

    return build


def _with_driver(spec: Any, driver: dict[str, Any]) -> Any:
    """A TensorStore spec with `driver` merged into each part that is of Google's store."""
    if not isinstance(spec, dict):
        return spec
    if spec.get("driver") == "gcs":
        return {**spec, **driver}
    return {key: _with_driver(value, driver) for key, value in spec.items()}


def _s3_driver() -> dict[str, Any]:
    """The S3 driver of TensorStore, with the endpoint and region that s3fs has found."""
    files = storage.filesystem("s3://")
    files.connect()
    client = files.s3.meta
    driver: dict[str, Any] = {"driver": "s3", "s3_request_retries": RETRIES}
    if ".amazonaws.com" not in client.endpoint_url:  # whose regions TensorStore finds by itself
        region = client.region_name or AWS_REGION
        driver |= {"endpoint": client.endpoint_url, "aws_region": region}
    if "AWS_ACCESS_KEY_ID" in os.environ:  # it would look for files first, and complain
        driver["aws_credentials"] = {"type": "environment"}
    return driver
