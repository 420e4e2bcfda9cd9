"""Writes the page: the tables, each target with its verdict, and the limits of the project."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.bench.contenders import CONTENDERS
from tests.bench.profile import DISCOVERY, NOTHING, ONCE

Run = dict[str, Any]
TITLES = {contender.name: contender.title for contender in CONTENDERS}


@dataclass(frozen=True)
class Results:
    """All runs, with their medians."""

    runs: Sequence[Run]

    def of(self, contender: str, rows: int, latency: int, scenario: str) -> list[Run]:
        """Return the repeats of one cell."""
        cell = (contender, rows, latency, scenario)
        return [
            run
            for run in self.runs
            if (run["contender"], run["rows"], run["latency"], run["scenario"]) == cell
        ]

    def median(
        self, what: Callable[[Run], float], contender: str, rows: int, latency: int, scenario: str
    ) -> float | None:
        """Return the median of one cell, or None if it has no runs."""
        runs = self.of(contender, rows, latency, scenario)
        return float(median(map(what, runs))) if runs else None

    def values(self, name: str) -> list[Any]:
        """Return all sizes, latencies or scenarios, in the order of the runs."""
        return list(dict.fromkeys(run[name] for run in self.runs))


def wall(run: Run) -> float:
    """Seconds from start to end."""
    return float(run["wall"])


def cpu(run: Run) -> float:
    """CPU seconds of the contender's processes."""
    return float(run["cpu"])


def memory(run: Run) -> float:
    """Megabytes: the peaks of all its processes, added up."""
    return float(sum(use["peak_memory"] for use in run["processes"].values())) / 2**20


def page(results: dict[str, Any], plot: str) -> str:
    """Return the page."""
    runs = Results(results["runs"])
    parts = [
        _introduction(results, runs, plot),
        "## Against the targets\n",
        _table(["target", "measured", ""], _targets(runs)),
        "\n## What holds it back\n",
        _bounds(runs, results["profile"]),
        _costs(runs),
        _held_back(results["profile"]),
        "\n## All numbers\n",
        _numbers(runs),
    ]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> str:
    """Return a table whose last `right` columns are numbers."""
    rule = ["---"] * (len(head) - right) + ["---:"] * right
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows)) + "\n"


def _introduction(results: dict[str, Any], runs: Results, plot: str) -> str:
    sizes = ", ".join(f"{size:,}" for size in runs.values("rows"))
    latencies = " and ".join(f"{latency}" for latency in runs.values("latency"))
    begun, ended = results["begun"][:16].replace("T", " "), results["ended"][11:16]
    load = median(run["load"] for run in runs.runs)
    return f"""# Benchmark

<!-- Written by `make bench`; do not edit. -->

Measured from {begun} to {ended} UTC on a machine with {results["cores"]} cores and
{results["memory"] / 2**30:.0f} GiB of memory. `make bench` runs it again;
`.venv/bin/python -m tests.bench --quick` takes a few minutes.

The same job for each contender, one after the other in turns, with the same PostgreSQL and the
same CRM sandbox on loopback: {sizes} deals, {latencies} ms of latency a page, a first load, a run
when nothing has changed since, and one when 1 % of the deals have. Each contender reads
the same 17 attributes in pages of 499 rows ((b): 50), at most four at once ((b): one; at 100,000
rows with latency (a) and this project with eight, too). Medians of {results["repeats"]} repeats,
at 100,000 rows of 2; (b) and the lines with a merge once. After each run its table is compared
with the CRM, row for row and field for field.

- *this project*: `meltano run tap-oracle-crm target-postgres`; *with dbt*: the whole line, with
  `dbt-postgres:run`.
- *(a) dlt*: its REST API source and its PostgreSQL destination, tuned as its documentation says
  ([`dlt_pipeline.py`](../tests/bench/dlt_pipeline.py)); *with this project's merge*: then the same
  dbt models read its table, first loads only.
- *(b) plain script*: small pages by offset and a commit for each row, as the system that this
  project replaces. It reads all rows each time, whatever has changed; at most 20,000 here.
- *(c) the limit*: pages fetched, COPY and one upsert, nothing else.

The sandbox and PostgreSQL share the cores with the contender, which alone makes a load average of
1 to 2. During these runs it was {load:.1f} in the median: what is above that is other work on the
machine, which lengthens wall times; CPU times say how much work it was.

![Seconds for a first load, by rows]({plot})
"""


# --- targets ----------------------------------------------------------------------------


def _targets(runs: Results) -> list[list[str]]:
    """Return target, measure and verdict for each target that the runs cover."""
    first, changed = "first load", "1 % changed"
    lines: list[list[str]] = []

    def ratio(
        text: str, most: float, rows: int, scenario: str, other: str, project: str = "project"
    ) -> None:
        for latency in runs.values("latency"):
            mine = runs.median(wall, project, rows, latency, scenario)
            theirs = runs.median(wall, other, rows, latency, scenario)
            if mine is None or theirs is None:
                continue
            work = (
                runs.median(cpu, project, rows, latency, scenario) or 0,
                runs.median(cpu, other, rows, latency, scenario) or 0,
            )
            measured = (
                f"{mine:.2f} s / {theirs:.2f} s = **{mine / theirs:.2f}** "
                f"(CPU {work[0]:.1f} s / {work[1]:.1f} s)"
            )
            lines.append([f"{text}, {latency} ms", measured, _verdict(mine / theirs <= most)])

    large = "at most 0.7 times (a), 100,000 rows, first load"
    ratio(large, 0.7, 100_000, first, "dlt")
    ratio(f"{large}, eight pages at once", 0.7, 100_000, first, "dlt8", "project8")
    ratio("no slower than (a), 20,000 rows, first load", 1, 20_000, first, "dlt")
    ratio("at most 1.5 times (a), 1,000 rows, first load", 1.5, 1_000, first, "dlt")
    for rows in runs.values("rows"):
        ratio(f"at most 1.5 times (a), 1 % of {rows:,} changed", 1.5, rows, changed, "dlt")
    ratio("less than (b), 20,000 rows, first load", 1, 20_000, first, "script")
    ratio("at most 4 times (c), 100,000 rows, first load", 4, 100_000, first, "limit")
    line = "the whole line, 100,000 rows, first load"
    ratio(f"{line}: at most 1.8 times extract and load", 1.8, 100_000, first, "project", "chain")
    ratio(
        f"{line}: no slower than (a) with the same merge", 1, 100_000, first, "dlt_merged", "chain"
    )
    for latency in runs.values("latency"):
        most_memory = runs.median(memory, "project", 100_000, latency, first)
        less_memory = runs.median(memory, "project", 20_000, latency, first)
        if most_memory and less_memory:
            growth = most_memory / less_memory
            measured = f"{most_memory:.0f} MB / {less_memory:.0f} MB = **{growth:.2f}**"
            lines.append(
                [
                    f"memory at 100,000 rows at most 1.2 times that at 20,000, {latency} ms",
                    measured,
                    _verdict(growth <= 1.2),
                ]
            )
    for rows in runs.values("rows"):
        cell = runs.of("project", rows, runs.values("latency")[0], first)
        if cell:
            most = max(run["requests"] for run in cell)
            pages = cell[0]["pages"]
            lines.append(
                [
                    f"requests at most 1.1 times the pages, {rows:,} rows, first load",
                    f"{most} / {pages} = **{most / pages:.2f}**",
                    _verdict(most <= 1.1 * pages),
                ]
            )
    for contender in ("project", "chain"):
        wrong = sum(run["wrong"] for run in runs.runs if run["contender"] == contender)
        lines.append([f"correct: {TITLES[contender]}", f"{wrong} wrong rows", _verdict(not wrong)])
    return lines


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


# --- limits -----------------------------------------------------------------------------


def _bounds(runs: Results, profile: dict[str, Any]) -> str:
    """Return the limits for any tap and loader: Meltano's start, and the wait for pages."""
    nothing = profile["stages"][NOTHING]["wall"]
    parts = [
        f"**Start-up.** Meltano running a tap and a loader that do nothing takes {nothing:.2f} s, "
        "before this project's tap has asked for anything. That alone, as a multiple of all that "
        "(a) takes:\n",
        _table(
            ["", "(a), s", "Meltano's part"],
            [
                [
                    f"{scenario} ({rows:,} rows, {latency} ms)",
                    f"{theirs:.2f}",
                    f"{nothing / theirs:.2f}",
                ]
                for rows in runs.values("rows")
                for latency in runs.values("latency")
                for scenario in ("first load", "1 % changed")
                if (theirs := runs.median(wall, "dlt", rows, latency, scenario))
                and nothing > theirs / 2
            ],
            right=2,
        ),
    ]
    rows, latency = max(runs.values("rows")), max(runs.values("latency"))
    cell = runs.of("dlt", rows, latency, "first load")
    if cell and latency:
        pages, theirs = cell[0]["pages"], median(map(wall, cell))
        wait = pages * latency / 4000
        before = nothing + profile["stages"][DISCOVERY]["wall"] + 2 * latency / 1000
        limit = runs.median(wall, "limit", rows, latency, "first load")
        parts.append(
            f"**Waiting.** {pages} pages of {latency} ms, four at once, take {wait:.1f} s whoever "
            f"fetches them: {wait / theirs:.2f} times (a)'s {theirs:.1f} s. Before them come "
            f"Meltano, discovery, and one by one two answers, which attributes there are and which "
            f"row is the last: {before:.1f} s. Both together are {(before + wait) / theirs:.2f} "
            "times (a)"
            + (f"; (c), without any of that before, takes {limit / theirs:.2f}" if limit else "")
            + ".\n"
        )
    parts.append(
        "**Requests.** Beyond the pages there are two: which attributes there are, and the rows "
        "changed last, whose time is the next run's bookmark and must be known before anything "
        "else is read. Each range of keys ends with a page that is seldom full: four ranges cost "
        "up to three pages more than one, and halving one for a worker that has nothing left to "
        "read costs up to one. Among 3 pages that is a lot, among 201 it is not.\n"
    )
    return "\n".join(parts)


def _costs(runs: Results) -> str:
    """Return the cost of a run before the first row, and the cost of each row."""
    rows, latency = max(runs.values("rows")), runs.values("latency")[0]

    def of_process(role: str) -> Callable[[Run], float]:
        return lambda run: float(run["processes"].get(role, {"cpu": 0})["cpu"])

    def of_server(server: str) -> Callable[[Run], float]:
        return lambda run: float(run["servers"][server])

    lines = []
    for contender, what, cost in (
        ("project", "this project", cpu),
        ("project", "- Meltano", of_process("Meltano")),
        ("project", "- tap, discovery included", of_process("tap")),
        ("project", "- loader", of_process("loader")),
        ("project", "PostgreSQL meanwhile", of_server("database")),
        ("project", "sandbox meanwhile", of_server("CRM")),
        ("dlt", TITLES["dlt"], cpu),
        ("dlt", "PostgreSQL meanwhile", of_server("database")),
        ("dlt", "sandbox meanwhile", of_server("CRM")),
        ("limit", TITLES["limit"], cpu),
    ):
        idle = runs.median(cost, contender, rows, latency, "nothing changed")
        busy = runs.median(cost, contender, rows, latency, "first load")
        if idle is not None and busy is not None:
            lines.append([what, f"{idle:.2f}", f"{(busy - idle) / rows * 1e6:.1f}"])
    return (
        "**Work.** What a run costs when nothing has changed, and what each row costs beyond "
        f"that (first load of {rows:,} rows):\n\n"
        + _table(["", "CPU s a run", "CPU µs a row"], lines, right=2)
    )


def _held_back(profile: dict[str, Any]) -> str:
    rows = profile["rows"]
    stages = [
        [
            name,
            f"{used['wall']:.2f}",
            f"{used['cpu']:.2f}",
            "" if name in ONCE else f"{rows / used['cpu']:,.0f}",
        ]
        for name, used in profile["stages"].items()
    ]
    parts = [
        f"The stages of a first load of {rows:,} rows, each run alone, no latency:\n",
        _table(["stage", "wall s", "CPU s", "rows per CPU s"], stages, right=3),
        "Where the processes of one whole run were on the CPU, sampled by py-spy; *own* is time "
        "in the function itself, *within* also in what it calls:\n",
    ]
    for role, used in profile["processes"].items():
        lines = [
            [f"{own[1]:.0%}", f"`{own[0]}`", f"{within[1]:.0%}", f"`{within[0]}`"]
            for own, within in zip(used["own"], used["within"], strict=False)
        ]
        parts.append(f"**{role}**, {used['seconds']:.1f} s\n")
        parts.append(_table(["own", "function", "within", "function"], lines))
    return "\n".join(parts)


# --- all numbers ------------------------------------------------------------------------


def _numbers(runs: Results) -> str:
    parts = []
    for rows in runs.values("rows"):
        for latency in runs.values("latency"):
            lines = [
                line
                for scenario in runs.values("scenario")
                for contender in TITLES
                if (line := _line(runs, contender, rows, latency, scenario))
            ]
            parts.append(f"### {rows:,} rows, {latency} ms a page\n")
            parts.append(_table(HEAD, lines, right=len(HEAD) - 3))
    return "\n".join(parts)


HEAD = [
    "",
    "contender",
    "memory, peak MB",
    "wall s",
    "fastest to slowest",
    "rows/s",
    "CPU s",
    "PostgreSQL CPU s",
    "CRM CPU s",
    "requests",
    "pages",
    "wrong rows",
]


def _line(
    runs: Results, contender: str, rows: int, latency: int, scenario: str
) -> list[str] | None:
    cell = runs.of(contender, rows, latency, scenario)
    if not cell:
        return None
    middle = median(map(wall, cell))
    peaks: dict[str, float] = {}
    for run in cell:
        for role, use in run["processes"].items():
            peaks[role] = max(peaks.get(role, 0), use["peak_memory"] / 2**20)
    return [
        scenario,
        TITLES[contender],
        ", ".join(f"{role} {peak:.0f}" for role, peak in peaks.items()),
        f"{middle:.2f}",
        f"{min(map(wall, cell)):.2f} to {max(map(wall, cell)):.2f}",
        f"{rows / middle:,.0f}" if scenario == "first load" else "",
        f"{median(map(cpu, cell)):.2f}",
        f"{median(run['servers']['database'] for run in cell):.2f}",
        f"{median(run['servers']['CRM'] for run in cell):.2f}",
        f"{median(run['requests'] for run in cell):.0f}",
        str(cell[0]["pages"]),
        str(max(run["wrong"] for run in cell)),
    ]
