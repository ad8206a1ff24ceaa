"""Captions measured a second, against Data-Juicer's text operators on the same captions.

    python benchmarks/text.py                  1,000,000 captions
    python benchmarks/text.py --quick          20,000, calls alone; Data-Juicer only where its environment is made

Captions are made: sentences of templates and words of jieba's dictionary, 5 to 60 characters, a third of them with the
dirt of the web (telephone numbers, addresses, prices, sales talk, names of sites and of people, repetition).

First, calls alone in one process, on a tenth of the captions (--quick: on all): each of Data-Juicer's operators
(`compute_stats_batched`, in its batches of 1,000) beside the part of ours that answers the same question, in batches
of 256, each time with the normalisation of the text; then all that `text` and `words` measure beside the sum of these
operators. Without a tokenizer, which it would fetch from a hub, Data-Juicer cuts words at blanks: a Chinese caption is
a word or two, which spares it work that ours does. Scripts, contacts, prices, tails and names it does not measure.

Then from a file of captions to a file of numbers in one and two processes: ours, and Data-Juicer's default executor
with all of these operators and nothing dropped. Rates there are of the captions beyond a tenth, whose run is timed
apart: the start of processes and the loading of dictionaries cost nothing of a large corpus. All is timed in one run.
"""

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import data_juicer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filters import sales
from filters.characters import class_counts, classes, folds, texts
from filters.contacts import contact, email, phone, url
from filters.names import Names
from filters.repetition import repeated
from filters.segmentation import frequencies
from filters.suffix import tail
from filters.text import COUNTED, Text, content_word_shares, sales_words
from filters.word_list import Words

BATCH = 256
TEMPLATES = (
    "一{q}{a}{n}在{n}上{v}",
    "{a}{n}和{n}",
    "{n}{n}高清图片",
    "{a}的{n}，{a}的{n}，{v}{n}",
    "{i}{n}{v}的{n}",
    "{n}里的{n}正在{v}，旁边是{a}{n}和{n}",
    "{n}{n}{n}{n}{n}",
    "{a}{n}素材 {n} {n} {n}",
    "{n}：{i}，{v}{n}的{a}{n}",
    "{n}{v}{n}时，{a}的{n}{v}了{n}，{n}也{v}{a}{n}的{n}，就像{i}",
    "一{q}{a}的{n}{v}在{n}边，{q}{n}和{n}{v}着，远处是{a}{n}、{n}和{n}",
)
DIRT = (
    " 电话1{d}{d}{d}-{d}{d}{d}{d}-{d}{d}{d}{d}",
    " www.{l}{l}{l}{l}.com",
    " ¥{d}9包邮",
    "【厂家直销】批发价格优惠",
    " 微信{l}{l}{d}{d}{d}{d}",
    " qq:{d}{d}{d}{d}{d}{d}{d}",
    " - 千图网",
    "_昵图网",
    "，{n}{n}，{n}{n}",
    " 摄影:王小明",
    " IMG_{d}{d}{d}{d}.JPG",
    " ★★★！！！",
)

OPERATORS: dict[str, dict[str, Any]] = {
    "text_length_filter": {"min_len": 0},
    "alphanumeric_filter": {"min_ratio": 0.0},
    "special_characters_filter": {"max_ratio": 1.0},
    "character_repetition_filter": {"rep_len": 5, "max_ratio": 1.0},
    "word_repetition_filter": {"lang": "zh", "rep_len": 3, "max_ratio": 1.0},
    "words_num_filter": {"lang": "zh", "min_num": 0},
    "stopwords_filter": {"lang": "zh", "min_ratio": 0.0},
    "flagged_words_filter": {"lang": "zh", "max_ratio": 1.0},
}
"""Data-Juicer's operators with bounds that drop nothing."""

CHILD = """
import json, sys, time
from data_juicer.ops import load_ops
from data_juicer.utils.constant import Fields
captions = [json.loads(line)["text"] for line in open("captions.jsonl", encoding="utf-8")]
seconds = {}
for name, options in json.load(open("operators.json")).items():
    [operator] = load_ops([{name: options}])
    for timed in (captions[:1000], captions):
        begun = time.perf_counter()
        for at in range(0, len(timed), 1000):
            part = timed[at : at + 1000]
            operator.compute_stats_batched({"text": part, Fields.stats: [{} for _ in part]})
        seconds[name] = time.perf_counter() - begun
json.dump(seconds, open("operators_s.json", "w"))
"""


def captions(count: int) -> list[str]:
    """Made captions, the same ones each time."""
    rng = random.Random(0)
    kinds: dict[str, list[str]] = {kind: [] for kind in "nvai"}
    for word, (frequency, tag) in frequencies().items():
        if tag in kinds and frequency > 10:
            kinds[tag].append(word)
    kinds |= {"q": list("只个张片朵座条"), "d": list("0123456789"), "l": list("abcdefghijklmnopqrstuvwxyz")}
    made = []
    while len(made) < count:
        template = rng.choice(TEMPLATES) + (rng.choice(DIRT) if rng.random() < 1 / 3 else "")
        for kind in kinds:
            while f"{{{kind}}}" in template:
                template = template.replace(f"{{{kind}}}", rng.choice(kinds[kind]), 1)
        if 5 <= len(template) <= 60:
            made.append(template)
    return made


def batches(of: Sequence[str]) -> Iterator[Sequence[str]]:
    return (of[at : at + BATCH] for at in range(0, len(of), BATCH))


def seconds(work: Callable[[Sequence[str]], object], of: Sequence[str]) -> float:
    """The time of a call for every batch, after one that loads and compiles."""
    work(of[:BATCH])
    begun = time.perf_counter()
    for batch in batches(of):
        work(batch)
    return time.perf_counter() - begun


def parts(words: Words) -> dict[str, tuple[Callable[[Sequence[str]], object], str]]:
    """Ours, part by part, each with the normalisation that it needs, and Data-Juicer's that it answers to."""

    def lower(batch: Sequence[str]) -> list[str]:
        return [string.lower() for string in texts(batch).strings]

    def counts(batch: Sequence[str]) -> np.ndarray:
        read = texts(batch)
        return class_counts(read.codes, read.bounds, classes(), COUNTED)

    def repetition(length: int) -> Callable[[Sequence[str]], object]:
        def work(batch: Sequence[str]) -> object:
            read = texts(batch)
            return repeated(folds()[read.codes], read.bounds, classes(), length)

        return work

    def offers(batch: Sequence[str]) -> object:
        read = texts(batch)
        return sales_words(read, folds()[read.codes]), [sales.price(string.lower(), 1) for string in read.strings]

    def ways(batch: Sequence[str]) -> object:
        return [(phone(text, 10), url(text), email(text), contact(text, 4)) for text in lower(batch)]

    def tails(batch: Sequence[str]) -> object:
        return list(map(tail, texts(batch).strings))

    return {
        "length": (texts, "text_length_filter"),
        "letters and digits": (counts, "alphanumeric_filter"),
        "punctuation": (counts, "special_characters_filter"),
        "repeated 5-grams": (repetition(5), "character_repetition_filter"),
        "repeated 3-grams": (repetition(3), "word_repetition_filter"),
        "words (jieba)": (lambda batch: content_word_shares(texts(batch)), "words_num_filter"),
        "content words (jieba)": (lambda batch: content_word_shares(texts(batch)), "stopwords_filter"),
        "a list of words": (lambda batch: words(batch, {}), "flagged_words_filter"),
        "phone, url, email, contact, all tried": (ways, ""),
        "prices and sales words": (offers, ""),
        "tail": (tails, ""),
        "names (not in the totals)": (lambda batch: Names()(batch, {}), ""),
    }


def ours(source: Path, sink: Path, words: Words, workers: int) -> float:
    """Seconds from a file of captions to files of numbers, a share of the lines a process; without their start."""
    shares = range(workers)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.starmap(measure, [(source, None, words, share, workers, 2 * BATCH) for share in shares], chunksize=1)
        begun = time.perf_counter()
        pool.starmap(measure, [(source, sink, words, share, workers, None) for share in shares], chunksize=1)
        return time.perf_counter() - begun


def measure(source: Path, sink: Path | None, words: Words, share: int, of: int, limit: int | None) -> None:
    lines = source.read_text("utf-8").splitlines()[share::of][:limit]
    read = [json.loads(line)["text"] for line in lines]
    text = Text()
    schema = pa.schema([*text.columns, *words.columns])
    tables = []
    for batch in batches(read):
        columns = dict(text(batch, {})) | dict(words(batch, {}))
        tables.append(pa.table({name: columns[name] for name in schema.names}, schema=schema))
    if sink:
        pq.write_table(pa.concat_tables(tables), sink / f"{share}.parquet")


def theirs_alone(folder: Path, of: Sequence[str], options: dict[str, dict[str, Any]]) -> dict[str, float]:
    (folder / "captions.jsonl").write_text("".join(f"{json.dumps({'text': one})}\n" for one in of), "utf-8")
    (folder / "operators.json").write_text(json.dumps(options))
    (folder / "alone.py").write_text(CHILD)
    command = [data_juicer.home() / "bin/python", folder / "alone.py"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    found: dict[str, float] = json.loads((folder / "operators_s.json").read_text())
    return found


def executor_s(folder: Path, of: Sequence[str], options: dict[str, dict[str, Any]], workers: int) -> float:
    folder.mkdir()
    operators = [{name: its} for name, its in options.items()]
    run = data_juicer.process([{"text": one} for one in of], operators, folder, workers)
    if len(run.rows) != len(of):
        raise RuntimeError(f"Data-Juicer kept {len(run.rows)} of {len(of)}")
    return run.run_s


def prepared(folder: Path) -> tuple[Words, dict[str, dict[str, Any]]]:
    """One list of 28,000 words for both sides, ours as a measure, Data-Juicer's among its operators' options."""
    listed = [word for word, (_, tag) in frequencies().items() if tag in ("nz", "ns")]
    (folder / "list.txt").write_text("\n".join(listed), "utf-8")
    (folder / "flagged_words.json").write_text(json.dumps({"zh": listed}))
    (folder / "stopwords.json").write_text(json.dumps({"zh": list("的了在是和与也就都而及着")}))
    options = {name: dict(value) for name, value in OPERATORS.items()}
    options["stopwords_filter"]["stopwords_dir"] = str(folder)
    options["flagged_words_filter"]["flagged_words_dir"] = str(folder)
    return Words(list=folder / "list.txt"), options


def calls(folder: Path, of: Sequence[str], peer: bool) -> dict[str, Any]:
    """The first table, and its figures."""
    words, options = prepared(folder)
    alone = theirs_alone(folder, of, options) if peer else {}
    print(f"\ncalls alone, one process, {len(of):,} captions     ours/s   Data-Juicer/s")
    for part, (work, operator) in parts(words).items():
        beside = f"{len(of) / alone[operator]:15,.0f}  {operator}" if operator in alone else f"{'–':>15}"
        print(f"  {part:<42}{len(of) / seconds(work, of):12,.0f}{beside}", flush=True)
    total = seconds(lambda batch: (Text()(batch, {}), words(batch, {})), of)
    beside = f"{len(of) / sum(alone.values()):15,.0f}  the sum of its operators" if peer else f"{'–':>15}"
    print(f"  {'all of text and words':<42}{len(of) / total:12,.0f}{beside}")
    ratio = round(sum(alone.values()) / total, 2) if peer else None
    return {"captions_per_s": round(len(of) / total), "ratio_data_juicer": ratio}


def files(folder: Path, made: Sequence[str]) -> dict[str, Any]:
    """The second table, and its figures."""
    words, options = prepared(folder)
    few, figures = made[: len(made) // 10], {}
    print("\nfile to file, beyond the first tenth            ours/s   Data-Juicer/s")
    for workers in (1, 2):
        mine, theirs = [], []
        for size in (few, made):
            source = folder / "rows.jsonl"
            source.write_text("".join(f"{json.dumps({'text': one})}\n" for one in size), "utf-8")
            mine.append(ours(source, folder, words, workers))
            theirs.append(executor_s(folder / f"{workers}-{len(size)}", size, options, workers))
        rate, other = ((len(made) - len(few)) / (long - short) for short, long in (mine, theirs))
        figures[f"captions_per_s_files_{workers}"] = round(rate)
        figures[f"ratio_data_juicer_files_{workers}"] = round(rate / other, 2)
        print(f"  {f'{workers} process(es)':<42}{rate:12,.0f}{other:15,.0f}", flush=True)
    return figures


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="20,000 captions, within 50 s")
    quick = arguments.parse_args().quick
    if not quick:
        data_juicer.make()
    peer = data_juicer.is_there()
    made = captions(20_000 if quick else 1_000_000)
    average = np.mean([len(one) for one in made])
    print(f"{len(made):,} captions of {average:.1f} characters on average, such as {made[3]!r}")
    with tempfile.TemporaryDirectory() as name:
        figures = calls(Path(name), made if quick else made[: len(made) // 10], peer)
        if not quick:
            figures |= files(Path(name), made)
    if not peer:
        print("Data-Juicer was skipped: its environment is not made yet; run without --quick")
    print(json.dumps({"captions": len(made)} | figures))


if __name__ == "__main__":
    main()
