"""What a run writes down beside its checkpoints: figures per step, their curves, and how it was started."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import click

from rsicrc.errors import DataError
from rsicrc.files import replacing

COLUMNS = ("step", "split", "loss", "captioning", "contrastive", "learning_rate", "pairs_per_second")
_PACKAGES = (
    "rsicrc", "torch", "torchvision", "numpy", "lightning-fabric", "open_clip_torch", "opencv-python-headless",
    "sentence-transformers", "transformers",
)  # fmt: skip


class _Scalars(Protocol):
    def add_scalar(self, tag: str, value: float, step: int) -> object: ...

    def flush(self) -> None: ...


class Log:
    """The figures of a run: a row of `log.csv` for each step and each validation, for TensorBoard too if asked."""

    def __init__(self, path: Path, step: int, *, tensorboard: bool) -> None:
        """Go on with a log after `step`, dropping what a killed run wrote after that; at step 0 begin one.

        Raises:
            DataError: TensorBoard is asked for and not installed.
        """
        self.path = path
        self.scalars: _Scalars | None = _tensorboard(path.parent / "tensorboard", step) if tensorboard else None
        rows = [row for row in read_log(path) if int(row["step"]) <= step] if step else []
        with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, step: int, split: str, figures: Sequence[float], rate: float, pairs: float) -> None:
        """Add a row.

        Args:
            step: steps done.
            split: `train` or `val`.
            figures: loss, captioning, contrastive.
            rate: the learning rate; 0 in validation.
            pairs: pairs a second; 0 in validation.
        """
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([step, split, *(f"{x:.5g}" for x in (*figures, rate, pairs))])
        if self.scalars is not None:
            values = [*figures, rate, pairs] if split == "train" else figures
            for name, value in zip(COLUMNS[2:], values, strict=False):
                self.scalars.add_scalar(f"{split}/{name}", value, step)
            if split == "val":
                self.scalars.flush()


def read_log(path: Path) -> Iterator[dict[str, str]]:
    """The whole rows of a log; a kill may have cut the last one short."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["step"].isdigit() and all(row.get(column) for column in COLUMNS):
                yield row


def draw_curves(log: Path, picture: Path) -> None:
    """Draw a log's losses and learning rate over the steps; without matplotlib, say so instead."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        click.echo(f"{picture.name} is not drawn, matplotlib is missing: pip install 'rsicrc[train]'", err=True)
        return
    rows = list(read_log(log))
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, column in zip(figure.subplots(2, 2).flat, COLUMNS[2:6], strict=True):
        splits = ("train",) if column == "learning_rate" else ("train", "val")
        for split in splits:
            points = [(int(row["step"]), float(row[column])) for row in rows if row["split"] == split]
            steps, values = [step for step, _ in points], [value for _, value in points]
            style: dict[str, Any] = {"marker": "o", "zorder": 3} if split == "val" else {"linewidth": 0.8}
            axes.plot(steps, _smooth(values) if split == "train" else values, label=split, **style)
        axes.set(title=column.replace("_", " "), xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(picture) as partial:
        figure.savefig(partial, format="png", dpi=100)


def describe_start(path: Path, step: int, processes: int, device: str) -> None:
    """Add to a JSON list when, by which command, code and packages, and on what machine a run began or went on."""
    starts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    starts.append(
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": step,
            "command": sys.argv,
            "commit": _commit(),
            "packages": dict(_versions()),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": device,
            "processes": processes,
        }
    )
    with replacing(path) as partial:
        partial.write_text(json.dumps(starts, indent=1) + "\n", encoding="utf-8")


def _smooth(values: list[float]) -> list[float]:
    """Means over up to a fiftieth of the curve before each point, since single batches scatter."""
    width = max(1, len(values) // 50)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[i + 1] - sums[max(0, i + 1 - width)]) / min(i + 1, width) for i in range(len(values))]


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _commit() -> str | None:
    """The commit of the checkout that this code runs from, `+` behind it if files were changed; None outside one."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie in somebody else's repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _tensorboard(folder: Path, step: int) -> _Scalars:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise DataError("TensorBoard is not installed: pip install tensorboard, or train without it") from error
    writer: _Scalars = SummaryWriter(str(folder), purge_step=step + 1)
    return writer
