"""Fetches repositories of the hub with the official client, and checks what arrives."""

import functools
import glob
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vit_jax.convert.hub_files import Listing, gather
from vit_jax.convert.hub_ids import HubId
from vit_jax.errors import UserError

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may read it"
TIMEOUT = 20.0  # seconds that the hub may take to begin its answer

_log = logging.getLogger(__name__)


class _DamagedError(Exception):
    """A file has not the hash that the hub announces."""


def from_hub(hub_id: HubId, cache_dir: Path | None) -> Path:
    """Asks the hub what a hub id names, and fetches what the cache lacks of it.

    Returns:
      As `hub.download`.

    Raises:
      UserError: the hub does not have it, does not give it, cannot be reached, or the transfer
        broke or brought other bytes; or as `hub_files.gather`.
    """
    listing = _list(hub_id, cache_dir)
    return gather(hub_id, listing, functools.partial(_fetch, hub_id, listing, cache_dir))


def _list(hub_id: HubId, cache_dir: Path | None) -> Listing:
    """Asks the hub for the commit and its files, and notes the commit for later offline use."""
    from huggingface_hub import HfApi, constants, errors

    api = HfApi()
    try:
        info = api.model_info(
            hub_id.repository, revision=hub_id.revision, files_metadata=True, timeout=TIMEOUT
        )
        # This writes the note. It may also read an old one, if the hub fails just now.
        noted = api.resolve_revision(
            hub_id.repository, revision=hub_id.revision, cache_dir=cache_dir
        ).resolved
    except errors.HFValidationError as error:
        raise UserError(f"{hub_id} is no hub id: {error}") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{constants.ENDPOINT} did not answer as a hub does: check HF_ENDPOINT, and whether "
            "the network asks for a log-in"
        ) from error
    except (errors.HTTPError, errors.RevisionResolutionError, OSError) as error:
        _raise_explained(error, hub_id, f"could not reach {constants.ENDPOINT}")
    if noted != info.sha:
        raise UserError(f"{hub_id} changed while it was looked up: run again")
    hashes = {f.rfilename: f.lfs.sha256 if f.lfs else f.blob_id for f in info.siblings}
    return Listing(
        commit=info.sha,
        sizes={file.rfilename: file.size for file in info.siblings},
        hashes={name: value for name, value in hashes.items() if value},
    )


def _fetch(hub_id: HubId, listing: Listing, cache_dir: Path | None, names: Sequence[str]) -> Path:
    """Puts files into the snapshot, and returns its folder."""
    from huggingface_hub import errors

    for name in names:
        try:
            _fetch_file(hub_id, listing, cache_dir, name)
        except _DamagedError as error:
            raise UserError(
                f"{hub_id}: {name} arrived damaged: {error}. It was deleted: run again, and look "
                "for a proxy in between if that does not help"
            ) from error
        except (errors.HTTPError, errors.XetDownloadError, OSError) as error:
            _raise_explained(error, hub_id, f"{name} did not arrive whole, and no part was kept")
    return _note_files(hub_id, listing, cache_dir, names)


def _fetch_file(hub_id: HubId, listing: Listing, cache_dir: Path | None, name: str) -> None:
    """Puts one file into the snapshot, unless it is there already as the listing has it."""
    import huggingface_hub as client

    where = {"revision": listing.commit, "cache_dir": cache_dir}
    cached = client.try_to_load_from_cache(hub_id.repository, name, **where)
    if isinstance(cached, str):
        try:
            return _check(Path(cached), listing, name)
        except _DamagedError as error:
            _log.warning("%s is fetched anew: %s", cached, error)
    return _check(Path(client.hf_hub_download(hub_id.repository, name, **where)), listing, name)


def _check(path: Path, listing: Listing, name: str) -> None:
    """Deletes a file that has not the hash of the listing, and raises _DamagedError."""
    expected = listing.hashes.get(name)
    if expected is None:
        _log.warning("the hub gives no hash of %s: its contents were not checked", name)
        return
    found = _hash(path, len(expected))
    if found != expected:
        path.resolve().unlink()  # a snapshot's file is a link, where the system has links
        path.unlink(missing_ok=True)
        raise _DamagedError(f"its hash is {found}, expected {expected}")


def _note_files(
    hub_id: HubId, listing: Listing, cache_dir: Path | None, names: Sequence[str]
) -> Path:
    """Lets the client keep the list of the commit's files, for offline use; fetches no file.

    Returns:
      The folder of the snapshot.
    """
    import huggingface_hub
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        def __init__(self, *args: object, **options: object):
            super().__init__(*args, **{**options, "disable": True})

    folder = huggingface_hub.snapshot_download(
        hub_id.repository,
        revision=listing.commit,
        cache_dir=cache_dir,
        allow_patterns=[glob.escape(name) for name in names],
        tqdm_class=Silent,
    )
    return Path(folder)


def _hash(path: Path, digits: int) -> str:
    """SHA-256, or, for 40 digits, the SHA-1 that git gives a file."""
    with path.open("rb") as file:
        if digits == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        header = b"blob %d\0" % path.stat().st_size
        return hashlib.file_digest(file, lambda: hashlib.sha1(header)).hexdigest()


def _delete(path: Path) -> None:
    """Deletes a file of a snapshot, and what it links to."""
    path.resolve().unlink()
    path.unlink(missing_ok=True)


def _raise_explained(error: Exception, hub_id: HubId, otherwise: str) -> NoReturn:
    """Raises what an error of the client means for its user.

    Args:
      error: as the client raised it, often with the true reason as its cause.
      hub_id: what was asked for.
      otherwise: the sentence for an error that is not an answer of the hub.
    """
    from huggingface_hub import constants, errors

    answer = error
    while answer is not None and not isinstance(answer, errors.HfHubHTTPError):
        answer = answer.__cause__
    page = f"{constants.ENDPOINT}/{hub_id.repository}"
    if answer is None:
        reason = error.__cause__ or error
        text = f"{otherwise} ({type(reason).__name__}: {reason})"
        advice = "check the network and run again, or work from the cache with offline=True"
    elif isinstance(answer, errors.GatedRepoError):
        text, advice = "access to it is restricted", f"ask for it on {page}, then {LOG_IN}"
    elif isinstance(answer, errors.RepositoryNotFoundError):
        text = f"there is no {page}, or it is private"
        advice = f"check the spelling; if it is private, {LOG_IN}"
    elif isinstance(answer, errors.RevisionNotFoundError):
        text = f"the repository has no revision {hub_id.revision!r}"
        advice = f"give a branch, a tag or a commit of {page}/commits/main"
    elif answer.response.status_code in (401, 403):
        text, advice = f"{constants.ENDPOINT} refused it ({answer})", LOG_IN
    else:
        text = f"{constants.ENDPOINT} answered with an error ({answer})"
        advice = "try again later, or work from the cache with offline=True"
    raise UserError(f"{hub_id}: {text}: {advice}") from error
