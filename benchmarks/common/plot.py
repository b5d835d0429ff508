"""Bar charts of the results."""

from __future__ import annotations

from pathlib import Path

from common.runner import Results
from common.summary import rows
from common.worker import CAPTION, Case

_COLORS = {"fp32": "#4c72b0", "fp16": "#8172b3", "bf16": "#dd8452", "int8": "#55a868"}


def draw(results: Results, path: Path) -> None:
    """Draw the captions per second of every implementation, with the roofline of its precision, if there are any."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    everything = [row for row in rows(results) if row.case.task == CAPTION]
    if not everything:
        return
    # The published method has one case of its own, and appears in every panel.
    alone = {name for name, entry in results.about["contestants"].items() if entry["alone"]}
    cases = {row.case for row in everything if row.implementation not in alone} or {everything[0].case}
    names = list(dict.fromkeys(row.implementation for row in everything))
    size = (2.2 + 3.2 * len(cases), 0.8 + 0.34 * len(names))
    figure, panels = pyplot.subplots(1, len(cases), figsize=size, sharey=True, squeeze=False)
    for panel, case in zip(panels[0], sorted(cases, key=lambda case: (case.batch, case.beams)), strict=True):
        for row in everything:
            if row.case != case and row.implementation not in alone:
                continue
            y = names.index(row.implementation)
            panel.barh(y, row.rate, color=_COLORS.get(row.precision, "gray"), height=0.7)
            ends = [[row.rate - row.items / max(row.rounds)], [row.items / min(row.rounds) - row.rate]]
            panel.errorbar(row.rate, y, xerr=ends, color="black", linewidth=1, capsize=2)
            panel.text(row.rate, y, f"  {row.rate:.3g}", va="center", fontsize=7)
            if row.roofline:
                panel.plot([row.items / row.roofline] * 2, [y - 0.35, y + 0.35], color="black", linestyle=":")
        panel.set_title(_title(case), fontsize=9)
        panel.set_xscale("log")
        panel.margins(x=0.25)
        panel.grid(axis="x", alpha=0.3)
        panel.tick_params(labelsize=7)
    panels[0][0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0][0].invert_yaxis()
    used = {row.precision for row in everything}
    legend = [Patch(color=color, label=name) for name, color in _COLORS.items() if name in used]
    panels[0][-1].legend(handles=legend, fontsize=7, loc="upper right")
    figure.suptitle(f"Captions per second (dotted: roofline). {results.about['device']}", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _title(case: Case) -> str:
    return f"{case.batch} pair{'s' if case.batch > 1 else ''}, {case.beams} beam{'s' if case.beams > 1 else ''}"
