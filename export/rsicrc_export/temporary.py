"""Temporary model folders."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsicrc.errors import CheckpointError, RsicrcError, describe_os_error


@contextmanager
def temporary_export(checkpoint: str) -> Iterator[Path]:
    """Export a checkpoint to a temporary folder, with the same checks as any export.

    Args:
        checkpoint: A file, or a reference to the Hugging Face hub; see `rsicrc_export.hub.resolve`.

    Yields:
        The model folder, which is removed at the end of the block.

    Raises:
        CheckpointError: The checkpoint cannot be exported; the message gives the reason.
    """
    with tempfile.TemporaryDirectory(prefix="rsicrc-") as folder:
        target = Path(folder) / "model"
        try:
            _export(checkpoint, target)
        except ModuleNotFoundError as error:
            reason = f"{error.name} is not installed: pip install 'rsicrc[export]'"
            raise CheckpointError(f"{checkpoint} cannot be exported: {reason}") from error
        except RsicrcError as error:
            raise CheckpointError(f"{checkpoint} cannot be exported: {error}") from error
        except OSError as error:
            raise CheckpointError(f"{checkpoint} cannot be exported: {describe_os_error(error)}") from error
        yield target


def _export(checkpoint: str, target: Path) -> None:
    from rsicrc_export import hub
    from rsicrc_export.model_folder import export_checkpoint
    from rsicrc_export.source import Source

    files = hub.resolve(checkpoint) if hub.is_reference(checkpoint) else hub.HubCheckpoint(Path(checkpoint))
    export_checkpoint(Source.read(files.weights, files.config, files.vocab), target)
