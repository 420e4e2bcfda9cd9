"""Charts, laid out here and drawn as SVG by the templates, in percent: they fit any width."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil, floor, log10

TICKS = 4
"""About how many parts an axis has."""


@dataclass(frozen=True)
class Axis:
    """Numbers at equal distances, the lowest first; a chart reaches from the first to the last."""

    ticks: list[float]

    def place(self, value: float) -> float:
        """Return how far a value is from the begin, in percent of the length."""
        low, high = self.ticks[0], self.ticks[-1]
        return round(100 * (value - low) / (high - low), 3)

    @property
    def lines(self) -> list[float]:
        """Where the lines of the numbers are, in percent of the length."""
        return [self.place(tick) for tick in self.ticks]


def axis(low: float, high: float) -> Axis:
    """Return an axis of round numbers around the values from `low` to `high`.

    >>> axis(0, 83).ticks, axis(96_100_000, 98_000_000).ticks[0], axis(0, 0).ticks
    ([0, 20, 40, 60, 80, 100], 96000000, [0, 1])
    """
    if high <= low:
        return Axis([low, low + 1])
    rough = (high - low) / TICKS
    power = 10.0 ** floor(log10(rough))
    step = power * next(size for size in (1, 2, 5, 10) if size * power >= rough * 0.7)
    first, last = floor(low / step), ceil(high / step)
    # Whole numbers where the step is one: floats of a sum of steps would not be round.
    ticks = [number * step for number in range(first, last + 1)]
    return Axis([int(tick) if step >= 1 else round(tick, 10) for tick in ticks])


@dataclass(frozen=True)
class Bar:
    """A value to draw, and its label."""

    label: str
    value: float
    tone: str = ""
    """"bad" for what went wrong."""
    note: float | None = None
    """A part of the value that is drawn darker, such as the weighted one."""


@dataclass(frozen=True)
class Column:
    """A bar with its place: x and width in percent of the width, the rest of the height."""

    bar: Bar
    x: float
    width: float
    height: float
    note_height: float

    is_cut: bool = False
    """Whether the value is above the scale."""

    @property
    def middle(self) -> float:
        """Where its label stands, in percent of the width."""
        return round(self.x + self.width / 2, 3)

    @property
    def y(self) -> float:
        """Where it begins from above, in percent of the height."""
        return round(100 - self.height, 3)

    @property
    def note_y(self) -> float:
        """Where the darker part begins from above, in percent of the height."""
        return round(100 - self.note_height, 3)


@dataclass(frozen=True)
class Columns:
    """Columns side by side; `top` is where the scale ends before it is rounded."""

    columns: list[Column]
    top: float
    axis: Axis


def columns(
    bars: Sequence[Bar], gap: float = 0.25, top: float | None = None, least: int = 1
) -> Columns:
    """Lay out bars as columns side by side, `gap` of each place left free.

    The scale ends at the greatest value, or at `top`: what is above that is cut. There are at least
    so many places: a few bars alone would be broad ones.

    >>> chart = columns([Bar("a", 50), Bar("b", 80)], gap=0.5)
    >>> chart.top, [(column.x, column.width, column.height) for column in chart.columns]
    (80, [(12.5, 25.0, 62.5), (62.5, 25.0, 100.0)])
    >>> chart.axis.ticks
    [0, 20, 40, 60, 80]
    """
    top = top or max((bar.value for bar in bars), default=0)
    scale = axis(0, top)
    place = 100 / max(len(bars), least)
    laid = [
        Column(
            bar=bar,
            x=round((number + gap / 2) * place, 3),
            width=round(place * (1 - gap), 3),
            height=min(scale.place(bar.value), 100),
            note_height=min(scale.place(bar.note or 0), 100),
            is_cut=bar.value > scale.ticks[-1],
        )
        for number, bar in enumerate(bars)
    ]
    return Columns(laid, top, scale)


@dataclass(frozen=True)
class Rise:
    """A step of a waterfall, from left to right: all in percent of the width.

    Attributes:
        begin: where the sum of all before it is.
        end: where the sum is after it.
        x: where its bar begins.
        width: of the bar.
    """

    begin: float
    end: float
    x: float
    width: float


@dataclass(frozen=True)
class Waterfall:
    """How an amount became another one: whole bars at both ends, steps that hang between them."""

    rises: list[Rise]
    axis: Axis
    is_cut: bool
    """Whether the axis begins above 0, since the steps would be too small to be seen."""


def waterfall(opening: float, steps: Sequence[float]) -> Waterfall:
    """Lay out an amount, what is added to it, and what it comes to.

    >>> chart = waterfall(100, [40, -100])
    >>> chart.axis.ticks, chart.is_cut
    ([0, 50, 100, 150], False)
    >>> [(rise.x, rise.width) for rise in chart.rises]
    [(0.0, 66.667), (66.667, 26.666), (26.667, 66.666), (0.0, 26.667)]
    >>> chart = waterfall(1000, [10, 10])
    >>> chart.axis.ticks, chart.is_cut
    ([995, 1000, 1005, 1010, 1015, 1020], True)
    """
    sums = list(accumulate(steps, initial=opening))
    lowest, highest = min(sums), max(sums)
    is_cut = highest / 2 < lowest < highest
    # A bar that begins at its end could not be seen.
    low = lowest - (highest - lowest) / TICKS if is_cut else min(lowest, 0.0)
    scale = axis(low, highest)
    places = [scale.place(amount) for amount in sums]
    zero = 0.0 if is_cut else scale.place(0)
    whole = [Rise(zero, end, min(zero, end), abs(end - zero)) for end in (places[0], places[-1])]
    hanging = [
        Rise(begin, end, min(begin, end), round(abs(end - begin), 3))
        for begin, end in pairwise(places)
    ]
    return Waterfall([whole[0], *hanging, whole[1]], scale, is_cut)


def _percent(value: float, top: float) -> float:
    return round(100 * min(value / top, 1.0), 3) if top > 0 else 0.0


def lengths(values: Sequence[float | None], top: float | None = None) -> list[float]:
    """Return how long the bars of some values are, in percent of the longest, or of `top`.

    >>> lengths([5, None, 10])
    [50.0, 0.0, 100.0]
    >>> lengths([5, None, 10], top=5)
    [100.0, 0.0, 100.0]
    """
    top = top or max((value or 0 for value in values), default=0)
    return [_percent(value or 0, top) for value in values]
