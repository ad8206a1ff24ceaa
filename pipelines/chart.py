"""Charts as SVG paths: figures in, the `d` of a path out, in the units of a box whose origin is the upper left."""

from collections.abc import Sequence

FEW = 8
"""Bars of which each is read by itself."""
BLOCKS = "▁▂▃▄▅▆▇█"


def bars(values: Sequence[float], width: float, height: float, top: float | None = None, gap: float = 1) -> str:
    """A bar for each value, side by side; none for zero.

    Args:
        top: the value that reaches the top of the box; the greatest one when left out.
    """
    scale = height / (top or max(values, default=0) or 1)
    step = width / max(len(values), 1)
    gap = min(gap, step / 4)
    tall = [min(max(value * scale, 0.75), height) if value > 0 else 0.0 for value in values]
    return "".join(
        f"M{index * step:.2f} {height:g}v{-bar:.2f}h{step - gap:.2f}v{bar:.2f}z"
        for index, bar in enumerate(tall)
        if bar
    )


def line(values: Sequence[float], width: float, height: float, top: float | None = None) -> str:
    """A line through the values, in the middle of where their bars would be."""
    scale = height / (top or max(values, default=0) or 1)
    step = width / max(len(values), 1)
    points = [f"{(index + 0.5) * step:.2f} {height - value * scale:.2f}" for index, value in enumerate(values)]
    return "M" + "L".join(points) if points else ""


def peak(values: Sequence[float]) -> float:
    """The value that reaches the top of the box: a lone spike among many is cut at four times the second, so that the
    others are seen."""
    [second, first] = sorted([0, 0, *values])[-2:]
    return min(first, 4 * second) if second and len(values) > FEW else first


def parts(values: Sequence[float], shares: Sequence[float], top: float) -> list[float]:
    """These shares of the values as they are drawn: of a bar that is cut, the share of what is left of it."""
    return [min(value, top) * share for value, share in zip(values, shares, strict=True)]


def blocks(values: Sequence[float]) -> str:
    """A bar for each value as text, for a terminal; a space for zero."""
    top = peak(values) or 1
    return "".join(BLOCKS[min(int(value / top * 8), 7)] if value else " " for value in values)


def halved(values: Sequence[int], most: int = 20) -> list[int]:
    """Neighbours added up by twos until there are no more than so many."""
    some = list(values)
    while len(some) > most:
        some = [sum(some[index : index + 2]) for index in range(0, len(some), 2)]
    return some
