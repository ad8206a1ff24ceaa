"""Croissant 1.0: what a release's files and columns are, for machines that look for data sets."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.releases.shards import PICTURE
from schemas.release import POEMS, Manifest

PREFIXES = {"sc": "https://schema.org/", "cr": "http://mlcommons.org/croissant/", "dct": "http://purl.org/dc/terms/"}
TERMS = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": PREFIXES["sc"],
    **PREFIXES,
    **{term: f"cr:{term}" for term in TERMS},
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
}
"""The terms of the format, so that a reader need not ask for them on the web."""

ABOUT = {
    "sample_id": "Sixteen bytes of a digest of the picture and the caption as found; in the tars as hex.",
    "image_id": "The first sixteen bytes of the SHA-256 of the picture's original bytes.",
    "split": "train, validation or test.",
    "caption": "In Simplified script.",
    "original_caption": "As it was found.",
    "caption_from": "Where on the page the caption stood.",
    "poem_lines": "Lines of poems that fit, best first.",
    "keywords": "What the poem shows of which the picture was drawn.",
    "poem": "That poem, or the one of the best line, line by line.",
    "source": "The source of the corpus's recipe.",
    "url": "Where the picture was fetched.",
    "page_url": "The page that showed it.",
    "licence": "As the page states it.",
    "format": "Of the picture's bytes.",
    "repeats": "How many different pictures of the corpus bear the caption.",
    "release": "The release whose folder has the shard.",
    "shard": "The tar that holds the picture.",
    "offset": "Where in the tar the picture's bytes begin.",
    "length": "How many bytes they are.",
}
"""Columns of samples.parquet; the measures' structs are described by the card."""


def text(folder: Path, manifest: Manifest) -> str:
    """The metadata as JSON-LD, of a release whose tars and samples.parquet are written."""
    schema = pq.read_schema(folder / "samples.parquet")
    samples = {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": "A row a sample.",
        "key": {"@id": "samples/sample_id"},
        "field": [_column(name, about, schema.field(name).type) for name, about in ABOUT.items()],
    }
    about = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.name,
        "description": f"{manifest.samples:,} samples of {manifest.images:,} pictures with Chinese captions.",
        "version": "1.0.0",
        "identifier": manifest.digest,
        "inLanguage": "zh",
        "license": "Each picture stays under the licence of its page.",
        "url": "README.md",
        "isLiveDataset": False,
        "distribution": [*_tables(folder, manifest), *_tars(manifest)],
        "recordSet": [samples, *([_pictures()] if manifest.shards else [])],
    }
    return json.dumps(about, ensure_ascii=False, indent=1) + "\n"


def _tables(folder: Path, manifest: Manifest) -> list[dict[str, Any]]:
    sums = {"samples.parquet": manifest.samples_sha256, POEMS: manifest.poems_sha256}
    return [
        _file(name, "application/x-parquet", (folder / name).stat().st_size, sha256)
        for name, sha256 in sums.items()
        if sha256
    ]


def _tars(manifest: Manifest) -> list[dict[str, Any]]:
    tars = [_file(shard.name, "application/x-tar", shard.bytes, shard.sha256) for shard in manifest.shards]
    inside = {
        "@type": "cr:FileSet",
        "@id": "picture-files",
        "name": "picture-files",
        "containedIn": [{"@id": tar["@id"]} for tar in tars],
        "encodingFormat": "image/jpeg",
        "includes": f"*.{PICTURE}",
    }
    return [*tars, inside] if tars else []


def _file(name: str, encoding: str, size: int, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": encoding,
        "sha256": sha256,
    }


def _column(name: str, about: str, kind: pa.DataType) -> dict[str, Any]:
    field = {
        "@type": "cr:Field",
        "@id": f"samples/{name}",
        "name": name,
        "description": about,
        "dataType": "sc:Integer" if pa.types.is_integer(kind) else "sc:Text",
        "source": {"fileObject": {"@id": "samples.parquet"}, "extract": {"column": name}},
    }
    return field | ({"repeated": True} if pa.types.is_list(kind) else {})


def _pictures() -> dict[str, Any]:
    """Pictures by the hex of their sample_id."""
    sources = {
        "sample_id": (
            "sc:Text",
            {"extract": {"fileProperty": "filename"}, "transform": {"regex": r"^([0-9a-f]{32})\."}},
        ),
        "image": ("sc:ImageObject", {"extract": {"fileProperty": "content"}}),
    }
    return {
        "@type": "cr:RecordSet",
        "@id": "pictures",
        "name": "pictures",
        "description": "The pictures of the tars here.",
        "key": {"@id": "pictures/sample_id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"pictures/{name}",
                "name": name,
                "dataType": kind,
                "source": {"fileSet": {"@id": "picture-files"}, **source},
            }
            for name, (kind, source) in sources.items()
        ],
    }
