"""Models that others made, at work on many items: whose fault an error is."""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from schemas.errors import JuZhouError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def each(work: Callable[[list[Item]], Sequence[Answer]], items: list[Item], control: Item) -> list[Answer | Exception]:
    """What the work answers for each item: for all at once, or where that fails, for one by one.

    One that fails alone has its error for an answer, provided that the work still does the control, which is known to
    go well. If it does not, the fault is the process's (no accelerator computes again after some errors): it ends, and
    the stage runner finds the item out in another.
    """
    try:
        return list(work(items))
    except JuZhouError:
        raise
    except Exception as error:  # whatever a stranger's model raises
        failure = error.with_traceback(None)  # the frames hold the memory that may have been short
    if len(items) > 1:
        return [answer for item in items for answer in each(work, [item], control)]
    try:
        work([control])
    except Exception:
        os._exit(1)
    return [failure]
