"""Results as a picture: bars, one panel for every cell."""

from __future__ import annotations

from pathlib import Path

from common.rounds import Results
from common.summary import CAPTION, rows
from common.worker import Cell

_COLORS = {"fp32": "#4c72b0", "fp16": "#8172b3", "bf16": "#dd8452", "int8": "#55a868"}


def draw(results: Results, path: Path) -> None:
    """Captions a second of every contestant, the floor of its precision beside it.

    Args:
        results: the results.
        path: the picture; its suffix names the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    everything = [row for row in rows(results) if row.cell.task == CAPTION]
    if not everything:
        return
    alone = {name for name, entry in results.about["contestants"].items() if entry["alone"]}
    cells = sorted(
        {row.cell for row in everything if row.contestant not in alone}, key=lambda cell: (cell.batch, cell.beams)
    )
    cells = cells or [everything[0].cell]
    names = list(dict.fromkeys(row.contestant for row in everything))
    figure, panels = pyplot.subplots(
        1, len(cells), figsize=(2.2 + 3.2 * len(cells), 0.8 + 0.34 * len(names)), sharey=True, squeeze=False
    )
    for panel, cell in zip(panels[0], cells, strict=True):
        # The published way has one cell of its own and stands in every panel.
        shown = [row for row in everything if row.cell == cell or row.contestant in alone]
        for row in shown:
            place = names.index(row.contestant)
            panel.barh(place, row.rate, color=_COLORS.get(row.precision, "gray"), height=0.7)
            ends = [[row.rate - row.items / max(row.rounds)], [row.items / min(row.rounds) - row.rate]]
            panel.errorbar(row.rate, place, xerr=ends, color="black", linewidth=1, capsize=2)
            panel.text(row.rate, place, f"  {row.rate:.3g}", va="center", fontsize=7)
            if row.floor:
                panel.plot([row.items / row.floor] * 2, [place - 0.35, place + 0.35], color="black", linestyle=":")
        panel.set_title(_title(cell), fontsize=9)
        panel.set_xscale("log")
        panel.margins(x=0.25)
        panel.grid(axis="x", alpha=0.3)
        panel.tick_params(labelsize=7)
    panels[0][0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0][0].invert_yaxis()
    used = {row.precision for row in everything}
    legend = [Patch(color=color, label=name) for name, color in _COLORS.items() if name in used]
    panels[0][-1].legend(handles=legend, fontsize=7, loc="upper right")  # where those without a cache are short
    figure.suptitle(f"Captions a second (dotted: floor). {results.about['device']}", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _title(cell: Cell) -> str:
    return f"{cell.batch} pair{'s' if cell.batch > 1 else ''}, {cell.beams} beam{'s' if cell.beams > 1 else ''}"
