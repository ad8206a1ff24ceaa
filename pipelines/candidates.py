"""What the sources found, as candidates: whatever the kind of source, the same rows, each once."""

from collections.abc import Collection

from pipelines.corpus import Corpus
from pipelines.stage import derive
from pipelines.views import literal
from pipelines.web import FORGOTTEN
from schemas.identity import CANDIDATE_ID, URL_ID
from schemas.tables import CANDIDATES, FETCHES, OUTCOME, WORDS

NO_WORDS = f"NULL::STRUCT({', '.join(f'{word.name} VARCHAR' for word in WORDS)})"
"""The words of a picture that no page shows, as SQL."""


def of_pages(corpus: Corpus, sources: Collection[str], recipe: str) -> int:
    """Every picture that a page shows, with its words; on several pages, as the page with the least URL has it."""
    return _derive(corpus, f"SELECT source, fetched_at, unnest(pictures) AS found FROM pages {_of(sources)}", recipe)


def of_files(corpus: Corpus, sources: Collection[str], recipe: str) -> int:
    """Every picture that a file holds, with its words; what was taken down has none."""
    found = f"SELECT source, read_at, unnest(pictures) AS found FROM files {_of(sources)}"
    return _derive(corpus, f"FROM ({found}) WHERE found.error IS DISTINCT FROM {literal(FORGOTTEN)}", recipe)


def fetches_of_files(corpus: Corpus) -> int:
    """What was read from files stands among the fetches: a picture that changes in its place is had once more."""
    columns = ", ".join(f'found."{name}" AS "{name}"' for name in OUTCOME)
    return derive(
        corpus,
        FETCHES,
        f"""
        SELECT {URL_ID} AS url_id, row_number() OVER (PARTITION BY url ORDER BY fetched_at, image_id)::INT AS attempt, *
        FROM (
            SELECT found.url AS url, NULL::VARCHAR AS final_url, NULL::INT AS http_code, false AS asked,
                read_at AS fetched_at, NULL::TIMESTAMPTZ AS retry_at, {columns}
            FROM (SELECT read_at, unnest(pictures) AS found FROM files)
        )
        """,
    )


def _derive(corpus: Corpus, found: str, recipe: str) -> int:
    """Candidates out of a query of source, time and a struct `found`; of equals, that with the least page URL."""
    query = f"""
        SELECT {CANDIDATE_ID} AS candidate_id, source, {URL_ID} AS url_id, url, caption, caption_from, words, page_url,
            licence, found_at, {literal(recipe)} AS recipe
        FROM (SELECT source, found_at, unnest(found) FROM ({found}) AS all_found(source, found_at, found))
        QUALIFY row_number() OVER (PARTITION BY source, url, caption ORDER BY page_url, found_at) = 1
    """
    return derive(corpus, CANDIDATES, query)


def _of(sources: Collection[str]) -> str:
    return f"WHERE source IN ({', '.join(map(literal, sources)) or 'NULL'})"
