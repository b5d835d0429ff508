"""Files of a Hugging Face hub repository, by references such as `hf:owner/repo@revision/file.pt`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from rsicrc.errors import CheckpointError, shortened
from rsicrc_train.quoting import quote

_PREFIX = "hf:"
_LONGEST = 500
_REFERENCE = re.compile(
    r"hf:(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[\w][\w.+-]*))?(?:/(?P<file>.+))?"
)


class HubReference(NamedTuple):
    """Reference to a hub repository, `owner/name`, to a file in it, or None, and to a revision, or None for `main`."""

    repository: str
    file: str | None
    revision: str | None = None

    @property
    def name(self) -> str:
        """Repository and revision as in a reference, for messages."""
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


def is_reference(text: str) -> bool:
    """Return true if `text` refers to the hub, false if it is a path."""
    return text.startswith(_PREFIX)


def parse(reference: str) -> HubReference:
    """Split `hf:owner/repo[@revision][/file]`.

    The file may lie in folders of the repository. The revision is a branch, a tag, a commit or `refs/pr/N`.

    Raises:
        CheckpointError: The reference is not of this form.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None or len(reference) > _LONGEST or not all(map(_is_plain, (found["file"] or "file").split("/"))):
        raise CheckpointError(
            f"{quote(reference)} is not a hub reference: write hf:owner/repo or hf:owner/repo/file, with a revision as "
            "hf:owner/repo@revision/file"
        )
    return HubReference(found["repository"], found["file"], found["revision"])


def find(repository: str, file: str, revision: str | None = None) -> Path | None:
    """Return the local copy of a repository's file, downloaded unless it is cached; None if there is no such file.

    Without a connection to the hub, only the cache is searched.

    Args:
        repository: Name of the repository, `owner/name`.
        file: Path of the file in the repository.
        revision: Branch, tag or commit; None for `main`.

    Raises:
        CheckpointError: There is no such repository or revision, access is denied, or the download failed.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except EntryNotFoundError:  # on the hub or, without a connection, in the cache
        return None
    except GatedRepoError as error:
        raise CheckpointError(f"{repository} is gated: accept its terms on the hub, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no repository {repository}; for a private one, log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{repository} has no revision {revision}: see its branches and tags on the hub"
        ) from error
    except HFValidationError as error:
        raise CheckpointError(
            f"{quote(repository)} cannot be the name of a hub repository: {shortened(error, 200)}"
        ) from error
    except Exception as error:  # of the network and of the cache, whose types differ between versions of the library
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{file} of {repository} could not be downloaded: {shortened(reason, 300)}") from error


def download(reference: str) -> Path:
    """Return the local copy of the file of a reference `hf:owner/repo[@revision]/file`.

    Raises:
        CheckpointError: The reference names no file, or the file cannot be downloaded.
    """
    parsed = parse(reference)
    if parsed.file is None:
        raise CheckpointError(f"{reference} is a repository: add the name of a file in it, as in {reference}/FILE")
    if (path := find(parsed.repository, parsed.file, parsed.revision)) is None:
        raise CheckpointError(f"{parsed.name} has no file {parsed.file}{where_looked()}")
    return path


def where_looked() -> str:
    """Return the end of the message "there is no such file": the places that were searched."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return " in the hub's cache, and HF_HUB_OFFLINE forbids the download"
    return " on the hub; or the hub cannot be reached, and the file is not in its cache"


def _is_plain(part: str) -> bool:
    return part.isprintable() and part not in ("", ".", "..") and "\\" not in part
