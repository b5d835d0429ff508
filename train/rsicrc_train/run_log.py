"""Records of a training run: metrics per step, their curves, and the conditions of each start."""

from __future__ import annotations

import csv
import json
import logging
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from rsicrc.errors import DataError
from rsicrc.files import replacing
from rsicrc_train.figures import new_figure

_LOGGER = logging.getLogger("rsicrc.train")
COLUMNS = ("step", "split", "loss", "captioning", "contrastive", "learning_rate", "pairs_per_second")
_PACKAGES = (
    "rsicrc", "torch", "torchvision", "numpy", "lightning-fabric", "open_clip_torch", "opencv-python-headless",
    "sentence-transformers", "transformers",
)  # fmt: skip


class _ScalarWriter(Protocol):
    def add_scalar(self, tag: str, value: float, step: int) -> object: ...

    def flush(self) -> None: ...


class RunLog:
    """Metrics of a run: a row of `log.csv` for each step and each validation, optionally for TensorBoard too."""

    def __init__(self, path: Path, step: int, *, tensorboard: bool) -> None:
        """Continue a log after `step`, without later rows of an interrupted run; at step 0 start a new log.

        Raises:
            DataError: `tensorboard` is true, but TensorBoard is not installed.
        """
        self.path = path
        self._scalars: _ScalarWriter | None = _tensorboard(path.parent / "tensorboard", step) if tensorboard else None
        rows = [row for row in read_log(path) if int(row["step"]) <= step] if step else []
        with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, step: int, split: str, losses: Sequence[float], rate: float, speed: float) -> None:
        """Add a row.

        Args:
            step: Number of steps done.
            split: `train` or `val`.
            losses: Loss, captioning loss and contrastive loss.
            rate: Learning rate; 0 in validation.
            speed: Pairs per second; 0 in validation.
        """
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([step, split, *(f"{x:.5g}" for x in (*losses, rate, speed))])
        if self._scalars is not None:
            values = [*losses, rate, speed] if split == "train" else losses
            for name, value in zip(COLUMNS[2:], values, strict=False):
                self._scalars.add_scalar(f"{split}/{name}", value, step)
            if split == "val":
                self._scalars.flush()


def read_log(path: Path) -> Iterator[dict[str, str]]:
    """Yield the complete rows of a log; the last row of an interrupted run may be incomplete and is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["step"].isdigit() and all(row.get(column) for column in COLUMNS):
                yield row


def draw_curves(log: Path, path: Path) -> None:
    """Draw a log's losses and learning rate over the steps as PNG; without matplotlib, only log a warning."""
    try:
        figure = new_figure(10, 6)
    except ModuleNotFoundError:
        _LOGGER.warning("%s is not drawn, matplotlib is missing: pip install 'rsicrc[train]'", path.name)
        return
    rows = list(read_log(log))
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
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=100)


def record_start(path: Path, step: int, processes: int, device: str, origin: Mapping[str, Any] | None = None) -> None:
    """Append a start or resumption to a JSON list: time, command, commit, package versions, machine, and `origin`."""
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
            **(origin or {}),
        }
    )
    with replacing(path) as partial:
        partial.write_text(json.dumps(starts, indent=1) + "\n", encoding="utf-8")


def _smooth(values: list[float]) -> list[float]:
    """Return moving averages over up to a fiftieth of the curve before each point: single batches are noisy."""
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
    """Return the commit of the checkout that contains this module, with `+` if files were changed, or None."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie in another project's repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _tensorboard(folder: Path, step: int) -> _ScalarWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise DataError("TensorBoard is not installed: pip install tensorboard, or train without it") from error
    writer: _ScalarWriter = SummaryWriter(str(folder), purge_step=step + 1)
    return writer
