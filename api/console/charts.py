"""Charts, laid out here and drawn as SVG by the templates, in percent: they fit any width."""

from collections.abc import Sequence
from dataclasses import dataclass


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
    """Columns side by side on a scale from 0 to `top`."""

    columns: list[Column]
    top: float


def columns(
    bars: Sequence[Bar], gap: float = 0.25, top: float | None = None, least: int = 1
) -> Columns:
    """Lay out bars as columns side by side, `gap` of each place left free.

    The scale ends at the greatest value, or at `top`: what is above that is cut. There are at least
    so many places: a few bars alone would be broad ones.

    >>> chart = columns([Bar("a", 50), Bar("b", 80)], gap=0.5)
    >>> chart.top, [(column.x, column.width, column.height) for column in chart.columns]
    (80, [(12.5, 25.0, 62.5), (62.5, 25.0, 100.0)])
    """
    top = top or max((bar.value for bar in bars), default=0)
    place = 100 / max(len(bars), least)
    laid = [
        Column(
            bar=bar,
            x=round((number + gap / 2) * place, 3),
            width=round(place * (1 - gap), 3),
            height=_percent(bar.value, top),
            note_height=_percent(bar.note or 0, top),
            is_cut=bar.value > top,
        )
        for number, bar in enumerate(bars)
    ]
    return Columns(laid, top)


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
