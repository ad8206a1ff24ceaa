"""Pictures in a folder: the words of each lie beside it in a file of its name, or in a metadata file."""

import csv
import dataclasses
import io
import json
import posixpath
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus import Corpus
from pipelines.files import Place
from pipelines.sources.items import (
    CAPTION,
    LICENCE,
    MAX_TEXT_BYTES,
    PAGE_URL,
    PICTURES,
    About,
    Item,
    items_stage,
    record_of,
    text_at,
    text_of,
    too_large,
)
from pipelines.stage import Stage
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.recipe import Fetch, Folder
from schemas.tables import ID

BATCH = 512
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
BESIDE = ("txt", "json", "caption", "page_url", "licence")
"""What the listing adds: the paths of the files beside a picture, and what the metadata say of it."""


def folder_stage(corpus: Corpus, name: str, source: Folder, fetch: Fetch) -> Stage:
    """The pictures that are new in a folder, or whose bytes or words changed.

    A caption is that of the text file beside, else of the JSON file (`caption` or `text`), else of the nearest metadata
    file in the picture's folder or above (`file_name`, and `caption` or `text`).

    Raises:
        JuZhouError: there are no pictures, or a metadata file cannot be read.
    """
    place = Place.of(source.path)

    def read(file: dict[str, Any]) -> Iterator[Item]:
        about = _about(place, file)
        content = b""
        if not (error := too_large(file["size"], fetch.max_bytes)):
            content = _start(place, file["path"], fetch.max_bytes + 1)
            error = too_large(len(content), fetch.max_bytes)
        yield Item("", about, content, error)

    return items_stage(corpus, name, _listed(place, name), read, fetch, BATCH)


def _about(place: Place, file: dict[str, Any]) -> About:
    text = text_of(_start(place, file["txt"], MAX_TEXT_BYTES)) if file["txt"] else ""
    record = record_of(text_of(_start(place, file["json"], MAX_TEXT_BYTES))) if file["json"] else {}
    captions = {"txt": text, "json": text_at(record, CAPTION), "metadata": file["caption"] or ""}
    return About.of(captions, (record, file))


def _start(place: Place, path: str, size: int) -> bytes:
    """A file's first bytes."""
    with place.open(path) as file:
        return file.read(size)


def _listed(place: Place, name: str) -> pa.Table:
    """The pictures, each with what lies beside it; an id changes with either."""
    pictures = place.listed(name, PICTURES)
    infos = dataclasses.replace(place, pattern="*").files((".txt", ".json", *METADATA))
    beside = {place.below(info): info for info in infos}
    metadata = _metadata(place, [path for path in beside if PurePosixPath(path).name in METADATA])
    ids, rows = [], []
    for file_id, path in zip(pictures["file_id"].to_pylist(), pictures["path"].to_pylist(), strict=True):
        stem = str(PurePosixPath(path).with_suffix(""))
        words = {ending: f"{stem}.{ending}" for ending in ("txt", "json") if f"{stem}.{ending}" in beside}
        row = words | metadata.get(path, {})
        changes = [(beside[path].size, beside[path].mtime_ns) for path in words.values()]
        ids.append(digest(file_id + json.dumps([row, changes]).encode()))
        rows.append(row)
    found = pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in BESIDE]))
    columns = {name: table[name] for table in (pictures, found) for name in table.column_names}
    return pa.table(columns | {"file_id": pa.array(ids, ID)})


def _metadata(place: Place, paths: list[str]) -> dict[str, dict[str, str]]:
    """What metadata files say, by the path of the picture that they say it of; the nearest counts.

    Raises:
        JuZhouError: one of them is broken, or names no file in one of its rows.
    """
    found: dict[str, dict[str, str]] = {}
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        folder = posixpath.dirname(path)
        for number, row in enumerate(_rows(place, path), 1):
            if not (named := text_at(row, ("file_name",))):
                has = ", ".join(map(str, row)) or "nothing"
                raise JuZhouError(f"{place.root}/{path}: row {number} needs a 'file_name'; it has {has}")
            picture = posixpath.normpath(posixpath.join(folder, named))
            if PurePosixPath(picture).is_relative_to(folder):
                keys = {"caption": CAPTION, "page_url": PAGE_URL, "licence": LICENCE}
                found[picture] = {column: text_at(row, names) for column, names in keys.items()}
    return found


def _rows(place: Place, path: str) -> list[dict[str, Any]]:
    """The rows of a metadata file.

    Raises:
        JuZhouError: they cannot be read.
    """
    try:
        with place.open(path) as file:
            if path.endswith(".parquet"):
                return pq.read_table(file).to_pylist()
            text = text_of(file.read())
        if path.endswith(".csv"):
            return list(csv.DictReader(io.StringIO(text, newline="")))
        return [record_of(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise JuZhouError(f"{place.root}/{path}: {' '.join(str(error).split())}") from error
