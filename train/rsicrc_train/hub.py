"""Files of a Hugging Face hub repository, by references such as `hf:owner/repo/file.pt`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rsicrc.errors import CheckpointError

_PREFIX = "hf:"


class HubReference(NamedTuple):
    """Reference to a hub repository, `owner/name`, and to a file in it, or None."""

    repository: str
    file: str | None


def is_reference(text: str) -> bool:
    """Return true if `text` refers to the hub, false if it is a path."""
    return text.startswith(_PREFIX)


def parse(reference: str) -> HubReference:
    """Split `hf:owner/repo[/file]`; the file may lie in folders of the repository.

    Raises:
        CheckpointError: The reference is not of this form.
    """
    parts = reference.removeprefix(_PREFIX).split("/", 2)
    if not is_reference(reference) or len(parts) < 2 or not all(parts):
        raise CheckpointError(f"{reference!r} is not a hub reference: write hf:owner/repo or hf:owner/repo/file")
    return HubReference("/".join(parts[:2]), parts[2] if len(parts) == 3 else None)


def find(repository: str, file: str) -> Path | None:
    """Return the local copy of a repository's file, downloaded unless it is cached; None if there is no such file.

    Without a connection to the hub, only the cache is searched.

    Raises:
        CheckpointError: There is no such repository, access is denied, or the download failed.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(repository, file))
    except EntryNotFoundError:  # on the hub or, without a connection, in the cache
        return None
    except GatedRepoError as error:
        raise CheckpointError(f"{repository} is gated: accept its terms on the hub, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no repository {repository}; for a private one, log in with `hf auth login`"
        ) from error
    except HFValidationError as error:
        raise CheckpointError(f"{repository!r} cannot be the name of a hub repository: {error}") from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{file} of {repository} could not be downloaded: {error}") from error


def download(reference: str) -> Path:
    """Return the local copy of the file of a reference `hf:owner/repo/file`.

    Raises:
        CheckpointError: The reference names no file, or the file cannot be downloaded.
    """
    repository, file = parse(reference)
    if file is None:
        raise CheckpointError(f"{reference} is a repository: add the name of a file in it, as in {reference}/FILE")
    if (path := find(repository, file)) is None:
        raise CheckpointError(f"{repository} has no file {file}{where_looked()}")
    return path


def where_looked() -> str:
    """Return the end of the message "there is no such file": the places that were searched."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return " in the hub's cache, and HF_HUB_OFFLINE forbids the download"
    return " on the hub; or the hub cannot be reached, and the file is not in its cache"
