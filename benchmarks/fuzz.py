"""What broken and hostile picture files do to the measures: no crash, no hang, no flood of memory, a row each.

    python benchmarks/fuzz.py            10,000 mutated files of eight formats, and those made to hurt
    python benchmarks/fuzz.py --quick    400 and half of the others: less than 50 seconds

Every file is decoded and measured by all measures of a picture that need no option, in a process that is watched:
its processor time and its most resident memory are taken for each file. A process that dies, or says
nothing for long, is a crash or a hang of the file that it had, and another one goes on behind that file.
"""

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from filters import registry
from filters.picture import Picture, decode, read_header
from tests.filters import mutants

LIMIT_S, LIMIT_GB = 5.0, 2.0
QUICK = 400
PATIENCE_S = 60.0
"""Wall time after which a process is ended; the machine may be busy, so the limit is on processor time."""


class Seen(NamedTuple):
    """`outcome`: `value`, `refused` (no picture, in one line), `measure failed` (decoded, but a measure has no value:
    its row gets the error), or a fault: `wrong error`, `no number`, `crash`, `hang`."""

    outcome: str
    detail: str
    seconds: float
    gb: float


def measured(content: bytes, measures: dict[str, Any]) -> tuple[str, str]:
    """Outcome and detail of a file."""
    try:
        read_header(content)
    except ValueError as error:
        if "\n" in str(error):
            return "wrong error", repr(error)
    except Exception as error:
        return "wrong error", f"header: {error!r}"
    try:
        picture = decode(content)
    except ValueError as error:
        return ("wrong error", repr(error)) if "\n" in str(error) else ("refused", str(error))
    except Exception as error:
        return "wrong error", f"decode: {error!r}"
    failed = ""
    for name, measure in measures.items():
        try:
            columns = measure([picture])
        except Exception as error:
            failed = f"{name}: {type(error).__name__}: {error}"
            continue
        for column, values in columns.items():
            if not finite(values[0]):
                return "no number", f"{name}.{column} of {picture.width} × {picture.height}: {values[0]!r}"
    return ("measure failed", failed) if failed else ("value", "")


def finite(value: Any) -> bool:
    return not isinstance(value, float | np.floating | np.ndarray) or bool(np.isfinite(value).all())


def files(count: int) -> list[tuple[str, str, Any]]:
    """Name, format and number or name of each file: those made to hurt (of few files, every other), then mutants."""
    hostile: list[tuple[str, str, Any]] = [
        (name, name.partition(",")[0], name) for name in list(mutants.HOSTILE)[:: 1 if count > QUICK else 2]
    ]
    return hostile + [
        (f"mutant({number})", mutants.FORMATS[number % len(mutants.FORMATS)], number) for number in range(count)
    ]


def work(pipe: multiprocessing.connection.Connection, count: int, first: int) -> None:
    """Files from `first` on, in a process of its own; says what each did."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints what it dislikes
    measures = {name: kind() for name, kind in registry.PICTURE.items() if not issubclass(kind, BaseModel)}
    for measure in measures.values():
        measure(
            [Picture(np.zeros((32, 32, 3), np.uint8), 0.0)]
        )  # models and compiled loops are loaded by the first call
    for _, _, what in files(count)[first:]:
        content = mutants.HOSTILE[what]() if isinstance(what, str) else mutants.mutant(what).content
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        pipe.send("begun")
        started = time.process_time()
        outcome, detail = measured(content, measures)
        pipe.send(Seen(outcome, detail, time.process_time() - started, peak_gb()))


def peak_gb() -> float:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20


def watched(count: int) -> Iterator[Seen]:
    """What each file did, whatever it did to its process."""
    context = multiprocessing.get_context("spawn")
    first, total = 0, len(files(count))
    while first < total:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(theirs, count, first), daemon=True)
        process.start()
        theirs.close()
        try:
            while first < total:
                if not ours.poll(PATIENCE_S):
                    yield Seen("hang", f"more than {PATIENCE_S:.0f} s", PATIENCE_S, 0.0)
                    break
                said = ours.recv()
                if said != "begun":
                    yield said
                    first += 1
        except EOFError:
            process.join()
            yield Seen("crash", f"exit code {process.exitcode}", 0.0, 0.0)
        else:
            if first == total:
                break
        process.kill()
        first += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="400 mutants, and every other file made to hurt")
    count = QUICK if parser.parse_args().quick else 10_000
    by_format: dict[str, Counter[str]] = {kind: Counter() for kind in mutants.FORMATS}
    faults: list[str] = []
    most_s = most_gb = 0.0
    for (name, kind, _), seen in zip(files(count), watched(count), strict=True):
        by_format[kind][seen.outcome] += 1
        most_s, most_gb = max(most_s, seen.seconds), max(most_gb, seen.gb)
        slow, large = seen.seconds > LIMIT_S, seen.gb > LIMIT_GB
        by_format[kind]["over 5 s"] += slow
        by_format[kind]["over 2 GB"] += large
        if name in mutants.HOSTILE or slow or large or seen.outcome not in ("value", "refused"):
            print(
                f"  {name:44}{seen.outcome:16}{seen.seconds:6.2f} s{seen.gb:6.2f} GB  {seen.detail[:110]}", flush=True
            )
        if slow or large or seen.outcome not in ("value", "refused", "measure failed"):
            faults.append(name)
    outcomes = (
        "value",
        "refused",
        "measure failed",
        "wrong error",
        "no number",
        "crash",
        "hang",
        "over 5 s",
        "over 2 GB",
    )
    print(f"\n{'':6}" + "".join(f"{outcome:>15}" for outcome in outcomes))
    for kind, counted in by_format.items():
        print(f"{kind:6}" + "".join(f"{counted[outcome]:15,}" for outcome in outcomes))
    summed = sum(by_format.values(), Counter())
    figures = {outcome.replace(" ", "_"): summed[outcome] for outcome in outcomes}
    peaks = {"files": len(files(count)), "most_s": round(most_s, 2), "most_gb": round(most_gb, 2)}
    print(json.dumps(peaks | figures | {"faults": faults}))


if __name__ == "__main__":
    main()
