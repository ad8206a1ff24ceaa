"""Reviews on the disk: a row each, there before it is acknowledged, and never changed."""

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.audit.sampling import UNDONE
from pipelines.corpus import Corpus
from schemas.errors import JuZhouError
from schemas.tables import REVIEWS

TRIES = 30
"""Each after a longer wait, some seconds in all: a build sweeps once, when it begins."""
OPINIONS = ("keep", "drop", "unsure")
NOTE_LENGTH = 2_000


@dataclass(frozen=True)
class Review:
    """What a reviewer says of a sample; without an opinion it is a note alone."""

    sample_id: bytes
    opinion: str | None
    note: str | None = None
    policy: str | None = None
    drawn_by: str | None = None


class Ledger:
    """A reviewer's session. When `write` returns, the row is on the disk, whatever happens to the process then.

    A review needs no right to write (`Corpus.writing`), which a running build has: a part is whole by its rename, and
    nobody else adds the same row. The build's sweep of what killed processes left half-written may take a half-written
    part away; it is written again.
    """

    def __init__(self, corpus: Corpus, reviewer: str) -> None:
        self.reviewer = reviewer
        self._corpus = corpus
        self._lock = threading.Lock()
        self._last = datetime.min.replace(tzinfo=UTC)

    def write(self, review: Review) -> dict[str, Any]:
        """Add a row, and give it.

        Raises:
            JuZhouError: the opinion is none of OPINIONS, there is neither an opinion nor a note, or it is too long.
        """
        if review.opinion is not None and review.opinion not in OPINIONS:
            raise JuZhouError(f"an opinion is one of {', '.join(OPINIONS)}")
        if review.opinion is None and not review.note:
            raise JuZhouError("a review without an opinion wants a note")
        if len(review.note or "") > NOTE_LENGTH:
            raise JuZhouError(f"a note has up to {NOTE_LENGTH:,} characters")
        with self._lock:
            return self._append(review)

    def undo(self, sample_id: bytes, policy: str | None = None) -> dict[str, Any]:
        """Take one's last opinion on a sample back, by a new row with the one before it: `unsure` if there was none.

        Raises:
            JuZhouError: there is none of this reviewer to take back.
        """
        with self._lock:
            standing: list[dict[str, Any]] = []
            for row in self.of(sample_id):
                if row["opinion"] is None:
                    continue
                if row["note"] == UNDONE and standing:
                    standing.pop()
                elif row["note"] != UNDONE:
                    standing.append(row)
            if not standing or standing[-1]["reviewer"] != self.reviewer:
                raise JuZhouError("there is no opinion of yours on this sample to take back")
            drawn_by = standing.pop()["drawn_by"]
            before = standing[-1]["opinion"] if standing else "unsure"
            row = self._append(Review(sample_id, before, UNDONE, policy, drawn_by))
            return row | {"opinion": standing[-1]["opinion"] if standing else None}

    def of(self, sample_id: bytes) -> list[dict[str, Any]]:
        """All rows on a sample, oldest first."""
        return self.rows(f"WHERE sample_id = unhex('{sample_id.hex()}')").to_pylist()

    def rows(self, where: str = "") -> pa.Table:
        """All rows, by anyone, in the order of time."""
        if not self._corpus.parts(REVIEWS.path):
            return REVIEWS.schema.empty_table()
        query = f"SELECT * FROM {self._corpus.rows_of(REVIEWS)} {where} ORDER BY reviewed_at, reviewer, sample_id"
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return connection.sql(query).to_arrow_table().cast(REVIEWS.schema)

    def _append(self, review: Review) -> dict[str, Any]:
        """Add a row as a part of its own: an opinion a second or so is what a person gives."""
        self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
        row = vars(review) | {"reviewed_at": self._last, "reviewer": self.reviewer}
        for attempt in range(TRIES):
            try:
                self._corpus.append(REVIEWS, pa.Table.from_pylist([row], REVIEWS.schema))
                return row
            except FileNotFoundError:
                if attempt == TRIES - 1:
                    raise
                time.sleep(0.005 * attempt)
        raise AssertionError("unreachable")
