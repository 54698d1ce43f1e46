"""Repositories of the hub that are in the cache already: nothing here asks the hub."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from vit_jax.convert.hub_files import Listing, gather
from vit_jax.convert.hub_ids import HubId
from vit_jax.errors import MissingFileError, UserError

_log = logging.getLogger(__name__)


def from_cache(hub_id: HubId, cache_dir: Path | None, guess: bool) -> Path:
    """Finds what a hub id names in the cache.

    Args:
      hub_id: its revision is looked up as it was at the last visit.
      cache_dir: of the client; None is its default.
      guess: whether to go by the files that are there where the cache lacks the list of the files
        of the commit: a program that fetches single files, as Transformers and timm do, keeps none.

    Returns:
      As `hub.download`.

    Raises:
      MissingFileError: a file that is needed is not there or damaged, or the list is not.
      UserError: as `hub_files.gather`.
    """
    folder, listing = _cached_listing(hub_id, cache_dir)
    obtain = functools.partial(_check_cached, hub_id, listing, folder)
    if listing.all_known:
        return gather(hub_id, listing, obtain)
    if not guess:
        raise _not_cached(hub_id, f"{folder} lacks the list of its files")
    _log.warning(
        "%s: the list of its files is not in the cache; going by those that are: %s",
        hub_id,
        ", ".join(sorted(listing.sizes)),
    )
    try:
        return gather(hub_id, listing, obtain)
    except MissingFileError:
        raise
    except UserError as error:
        problem = f"of an unknown number of files {folder} holds too few: {error}"
        raise _not_cached(hub_id, problem) from error


def _cached_listing(hub_id: HubId, cache_dir: Path | None) -> tuple[Path, Listing]:
    """The snapshot's folder, and the files that the commit has, as far as the cache knows."""
    import huggingface_hub as client
    from huggingface_hub import constants, errors

    try:
        folder = client.snapshot_download(
            hub_id.repository,
            revision=hub_id.revision,
            cache_dir=cache_dir,
            local_files_only=True,
            allow_patterns=[],  # the folder alone: what has to be in it is checked later
        )
    except errors.LocalEntryNotFoundError as error:
        where = cache_dir or constants.HF_HUB_CACHE
        raise _not_cached(hub_id, f"nothing of it is in the cache {where}") from error
    except errors.HFValidationError as error:
        raise UserError(f"{hub_id} is no hub id: {error}") from error
    folder = Path(folder)
    try:
        files = client.get_cached_repo_tree(
            hub_id.repository, revision=folder.name, cache_dir=cache_dir
        )
    except errors.CachedRepoTreeNotFoundError:
        here = [path for path in folder.rglob("*") if path.is_file()]
        sizes = {path.relative_to(folder).as_posix(): None for path in here}
        return folder, Listing(folder.name, sizes, {}, all_known=False)
    return folder, Listing(folder.name, {file.path: file.size for file in files}, {})


def _check_cached(hub_id: HubId, listing: Listing, folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if not (folder / name).is_file():
            raise _not_cached(hub_id, f"{name} is not in the cache {folder}")
        found, expected = (folder / name).stat().st_size, listing.sizes[name]
        if expected is not None and found != expected:
            raise MissingFileError(
                f"{folder / name} has {found} bytes, expected {expected}: it is damaged. Run once "
                "with a connection, and it is fetched anew"
            )
    return folder


def _not_cached(hub_id: HubId, problem: str) -> MissingFileError:
    return MissingFileError(
        f"{hub_id}: {problem}. The hub is not asked when working offline: run it once with a "
        "connection, without offline=True and HF_HUB_OFFLINE"
    )
