"""Prompts → pictures that a teacher draws of them: a pipeline of diffusers on Ray's actors, and a row a prompt."""

import inspect
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.fs as pafs
from PIL import Image

from filters.picture import read_header
from filters.weights import folder, model_digest
from pipelines import chat
from pipelines.blob import Blob
from pipelines.candidates import NO_WORDS
from pipelines.corpus import Corpus
from pipelines.files import Place
from pipelines.models import each
from pipelines.stage import Rows, Stage, derive
from pipelines.tombstones import Tombstones
from pipelines.views import literal
from pipelines.web import FORGOTTEN
from schemas.errors import JuZhouError, in_words
from schemas.identity import CANDIDATE_ID, URL_ID, digest, sql_digest
from schemas.recipe import Synthesis
from schemas.tables import CANDIDATES, FETCHES, SYNTHESES, Status, Table

READERS = {
    ".parquet": "read_parquet({})",
    ".jsonl": "read_json({}, format = 'newline_delimited', sample_size = -1)",
    ".csv": "read_csv({}, header = true, all_varchar = true)",
}
PACKED = ("", ".gz", ".zst")
TAR_PICTURES = 32
"""Pictures drawn before they are put down, in one tar: what a kill costs a worker at most."""
CONTROL = {"prompt": "a cat on a red chair", "negative_prompt": None, "seed": 0}
"""What a teacher that cannot draw it cannot draw at all."""


SEED = "('0x' || left(sha256(prompt), 8))::BIGINT"
"""The seed of a prompt that names none, as SQL."""

OF_POEMS = f"SELECT DISTINCT prompt, negative_prompt, {SEED} AS seed FROM pairs WHERE prompt IS NOT NULL"
"""What poems ask for: poems that show the same are drawn once in a style."""


def prompts(name: str, source: Synthesis) -> pa.Table:
    """Each prompt with its negative prompt and its seed, once: `prompt`, `negative_prompt` or missing, `seed` (int64).

    Without a seed that is a whole number, it is the first four bytes of the prompt's digest. Blank prompts ask for
    nothing and are left out.

    Raises:
        JuZhouError: there are no such files, they cannot be read, or lack a column.
    """
    with _listed(name, source) as listed, duckdb.connect() as connection:
        try:
            columns = connection.sql(f"SELECT * FROM {listed} LIMIT 0").columns
            for wanted in (source.prompt, source.negative_prompt, source.seed):
                if wanted is not None and wanted not in columns:
                    raise JuZhouError(f"{source.path}: no column '{wanted}'; it has {', '.join(columns)}")
            return connection.sql(f"""
                SELECT DISTINCT prompt, negative_prompt, coalesce(seed, {SEED}) AS seed FROM (
                    SELECT {_column(source.prompt)}::VARCHAR AS prompt,
                        nullif({_column(source.negative_prompt)}::VARCHAR, '') AS negative_prompt,
                        TRY_CAST({_column(source.seed)} AS BIGINT) AS seed
                    FROM {listed}
                ) WHERE trim(prompt) <> ''
            """).to_arrow_table()
        except duckdb.Error as error:
            raise JuZhouError(f"{source.path}: {str(error).splitlines()[0]}; mend the file and run again") from error


def synthesis_stage(corpus: Corpus, name: str, source: Synthesis) -> Stage:
    """The prompts of a source, or of poems, of which its teacher has drawn no picture yet with these steps, guidance
    and size.

    One seed is one noise on whatever device. A batch of several prompts may round otherwise than each alone: where
    equal bytes are wanted on any machine, `batch` is 1.

    Raises:
        JuZhouError: the prompts cannot be read, or the teacher is not there.
    """
    teacher = model_digest(source.teacher)
    about = "\n".join([name, teacher, str(source.steps), str(source.guidance), str(source.size)])
    whole = f"{literal(about)}, seed, strlen(prompt), prompt, coalesce(negative_prompt, '')"
    synthesis_id = sql_digest(f"concat_ws(chr(10), {whole})")
    asked = "prompts" if source.path else f"({OF_POEMS})"
    return Stage(
        name=f"draw {name}",
        key=("synthesis_id",),
        inputs=f"SELECT {synthesis_id} AS synthesis_id, prompt, negative_prompt, seed FROM {asked}",
        outputs=(SYNTHESES,),
        work=lambda: _Draw(corpus.blobs, name, source, teacher, Tombstones.of(corpus)),
        batch=source.batch * max(1, TAR_PICTURES // source.batch),
        given={"prompts": prompts(name, source)} if source.path else {},
        gpu=True,
    )


def add_candidates(corpus: Corpus, name: str, translations: Table | None, recipe: str) -> int:
    """Each picture that a source has, with its prompt in Chinese, and say how many are new.

    Args:
        translations: where the Chinese is; None where the prompts are.
    """
    if translations:
        chinese = f"(SELECT synthesis_id, text FROM ({chat.rows(corpus, translations)}) WHERE status = 'ok')"
        caption, caption_from, joined = "text", "translation", f"JOIN {chinese} USING (synthesis_id)"
    else:
        caption, caption_from, joined = "prompt", "prompt", ""
    return derive(
        corpus,
        CANDIDATES,
        f"""
        SELECT {CANDIDATE_ID} AS candidate_id, source, {URL_ID} AS url_id, url, caption,
            {literal(caption_from)} AS caption_from, {NO_WORDS} AS words, NULL::VARCHAR AS page_url,
            NULL::VARCHAR AS licence, drawn_at AS found_at, {literal(recipe)} AS recipe
        FROM (
            SELECT source, {_URL} AS url, {caption} AS caption, drawn_at
            FROM syntheses {joined} WHERE source = {literal(name)} AND syntheses.status = 'ok'
        )
        """,
    )


def add_fetches(corpus: Corpus, name: str) -> int:
    """What became of each prompt of a source, as the one attempt at its URL, and say how many are new."""
    return derive(
        corpus,
        FETCHES,
        f"""
        SELECT {URL_ID} AS url_id, 1::INT AS attempt, NULL::VARCHAR AS final_url, NULL::INT AS http_code,
            true AS asked, drawn_at AS fetched_at, NULL::TIMESTAMPTZ AS retry_at, * EXCLUDE (drawn_at)
        FROM (SELECT {_URL} AS url, * FROM syntheses WHERE source = {literal(name)})
        """,
    )


_URL = "'synthesis:' || source || '/' || lower(hex(synthesis_id))"
"""What names a drawn picture among the candidates, as SQL."""


@contextmanager
def _listed(name: str, source: Synthesis) -> Iterator[str]:
    """The files of a source as something that DuckDB selects from; what an object store holds is copied for the time.

    Raises:
        JuZhouError: there are no files, or of several formats.
    """
    assert source.path
    place = Place.of(source.path)
    endings = {format + packed: format for format in READERS for packed in PACKED}
    paths = place.listed(name, list(endings)).column("path").to_pylist()
    formats = {format for ending, format in endings.items() if any(path.lower().endswith(ending) for path in paths)}
    if len(formats) > 1:
        raise JuZhouError(f"{source.path}: {' and '.join(sorted(formats))} files; say by a glob which are meant")
    with tempfile.TemporaryDirectory(prefix="juzhou-prompts-") as copies:
        root = place.root
        if not isinstance(place.filesystem, pafs.LocalFileSystem):
            root = copies
            for path in paths:
                (Path(copies) / path).parent.mkdir(parents=True, exist_ok=True)
                pafs.copy_files(f"{place.root}/{path}", f"{copies}/{path}", source_filesystem=place.filesystem)
        files = ", ".join(literal(f"{root}/{path}") for path in paths)
        yield READERS[formats.pop()].format(f"[{files}]")


def _column(name: str | None) -> str:
    """A column as SQL; NULL where there is none."""
    return "NULL" if name is None else '"' + name.replace('"', '""') + '"'


class Teacher:
    """A pipeline of diffusers, loaded and known to draw."""

    def __init__(self, source: Synthesis) -> None:
        """Load the pipeline from its own files alone, pickles excluded, and draw the control.

        Raises:
            JuZhouError: it cannot be loaded, or cannot draw in the size that the recipe asks for.
        """
        from diffusers.pipelines.pipeline_utils import DiffusionPipeline

        from model.device import pick, precision

        device = pick()
        try:
            self._pipeline: Any = DiffusionPipeline.from_pretrained(
                folder(source.teacher), dtype=precision(device), local_files_only=True, use_safetensors=True
            ).to(device)
        except Exception as error:  # of diffusers, of transformers and of whatever else the folder names
            raise JuZhouError(f"{source.teacher}: no pipeline that diffusers can load: {in_words(error)}") from error
        self._pipeline.set_progress_bar_config(disable=True)
        takes = inspect.signature(type(self._pipeline).__call__).parameters
        # Where both are taken and guidance_scale has no value of its own, it is for distilled models.
        free = "true_cfg_scale" in takes and ("guidance_scale" not in takes or takes["guidance_scale"].default is None)
        guidance = "true_cfg_scale" if free else "guidance_scale"
        told = {"num_inference_steps": source.steps, guidance: source.guidance}
        told |= {"height": source.size, "width": source.size}
        self._told = {key: value for key, value in told.items() if key in takes}
        # Without a column there is none to tell, but such a pipeline guides by nothing unless it is told of one.
        self._negative = "negative_prompt" in takes and (free or not source.path or source.negative_prompt is not None)
        try:
            self([CONTROL])
        except Exception as error:
            raise JuZhouError(f"{source.teacher}: cannot draw at {source.size}²: {in_words(error)}") from error

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes | Exception]:
        """The PNG, without metadata, for each row's `prompt`, `negative_prompt` and `seed`.

        An error stands in place of a picture that the pipeline's own safety checker blanked.
        """
        import torch

        told = self._told | {
            "prompt": [row["prompt"] for row in rows],
            "generator": [torch.Generator("cpu").manual_seed(row["seed"]) for row in rows],
        }
        if self._negative:
            told["negative_prompt"] = [row["negative_prompt"] or "" for row in rows]
        result = self._pipeline(**told)
        blanked = getattr(result, "nsfw_content_detected", None) or [False] * len(rows)
        return [
            ValueError("blanked by the teacher's safety checker") if blank else _png(picture)
            for picture, blank in zip(result.images, blanked, strict=True)
        ]


def _png(picture: Image.Image) -> bytes:
    sink = io.BytesIO()
    picture.convert("RGB").save(sink, "png")
    return sink.getvalue()


class _Draw:
    """A batch of prompts → one tar of PNGs and a row a prompt."""

    def __init__(self, blobs: Path, name: str, source: Synthesis, teacher: str, forgotten: Tombstones) -> None:
        self._blobs = blobs
        self._forgotten = forgotten
        self._source = source
        self._about = {"source": name, "model": teacher, "steps": source.steps, "guidance": source.guidance}

    def __call__(self, batch: pa.Table) -> Rows:
        rows = batch.to_pylist()
        at_once = self._source.batch
        drawn = [
            picture
            for start in range(0, len(rows), at_once)
            for picture in each(self._teacher, rows[start : start + at_once], CONTROL)
        ]
        with Blob(self._blobs) as blob:
            kept = [self._kept(blob, picture) for picture in drawn]
        return self._rows(
            (row, outcome | (blob.location(outcome["image_id"]) if "image_id" in outcome else {}))
            for row, outcome in zip(rows, kept, strict=True)
        )

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return self._rows((row, {"status": Status.PERMANENT, "error": error}) for row in batch.to_pylist())

    @cached_property
    def _teacher(self) -> Teacher:
        return Teacher(self._source)

    def _kept(self, blob: Blob, picture: bytes | Exception) -> dict[str, Any]:
        if isinstance(picture, Exception):
            return {"status": Status.PERMANENT, "error": in_words(picture)}
        image_id = digest(picture)
        if image_id in self._forgotten.images:
            return {"status": Status.DISALLOWED, "error": FORGOTTEN, "prompt": "", "negative_prompt": None}
        blob.add(image_id, picture)
        return {"status": Status.OK, "image_id": image_id} | vars(read_header(picture))

    def _rows(self, outcomes: Iterator[tuple[dict[str, Any], dict[str, Any]]]) -> Rows:
        now = datetime.now(UTC)
        columns = ("synthesis_id", "prompt", "negative_prompt", "seed")
        rows = [
            {column: row[column] for column in columns} | self._about | {"drawn_at": now} | outcome
            for row, outcome in outcomes
        ]
        return [(SYNTHESES, pa.Table.from_pylist(rows, schema=SYNTHESES.schema))]
