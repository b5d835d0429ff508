"""Files of a training run's folder, and the recipe that a new or resumed run uses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.errors import DataError
from rsicrc_train.distributed import has_bf16
from rsicrc_train.quoting import quote
from rsicrc_train.recipes import Recipe, load_recipe, replace_options

BEST, LAST, RECIPE = "best.pt", "last.pt", "recipe.yaml"
LOG, CURVES, STARTS = "log.csv", "curves.png", "starts.json"
# Values of options, other than their defaults, of runs whose version did not have these options.
_EARLIER: dict[str, Any] = {"cache_features": False}
# Values that `auto` may stand for in a run.
_RESOLVED = {"trunk": ("all", "last"), "precision": ("32-true", "bf16-mixed")}


def resolve_recipe(folder: Path, recipe: Recipe, *, resume: bool, init: str | None, device: str) -> Recipe:
    """Return the recipe of a run: the given one without `auto`, or the recipe of the run to resume.

    Args:
        folder: Folder of the run.
        recipe: Recipe of a new run; ignored when a run is resumed.
        resume: Continue the run in the folder.
        init: Pre-trained weights of the trunk, or None. With them, `auto` trains only the trunk's last parts.
        device: `auto`, `cpu` or `cuda`; its bfloat16 decides about the precision `auto`.

    Raises:
        DataError: There is no run to resume, or the folder of a new run already holds one.
    """
    if resume:
        return _resumed_recipe(folder)
    # A run that was killed before its first checkpoint left nothing to resume: its folder may be used again.
    if (folder / LAST).exists() or (folder / BEST).exists():
        raise DataError(f"{folder} already holds a run: continue it with --resume, or choose another folder")
    training = recipe.training
    if training.trunk == "auto":
        training = replace(training, trunk="all" if init is None else "last")
    if training.precision == "auto":
        training = replace(training, precision="bf16-mixed" if has_bf16(device) else "32-true")
    return replace(recipe, training=training)


def check_resumed_options(folder: Path, reference: str | None, overrides: Mapping[str, Any]) -> None:
    """Check that options given together with `--resume` are those of the run, because a resumed run ignores them.

    Args:
        folder: Folder of the run.
        reference: Name or file of the given recipe; None if no recipe was given.
        overrides: Given training options; None values were not given.

    Raises:
        DataError: There is no run to resume, an option has an invalid value, or an option differs from the run.
    """
    run = _resumed_recipe(folder)
    given = replace_options(run, overrides) if reference is None else load_recipe(reference, overrides)
    differences = []
    for own, other in ((run.model.to_dict(), given.model.to_dict()), (asdict(run.training), asdict(given.training))):
        for name, value in own.items():
            # The run's recipe holds the value that `auto` stood for.
            if other[name] != value and (other[name] != "auto" or value not in _RESOLVED.get(name, ())):
                differences.append(f"{name} is {_quote(value)} there, not {_quote(other[name])}")
    if differences:
        raise _ignored(folder, "; ".join(differences))


def check_resumed_data(
    folder: Path, data: Path, recorded: Mapping[str, Any], pairs: int, origin: Mapping[str, Any]
) -> None:
    """Check that a run is resumed on its data.

    Args:
        folder: Folder of the run.
        data: Path of the given data set.
        recorded: Training record of the run; runs of earlier versions recorded only the number of training pairs.
        pairs: Number of training pairs in `data`.
        origin: Record of `data`, with its `fingerprint` as `data_sha256`.

    Raises:
        DataError: The run was trained on other data.
    """
    known = {"pairs": pairs, "data_sha256": origin["data_sha256"]}
    if any(recorded.get(name, value) != value for name, value in known.items()):
        raise DataError(
            f"{folder} was trained on {quote(recorded.get('pairs'))} pairs of other data than {data} with {pairs} "
            "training pairs: resume on its data, or start a new run in another folder"
        )


def check_resumed_init(folder: Path, init: str | None, recorded: object) -> None:
    """Check that an `--init` given together with `--resume` is that of the run.

    Raises:
        DataError: The run started from other weights.
    """
    if init is None or name_of(init) == recorded:
        return
    started = "random weights" if recorded is None else quote(recorded)
    raise _ignored(folder, f"the trunk started from {started}, not {quote(name_of(init))}")


def name_of(init: str) -> str:
    """Return the name under which a run records its pre-trained weights: a hub reference, or the name of a file."""
    return init if init.startswith("hf:") else PurePosixPath(init).name


def fingerprint(splits: Mapping[str, Sequence[CaptionedPair]]) -> str:
    """Return the SHA-256 of the names, captions and change flags of the pairs; the folder of the data has no effect."""
    digest = hashlib.sha256()
    for split, pairs in splits.items():
        for pair in pairs:
            row = [split, pair.before.name, pair.after.name, pair.changed, *pair.sentences]
            digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe of a run; options that its version did not have get the value that the run was trained with.

    Raises:
        DataError: The recipe is missing or damaged.
    """
    return load_recipe(str(folder / RECIPE), earlier=_EARLIER)


def _resumed_recipe(folder: Path) -> Recipe:
    if not (folder / LAST).exists():
        raise DataError(f"{folder} holds no run that saved a state: start it without --resume")
    return read_recipe(folder)


def _quote(value: object) -> str:
    return str(value) if isinstance(value, (str, int, float)) else json.dumps(value)


def _ignored(folder: Path, differences: str) -> DataError:
    return DataError(
        f"--resume continues the run in {folder} with its own options, and {differences}: leave the options out, "
        f"change them in {folder / RECIPE}, or start a new run in another folder"
    )
