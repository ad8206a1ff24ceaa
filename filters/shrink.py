"""Area averaging: how pictures are made smaller for measures, exactly and in one pass over their pixels."""

import numba
import numpy as np


def shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    """The pixels with their longest side brought down to `side`; as they are where it is no longer than that.

    Each new pixel is the mean of the area that it covers, those that it covers in part weighed by the part.

    Args:
        pixels: uint8, height × width × channels.
    """
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest <= side:
        return pixels
    return _average(
        np.ascontiguousarray(pixels), max(1, round(height * side / longest)), max(1, round(width * side / longest))
    )


@numba.njit(cache=True)
def _average(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns, channels = pixels.shape
    flat = pixels.reshape(rows, columns * channels)
    above, below, first_row, last_row = _cover(rows, height)
    left, right, first_column, last_column = _cover(columns, width)
    total = np.empty(columns * channels, np.float32)
    found = np.empty((height, width, channels), np.uint8)
    scale, half = np.float32(height * width / (rows * columns)), np.float32(0.5)
    for y in range(height):
        weight, line = above[y], flat[first_row[y]]
        for at in range(len(total)):
            total[at] = weight * np.float32(line[at])
        for row in range(first_row[y] + 1, last_row[y]):
            line = flat[row]
            for at in range(len(total)):
                total[at] += np.float32(line[at])
        weight, line = below[y], flat[last_row[y]]
        for at in range(len(total)):
            total[at] += weight * np.float32(line[at])
        for x in range(width):
            start, end = first_column[x] * channels, last_column[x] * channels
            for channel in range(channels):
                mean = left[x] * total[start + channel] + right[x] * total[end + channel]
                for at in range(start + channels + channel, end, channels):
                    mean += total[at]
                found[y, x, channel] = np.uint8(mean * scale + half)
    return found


@numba.njit(cache=True)
def _cover(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What each new pixel covers of its first and last old one, and which these are; those between are whole."""
    before, after = np.empty(new, np.float32), np.empty(new, np.float32)
    first, last = np.empty(new, np.int64), np.empty(new, np.int64)
    for at in range(new):
        start, end = at * old / new, (at + 1) * old / new
        first[at] = int(start)
        last[at] = min(int(np.ceil(end)), old) - 1
        before[at] = min(end, first[at] + 1) - start
        after[at] = end - last[at] if last[at] > first[at] else 0.0
    return before, after, first, last
