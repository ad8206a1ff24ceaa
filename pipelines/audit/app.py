"""The routes of the audit: thin, for each page a question and a template."""

import csv
import io
import json
import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import duckdb
import jinja2
import pyarrow.parquet as pq
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from pipelines.audit import questions, sampling
from pipelines.audit.guard import Guard, is_loopback
from pipelines.audit.ledger import OPINIONS, Ledger, Review
from pipelines.audit.pictures import PICTURE_PX, THUMBNAIL_PX, Pictures
from pipelines.audit.sampling import Draw
from pipelines.audit.shelf import Criterion, Shelf, Shelves
from pipelines.corpus import Corpus
from schemas.errors import JuZhouError

HERE = Path(__file__).parent
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
MAX_DRAW = 10_000
PLACES = {"rule": "/rules", "review": "/draws", "draws": "/draws", "grid": "/", "sample": "/"}
"""Where in the menu a template belongs, if not under its own name."""


class Audit:
    """The pages over one corpus."""

    def __init__(self, corpus: Corpus, policy: Path | None, reviewer: str) -> None:
        self.corpus = corpus
        self.shelves = Shelves(corpus, policy)
        self.ledger = Ledger(corpus, reviewer)
        self.pictures = Pictures(corpus, self.shelves)
        self.console = questions.Console(corpus)
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"number": _number, "value": _value, "web": _is_web, "stand_in": _is_stand_in}

    def grid(self, request: Request) -> Response:
        asked = request.query_params
        wanted = questions.Filter(**{name: asked.get(name, "").strip() for name in asdict(questions.Filter())})
        shelf = self.shelves.now()
        page = questions.grid(shelf, wanted, asked.get("before", ""), asked.get("after", ""))
        self._expect(page.rows)
        filters = {name: value for name, value in asdict(wanted).items() if value}
        return self._page(
            shelf,
            "grid",
            page=page,
            wanted=wanted,
            found=questions.number_of(shelf, wanted),
            here=_link("/", filters),
            before=page.before and _link("/", filters | {"before": page.before}),
            after=page.after and _link("/", filters | {"after": page.after}),
        )

    def sample(self, request: Request) -> Response:
        shelf = self.shelves.now()
        sample = questions.history(shelf, self.corpus, _id(request))
        if sample is None:
            raise HTTPException(404, "there is no such sample in the corpus")
        self._expect(sample["group"])
        picture = self.pictures.get(sample["image_id"], PICTURE_PX)
        return self._page(shelf, "sample", sample=sample, broken=picture.broken)

    def rules(self, request: Request) -> Response:
        return self._page(self.shelves.now(), "rules")

    def rule(self, request: Request) -> Response:
        """A rule with its slider, what its threshold would change, and both sides of it."""
        shelf = self.shelves.now()
        criterion = _criterion(shelf, request)
        spread = questions.spread(shelf, criterion) if criterion.column else None
        context = self._moved(shelf, criterion, request) if spread else {}
        return self._page(shelf, "rule", criterion=criterion, spread=spread, **context)

    def what_if(self, request: Request) -> Response:
        shelf = self.shelves.now()
        criterion = _criterion(shelf, request)
        if not criterion.column:
            raise HTTPException(404, "this rule has no threshold to move")
        context = self._moved(shelf, criterion, request)
        return self._page(shelf, "what_if", criterion=criterion, **context)

    def duplicates(self, request: Request) -> Response:
        shelf = self.shelves.now()
        asked = request.query_params
        page = questions.groups(shelf, asked.get("before", ""), asked.get("after", ""))
        self._expect([picture for group in page.rows for picture in group["pictures"]])
        before = page.before and _link("/duplicates", {"before": page.before})
        after = page.after and _link("/duplicates", {"after": page.after})
        return self._page(shelf, "duplicates", page=page, before=before, after=after, whole=False)

    def group(self, request: Request) -> Response:
        shelf = self.shelves.now()
        pictures = questions.group_of(shelf, _id(request))
        if not pictures:
            raise HTTPException(404, "no picture stands for others under this id")
        self._expect(pictures)
        page = questions.Page([{"id": _id(request), "size": len(pictures), "pictures": pictures}], None, None)
        return self._page(shelf, "duplicates", page=page, before=None, after=None, whole=True)

    def draws(self, request: Request) -> Response:
        return self._page(self.shelves.now(), "draws", seed=secrets.randbelow(10_000))

    def review(self, request: Request) -> Response:
        """One sample of a draw at a time."""
        shelf = self.shelves.now()
        asked = request.query_params
        draw = Draw(
            asked.get("by", "rule") == "rule",
            _whole(asked.get("size", "10"), 1, MAX_DRAW),
            _whole(asked.get("seed", "0"), 0, 2**63 - 1),
            asked.get("rule") or None,
        )
        drawn = draw.samples(shelf)
        at = _whole(asked.get("at", "1"), 1, max(1, len(drawn)))
        ids = [sample_id for sample_id, _ in drawn]
        opinions = {row["sample_id"]: row["opinion"] for row in questions.some(shelf, ids)}
        done = sum(opinion is not None for opinion in opinions.values())
        terms = {name: asked[name] for name in ("by", "size", "seed", "rule") if asked.get(name)}
        open_ = next((place for place, one in enumerate(ids, 1) if opinions.get(one) is None), None)
        return self._page(
            shelf,
            "review",
            sample=questions.history(shelf, self.corpus, ids[at - 1]) if drawn else None,
            drawn_by=drawn[at - 1][1] if drawn else "",
            at=at,
            total=len(drawn),
            done=done,
            before=_link("/review", terms | {"at": at - 1}) if at > 1 else None,
            after=_link("/review", terms | {"at": at + 1}) if at < len(drawn) else None,
            open=_link("/review", terms | {"at": open_}) if open_ else None,
        )

    def estimates(self, request: Request) -> Response:
        shelf = self.shelves.now()
        found = sampling.estimates(shelf)
        kept = [one for one in found if one.stratum == sampling.KEPT]
        rejected = [one for one in found if one.stratum != sampling.KEPT]
        return self._page(
            shelf,
            "estimates",
            kept=kept,
            rejected=rejected,
            overall_rejected=sampling.overall(rejected),
            overall=sampling.overall(found),
            others=sampling.other_policies(shelf),
            rows=sampling.rows(shelf),
        )

    async def post_review(self, request: Request) -> Response:
        said = await _body(request)
        return await run_in_threadpool(self._store, said)

    def _store(self, said: Mapping[str, Any]) -> Response:
        shelf = self.shelves.now()
        sample_id = _from_hex(said.get("sample_id"))
        if not questions.some(shelf, [sample_id]):
            raise HTTPException(404, "there is no such sample in the corpus")
        if said.get("undo"):
            row = self.ledger.undo(sample_id, shelf.digest)
        else:
            drawn_by = said.get("drawn_by") or None
            if drawn_by is not None and drawn_by not in _draw_names(shelf):
                raise JuZhouError("there is no such draw")
            opinion, note = (said.get(name) or None for name in ("opinion", "note"))
            if not all(text is None or isinstance(text, str) for text in (opinion, note)):
                raise JuZhouError("opinion and note are texts")
            row = self.ledger.write(Review(sample_id, opinion, note, shelf.digest, drawn_by))
        return JSONResponse({"sample_id": sample_id.hex(), "opinion": row["opinion"], "note": row["note"]})

    def export_csv(self, request: Request) -> Response:
        rows = self.ledger.rows()
        sink = io.StringIO()
        table = csv.writer(sink, lineterminator="\n")
        table.writerow(rows.column_names)
        for row in rows.to_pylist():
            row |= {"sample_id": row["sample_id"].hex(), "reviewed_at": row["reviewed_at"].isoformat()}
            table.writerow(row.values())
        return _download(sink.getvalue().encode(), "text/csv; charset=utf-8", "reviews.csv")

    def export_parquet(self, request: Request) -> Response:
        sink = io.BytesIO()
        pq.write_table(self.ledger.rows(), sink, compression="zstd")
        return _download(sink.getvalue(), "application/vnd.apache.parquet", "reviews.parquet")

    def sql(self, request: Request) -> Response:
        return self._page(self.shelves.now(), "sql", query=request.query_params.get("query", ""))

    async def post_sql(self, request: Request) -> Response:
        query = (await _body(request)).get("query")
        if not isinstance(query, str) or not query.strip():
            raise JuZhouError("ask something")
        return await run_in_threadpool(self._answer, request.scope["session"], query)

    def _answer(self, session: str, query: str) -> Response:
        columns, rows, more = self.console.ask(session, query)
        return self._page(self.shelves.now(), "answer", columns=columns, rows=rows, more=more, limit=questions.SQL_ROWS)

    def thumbnail(self, request: Request) -> Response:
        return self._picture(request, THUMBNAIL_PX)

    def picture(self, request: Request) -> Response:
        return self._picture(request, PICTURE_PX)

    def _picture(self, request: Request, longest: int) -> Response:
        encoded = self.pictures.get(_id(request), longest)
        headers = {"Cache-Control": "no-store"} if encoded.broken else FOREVER
        return Response(encoded.content, media_type=encoded.kind, headers=headers)

    def _moved(self, shelf: Shelf, criterion: Criterion, request: Request) -> dict[str, Any]:
        """What a threshold changes, and its two sides."""
        try:
            threshold = float(request.query_params.get("threshold") or criterion.limit)
        except ValueError:
            raise JuZhouError("a threshold is a number") from None
        change = questions.change(shelf, criterion, threshold)
        passing = questions.side(shelf, criterion, threshold, True)
        failing = questions.side(shelf, criterion, threshold, False)
        self._expect([*change.entering, *change.leaving, *passing.rows, *failing.rows])
        return {"change": change, "passing": passing, "failing": failing, "line": criterion.line(threshold)}

    def _expect(self, rows: list[dict[str, Any]]) -> None:
        self.pictures.expect([row["image_id"] for row in rows if row["image_id"]])

    def _page(self, shelf: Shelf | None, template: str, status: int = 200, **context: Any) -> Response:
        page = self._templates.get_template(f"{template}.html.j2").render(
            shelf=shelf,
            corpus="/".join(self.corpus.path.parts[-2:]),
            reviewer=self.ledger.reviewer,
            opinions=OPINIONS,
            place=PLACES.get(template, f"/{template}"),
            **context,
        )
        return HTMLResponse(page, status)

    def failed(self, request: Request, error: Exception) -> Response:
        """One line on what went wrong: as JSON or text for a script, as a page for a person."""
        said = " ".join(str(error).split())
        status = 400 if isinstance(error, JuZhouError) else 500
        if isinstance(error, HTTPException):
            status, said = error.status_code, error.detail
        if status == 500:
            logging.getLogger(__name__).exception("the audit failed", exc_info=error)
            said = f"{type(error).__name__}: {said}"
        if request.method == "POST":
            return JSONResponse({"error": said[:2_000]}, status)
        return self._page(None, "error", status, said=said)


def app(
    corpus: Corpus, policy: Path | None, reviewer: str, host: str = "127.0.0.1", token: str | None = None
) -> ASGIApp:
    """The audit as an ASGI application.

    Args:
        policy: the policy that the verdicts are of, where the corpus does not remember it.
        host: what it is bound to.
        token: what one must bring to be let in.

    Raises:
        JuZhouError: the policy cannot be read.
    """
    audit = Audit(corpus, policy, reviewer)
    get: dict[str, Callable[[Request], Response]] = {
        "/": audit.grid,
        "/samples/{id}": audit.sample,
        "/rules": audit.rules,
        "/rules/{name}": audit.rule,
        "/rules/{name}/what-if": audit.what_if,
        "/duplicates": audit.duplicates,
        "/duplicates/{id}": audit.group,
        "/draws": audit.draws,
        "/review": audit.review,
        "/estimates": audit.estimates,
        "/reviews.csv": audit.export_csv,
        "/reviews.parquet": audit.export_parquet,
        "/sql": audit.sql,
        "/thumbnails/{id}": audit.thumbnail,
        "/pictures/{id}": audit.picture,
    }
    routes = [Route(path, endpoint, methods=["GET"]) for path, endpoint in get.items()]
    routes += [
        Route("/reviews", audit.post_review, methods=["POST"]),
        Route("/sql", audit.post_sql, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = dict.fromkeys((HTTPException, JuZhouError, duckdb.Error, OSError), audit.failed)
    pages = Starlette(
        routes=[*routes, Mount("/static", StaticFiles(directory=HERE / "static"))], exception_handlers=handlers
    )
    return Guard(pages, host, token)


def serve(corpus: Corpus, policy: Path | None, reviewer: str, host: str, port: int, say: Callable[[str], None]) -> None:
    """Answer until stopped.

    Args:
        policy: the one of the current verdicts when left out.
        port: a free one for 0.

    Raises:
        JuZhouError: the policy cannot be read, or the address cannot be had.
    """
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise JuZhouError(
            f"{host}:{port} cannot be had ({os.strerror(error.errno or 0)}); name another with --port"
        ) from error
    # Head and body of an answer go out in two writes; without this each would wait 40 ms for the other side's word.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with closing(listening):
        pages = app(corpus, policy, reviewer, host, token)
        bound = listening.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        say(f"audit of {corpus.path}: http://{name}:{bound}/" + (f"?token={token}" if token else ""))
        config = uvicorn.Config(
            pages, lifespan="off", log_level="warning", access_log=False, server_header=False, date_header=False
        )
        uvicorn.Server(config).run(sockets=[listening])


def _criterion(shelf: Shelf, request: Request) -> Criterion:
    found = shelf.criteria.get(request.path_params["name"])
    if found is None:
        raise HTTPException(404, "there is no such rule in the policy or the verdicts")
    return found


def _draw_names(shelf: Shelf) -> set[str]:
    return {sampling.RANDOM, sampling.KEPT, *(f"rule:{name}" for name in shelf.criteria)}


async def _body(request: Request) -> dict[str, Any]:
    try:
        said = json.loads(await request.body())
    except ValueError:
        raise JuZhouError("JSON is wanted") from None
    if not isinstance(said, dict):
        raise JuZhouError("a JSON object is wanted")
    return said


def _id(request: Request) -> bytes:
    return _from_hex(request.path_params["id"].partition(".")[0])


def _from_hex(text: object) -> bytes:
    try:
        return bytes.fromhex(str(text))
    except ValueError:
        raise HTTPException(404, "this is no id") from None


def _whole(text: str, least: int, most: int) -> int:
    try:
        return min(max(int(text), least), most)
    except ValueError:
        raise JuZhouError(f"'{text[:40]}' is no whole number") from None


def _link(path: str, asked: Mapping[str, Any]) -> str:
    return f"{path}?{urlencode(asked)}" if asked else path


def _download(content: bytes, kind: str, name: str) -> Response:
    return Response(content, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _number(value: object) -> str:
    """A number as people read it."""
    if isinstance(value, bool) or value is None:
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value + 0.0:.4g}" if isinstance(value, float) else str(value)


def _value(value: object) -> str:
    """A column's value as people read it: vectors and hashes by their size or in hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple) and len(value) > 12:
        return f"{len(value):,} numbers" if isinstance(value[0], int | float) else f"{len(value):,} values"
    return _number(value)


def _is_web(url: object) -> bool:
    """Whether a text may be a link: nothing but http and https leads anywhere."""
    try:
        parts = urlsplit(str(url))
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _is_stand_in(name: str) -> bool:
    """Whether a measure only stands in for a real scorer, so that its numbers are comparable to no published ones."""
    return name.startswith("lite_") or name == "watermark"
