"""``plot.py RESULTS SVG``: draws the wall time of a first load, one panel for each latency."""

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found]
from matplotlib.figure import Figure  # type: ignore[import-not-found]

STYLES = {
    "project": ("this project", "#0b6e4f", "o"),
    "chain": ("this project, with dbt", "#7fb69f", "o"),
    "project8": ("eight pages at once", "#0b6e4f", "*"),
    "dlt": ("(a) dlt", "#c44536", "s"),
    "dlt8": ("(a), eight pages at once", "#c44536", "*"),
    "script": ("(b) plain script", "#8d8d8d", "^"),
    "limit": ("(c) the limit", "#283d8b", "v"),
}


def main(results_file: str, svg: str) -> None:
    """Draw the plot."""
    runs: list[dict[str, Any]] = json.loads(Path(results_file).read_text())["runs"]
    runs = [run for run in runs if run["scenario"] == "first load"]
    latencies = sorted({run["latency"] for run in runs})
    mpl.rcParams |= {"svg.hashsalt": "benchmark", "svg.fonttype": "none", "font.size": 10}
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    for column, latency in enumerate(latencies, start=1):
        axes = figure.add_subplot(1, len(latencies), column)
        for name, (label, colour, marker) in STYLES.items():
            mine = [run for run in runs if (run["contender"], run["latency"]) == (name, latency)]
            sizes = sorted({run["rows"] for run in mine})
            walls = [median(run["wall"] for run in mine if run["rows"] == size) for size in sizes]
            axes.plot(sizes, walls, marker=marker, color=colour, label=label)
        sizes = sorted({run["rows"] for run in runs})
        axes.set(xscale="log", yscale="log", xlabel="rows", title=f"{latency} ms a page")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        if column == 1:
            axes.set_ylabel("seconds, first load")
            figure.legend(loc="outside lower center", ncols=len(STYLES), frameon=False)
    figure.savefig(svg, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
