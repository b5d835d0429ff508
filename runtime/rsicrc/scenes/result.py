"""The captioned tiles of a scene with the facts of the run, and the check of the names of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsicrc.errors import SceneError
from rsicrc.scenes.plan import ScenePlan
from rsicrc.scenes.tile import SceneTile


def check_output(path: Path, endings: Sequence[str], *, overwrite: bool) -> None:
    """Check the name of an output before the work.

    Raises:
        SceneError: The ending is none of `endings`, or the file exists.
        OSError: The folder is missing.
    """
    if path.suffix.lower() not in endings:
        raise SceneError(f"{path}: the name must end in one of {', '.join(endings)}")
    path.parent.stat()
    if path.exists() and not (overwrite and path.is_file()):
        raise SceneError(f"{path} exists: give another name, or --overwrite to replace a file")


@dataclass(frozen=True)
class SceneResult:
    """The tiles of a scene that were captioned, with the facts that outputs record.

    Attributes:
        plan: The plan.
        tiles: The tiles, in order.
        left_out: Number of tiles with too few valid pixels.
        model: Identifier of the model folder.
        threshold: Smallest change score of a changed tile.
    """

    plan: ScenePlan
    tiles: list[SceneTile]
    left_out: int
    model: str
    threshold: float

    def selected(self, all_tiles: bool) -> list[SceneTile]:
        """Return the changed tiles, or all; a tile without a change score counts as changed."""
        return [tile for tile in self.tiles if all_tiles or tile.changed is not False]

    def facts(self) -> dict[str, Any]:
        """Return the facts about the run that outputs record, as plain containers for JSON."""
        return {
            **self.plan.to_dict(),
            "model": self.model,
            "change_threshold": self.threshold,
            "left_out": self.left_out,
        }
