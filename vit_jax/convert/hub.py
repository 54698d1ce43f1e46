"""Weights from the Hugging Face Hub: `download(source)` gives a folder of a local snapshot.

| source | what it names |
|---|---|
| `hf-hub:owner/name` | a repository, at its branch main |
| `timm/name` | the same of the organisation timm, which needs no prefix |
| `...@revision` | at a branch, a tag or a commit |
| `hf-hub:owner/name/path/to/file.npz` | this weights file, of a repository that holds several |

What the official client (`huggingface_hub`) does by itself, and what is done here:
- It keeps each file of each commit once, under the commit, and gives a file its name only when all
  its bytes are there. So does this module, with the client's own cache and its settings
  (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE ...). What a broken transfer leaves has no name.
- It compares sizes, not contents. Here every file that is used, fetched just now or long ago, is
  hashed (SHA-256, or git's SHA-1 for small files) and compared with the hub's listing. One that
  differs is deleted. Without the hub, only the size is compared.
- When the hub cannot be reached or answers with an error, it takes the commit that a branch had at
  the last visit, whatever the branch is now. Here that is an error, unless the user works offline.
  Only a commit given in full is looked up in the cache first: it cannot have changed.
"""

import itertools
import os
from pathlib import Path

from vit_jax.convert.hub_cache import from_cache
from vit_jax.convert.hub_fetch import from_hub
from vit_jax.convert.hub_ids import COMMIT, PREFIX, is_hub_id, parse
from vit_jax.errors import MissingFileError, UserError

__all__ = ["download", "is_hub_id", "resolved_revision"]


def download(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
) -> Path:
    """Makes the weights and configuration files of a repository local.

    Files in the cache are not fetched again. A progress bar shows on a terminal.

    Args:
      source: a hub id (see the module), or a local path, which is returned as it is.
      revision: a branch, a tag or a commit; None is the one in `source`, or "main".
      cache_dir: of the client; None is its default (`HF_HUB_CACHE`).
      offline: take all from the cache, where a branch is the commit that it was at the last visit.
        The client's HF_HUB_OFFLINE=1 does the same.

    Returns:
      The folder of a snapshot that holds the files. It may also hold other files of the repository
      that were fetched before. Where `source` names one file, the path of that file.

    Raises:
      MissingFileError: nothing has this name here, or, offline, it is not wholly in the cache.
      UserError: the source is malformed; the repository, the revision or the file does not exist or
        needs a token; there are several weights files and none was chosen; the hub cannot be
        reached; the transfer broke or brought other bytes than announced.
    """
    source = os.fspath(source)
    if Path(source).exists():
        if revision is not None:
            raise UserError(
                f"revision={revision!r} was given for {source!r}, which is a local path: "
                f"leave it out, or write {PREFIX}owner/name to mean the hub"
            )
        return Path(source)
    hub_id = parse(source, revision)
    cache_dir = None if cache_dir is None else Path(cache_dir).expanduser()
    if offline or _client_is_offline():
        return from_cache(hub_id, cache_dir, guess=True)
    if COMMIT.fullmatch(hub_id.revision):
        try:
            return from_cache(hub_id, cache_dir, guess=False)
        except MissingFileError:
            pass  # not here yet, or not all of it
    return from_hub(hub_id, cache_dir)


def resolved_revision(path: str | os.PathLike[str]) -> str | None:
    """Returns the commit of the snapshot that holds a path, None if it is not in a hub cache."""
    parts = Path(path).absolute().parts
    for folder, commit in itertools.pairwise(parts):
        if folder == "snapshots" and COMMIT.fullmatch(commit):
            return commit
    return None


def _client_is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE
