"""Language models at work on many texts: by an endpoint of OpenAI's protocol, or here; every answer held to rules."""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa
import requests
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from filters.weights import folder, model_digest
from model.refiner import framed, is_adapter, load_chat, messages
from pipelines.corpus import Corpus
from pipelines.models import each
from pipelines.retry import retry_after_s, retry_at
from pipelines.stage import Rows, Stage
from pipelines.views import literal
from schemas.errors import JuZhouError, in_words
from schemas.identity import fingerprint
from schemas.recipe import LanguageModel
from schemas.tables import Status, Table

WARMER = 0.3
"""What each attempt adds to the temperature of the first, which is 0."""
AT_ONCE = 16
"""Texts that a worker has in flight, at an endpoint or in a local model; a kill costs their answers."""
CONNECT_S = 10.0
TIMEOUT_S = 300.0
"""For one answer; a model that thinks takes its time."""
MAX_TOKENS = 4096
"""Of an answer, its thoughts included."""
PATIENCE_S = 60.0
"""How long a run waits for attempts that fall due."""
DOWN_S = 300.0
"""An endpoint that could not be connected to is not asked again within this: more than a run's patience."""
SIMPLIFIED = ">>cmn_Hans<<"
"""The token by which Marian's translators into Chinese are told the script."""

THOUGHTS = re.compile(r"^.*</think>|<think>.*", re.DOTALL)
QUOTED = re.compile(r"[\"“「『'‘]([^\"“”「」『』'‘’]*)[\"”」』'’]")


@dataclass(frozen=True)
class Task:
    """What a model is asked of each text, and by what rules its answers are taken."""

    instruction: str
    version: int
    """Of the rules below and of how it is asked."""
    control: str
    """A text that a model fails at which fails at everything."""
    longest: Callable[[str], int]
    """Characters that the answer to a text may have."""
    refusal: Callable[[str, str], str | None]
    """Why an answer, in one line, can be none to a text; None where it can."""
    tidied: Callable[[str], str] = str
    """What is kept of an answer in one line."""
    translates: bool = False
    """Whether a translator can do it, an encoder with a decoder that reads no instruction."""


@dataclass(frozen=True)
class Answer:
    """What a model said, word for word, or why it said nothing."""

    text: str = ""
    error: str | None = None
    """With the status `ok`: why what it said is of no use."""
    status: Status = Status.OK
    wait_s: float | None = None
    """How long to wait at least before it is asked again."""


def fingerprint_of(model: LanguageModel, task: Task) -> str:
    """A digest of model and task; where an endpoint is does not matter."""
    named = model.model if model.endpoint else model_digest(model.model)
    return fingerprint(version=task.version, instruction=task.instruction, model=named, here=not model.endpoint)


def rows(corpus: Corpus, table: Table) -> str:
    """A query for the rows of a table of answers, as many as there are when it is asked, be it none."""
    types = {table.key[0]: "BLOB", "status": "VARCHAR", "retry_at": "TIMESTAMPTZ", "text": "VARCHAR"}
    none = ", ".join(f"NULL::{kind} AS {name}" for name, kind in types.items())
    parts = literal(corpus.tables / table.path / "part-*.parquet")
    return f"SELECT {none} WHERE false UNION ALL BY NAME FROM read_parquet({parts}, allow_empty = true)"


def stage(corpus: Corpus, name: str, texts: str, table: Table, model: LanguageModel, task: Task) -> Stage:
    """Some texts, until each has its answer or no attempt is left.

    Transient failures are asked again when they fall due, in this run or in one to come.

    Args:
        texts: a query for them: the key of the table of answers but for the attempt, and `text`.
    """
    key = table.key[0]
    asked = f"""
        SELECT {key}, count(*) AS attempts, bool_or(status <> 'transient') AS settled, max(retry_at) AS retry_at
        FROM ({rows(corpus, table)}) GROUP BY {key}
    """
    left = f"NOT settled AND attempts < {model.attempts}"
    secret = secret_of(model)
    return Stage(
        name=name,
        key=table.key,
        inputs=f"""
            SELECT {key}, (coalesce(attempts, 0) + 1)::INT AS attempt, text
            FROM ({texts}) LEFT JOIN ({asked}) USING ({key})
            WHERE attempts IS NULL OR ({left} AND retry_at <= now())
        """,
        outputs=(table,),
        work=lambda: _Ask(table, model, task, secret),
        batch=AT_ONCE,
        due=f"SELECT min(retry_at) AS due FROM ({asked}) WHERE {left}",
        patience_s=PATIENCE_S,
        gpu=not model.endpoint,
    )


def cleaned(answer: str) -> str:
    """An answer in one line, without the thoughts before it and the quotes around it."""
    line = " ".join(THOUGHTS.sub("", answer).split())
    quoted = QUOTED.fullmatch(line)
    return quoted[1].strip() if quoted else line


class Endpoint:
    """A server that is asked for chat completions, some texts at a time."""

    def __init__(self, model: LanguageModel, task: Task, key: str | None, timeout_s: float = TIMEOUT_S) -> None:
        self._model = model
        self._task = task
        self._url = f"{str(model.endpoint).rstrip('/')}/chat/completions"
        self._timeout_s = timeout_s
        self._session = requests.Session()
        if key:
            self._session.auth = _Bearer(key)

    def __call__(self, texts: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Answer]]:
        """Each text (`text`, `attempt`) with the answer to it.

        Raises:
            JuZhouError: the endpoint wants another key, or refuses whatever it is asked.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from zip(texts, pool.map(self._answer, texts), strict=True)

    def _answer(self, row: dict[str, Any]) -> Answer:
        """The answer to a text. It is the text that is refused for good only if the control is not."""
        answer = self._ask(row)
        if answer.status is not Status.PERMANENT:
            return answer
        control = self._ask(_control(self._task))
        if control.status is Status.PERMANENT:
            raise JuZhouError(f"{self._url} refuses every text ({control.error}): check the endpoint and the model")
        return answer if control.status is Status.OK else control

    def _ask(self, row: dict[str, Any]) -> Answer:
        attempt = row["attempt"]
        asked = {
            "model": self._model.model,
            "messages": messages(self._task.instruction, row["text"]),
            "max_tokens": MAX_TOKENS,
            "temperature": _temperature(attempt),
        }
        if attempt > 1:
            asked["seed"] = attempt
        timeout_s = (CONNECT_S, self._timeout_s)
        try:
            response = self._session.post(self._url, json=asked, timeout=timeout_s, allow_redirects=False)
        except (MissingSchema, InvalidSchema, InvalidURL) as error:
            raise JuZhouError(f"{self._model.endpoint}: no endpoint's URL; http://127.0.0.1:8000/v1 is one") from error
        except requests.RequestException as error:
            reason = getattr(error.args[0], "reason", None) if error.args else None
            down = isinstance(reason, (NewConnectionError, ConnectTimeoutError))
            return Answer(error=type(error).__name__, status=Status.TRANSIENT, wait_s=DOWN_S if down else None)
        code = response.status_code
        if code in (401, 403):
            variable = self._model.key_variable
            raise JuZhouError(f"{self._url} refuses the key (HTTP {code}): set the environment variable {variable}")
        if code >= 300:
            status = Status.of_http(code)
            return Answer(
                error=f"HTTP {code}: {' '.join(response.text.split())[:200]}",
                status=status if status is Status.TRANSIENT else Status.PERMANENT,
                wait_s=retry_after_s(response.headers.get("Retry-After")),
            )
        try:
            [choice, *_] = response.json()["choices"]
            text = (choice["message"]["content"] or "").encode("utf-8", "replace").decode()
            return Answer(text, "cut off" if choice.get("finish_reason") == "length" else None)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return Answer(error=f"no chat completion: {response.text[:80]!r}")


class Here:
    """A model of transformers in this process: a translator, or a chat model that is asked as an endpoint is."""

    def __init__(self, model: str, task: Task) -> None:
        """Load the model from its own files and do the control.

        Raises:
            JuZhouError: it cannot be loaded, has no chat template where it needs one, or cannot generate.
        """
        from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

        from model.device import pick, precision

        self._task = task
        path = folder(model)
        try:
            self._translates = not is_adapter(path) and bool(AutoConfig.from_pretrained(path).is_encoder_decoder)
            if self._translates:
                self._tokenizer: Any = AutoTokenizer.from_pretrained(path)
                loaded: Any = AutoModelForSeq2SeqLM.from_pretrained(path, dtype=precision(pick()))
            else:
                loaded, self._tokenizer = load_chat(path, precision(pick()))
            self._model = loaded.to(pick()).eval()
        except Exception as error:  # of transformers and of whatever else the folder names
            raise JuZhouError(f"{model}: no model that transformers can load: {in_words(error)}") from error
        if self._translates and not task.translates:
            raise JuZhouError(
                f"{model}: a translator, which cannot be asked this; name a model that was taught to chat"
            )
        if not self._translates and not self._tokenizer.chat_template:
            raise JuZhouError(f"{model}: has no chat template; name a model that was taught to chat")
        try:
            self.generate([_control(task)])
        except Exception as error:
            raise JuZhouError(f"{model}: cannot generate: {in_words(error)}") from error

    def __call__(self, texts: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Answer]]:
        """Each text (`text`, `attempt`) with the answer to it; those of later attempts draw lots, each alone."""
        for attempt, group in groupby(sorted(texts, key=itemgetter("attempt")), key=itemgetter("attempt")):
            some, at_once = list(group), AT_ONCE if attempt == 1 else 1
            for start in range(0, len(some), at_once):
                asked = some[start : start + at_once]
                for row, answer in zip(asked, each(self.generate, asked, _control(self._task)), strict=True):
                    if isinstance(answer, Exception):
                        answer = Answer(error=in_words(answer), status=Status.PERMANENT)
                    yield row, answer

    def generate(self, texts: list[dict[str, Any]]) -> list[Answer]:
        """Answers to texts of one attempt: greedily at first, later by lots, with the attempt for a seed."""
        import torch

        attempt = texts[0]["attempt"]
        torch.manual_seed(attempt)
        how = {"do_sample": True, "temperature": _temperature(attempt)} if attempt > 1 else {"do_sample": False}
        read = [self._read(row["text"]) for row in texts]
        encoded = self._tokenizer(read, padding=True, add_special_tokens=self._translates, return_tensors="pt")
        inputs = {name: encoded[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
        # A Chinese character is a token or less, so that what is cut off would be refused for its length too.
        longest = max(self._task.longest(row["text"]) for row in texts)
        produced = self._model.generate(**inputs, max_new_tokens=longest, **how)
        produced = produced[:, 1 if self._translates else inputs["input_ids"].shape[1] :]
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        said = self._tokenizer.batch_decode(produced, skip_special_tokens=True)
        return [
            Answer(text, None if ends & set(tokens) else "cut off")
            for text, tokens in zip(said, produced.tolist(), strict=True)
        ]

    def _read(self, text: str) -> str:
        """What the model reads of a text; a translator into several kinds of Chinese is told which."""
        if self._translates:
            return f"{SIMPLIFIED} {text}" if SIMPLIFIED in self._tokenizer.get_vocab() else text
        return framed(self._tokenizer, self._task.instruction, text)


def opened(model: LanguageModel, task: Task, secret: str | None) -> Endpoint | Here:
    """What answers.

    Raises:
        JuZhouError: as its class.
    """
    return Endpoint(model, task, secret) if model.endpoint else Here(model.model, task)


def secret_of(model: LanguageModel) -> str | None:
    """The key of an endpoint, from this process's environment; workers have another."""
    return os.environ.get(model.key_variable) if model.endpoint else None


def asker(model: LanguageModel, task: Task) -> Callable[[str], str]:
    """The model, opened once: text → answer, here and now.

    Raises:
        JuZhouError: as `opened`; and when it is asked, if no attempt gives an answer that the rules take.
    """
    answering = opened(model, task, secret_of(model))

    def ask(text: str) -> str:
        why: str | None = None
        for attempt in range(1, model.attempts + 1):
            [(_, answer)] = answering([{"text": text, "attempt": attempt}])
            said, why = judged(task, text, answer) if answer.status is Status.OK else ("", answer.error)
            if not why:
                return said
        raise JuZhouError(f"{model.origin()}: no answer that can be used in {model.attempts} attempts; the last: {why}")

    return ask


def judged(task: Task, text: str, answer: Answer) -> tuple[str, str | None]:
    """What is kept of an answer that came, and why it is of no use; None where it is."""
    said = task.tidied(cleaned(answer.text))
    error = answer.error or task.refusal(text, said)
    return said, f"{error}: {said[:80]}" if error and said else error


class _Ask:
    """A batch of texts → an answer each, checked by the rules."""

    def __init__(self, table: Table, model: LanguageModel, task: Task, secret: str | None) -> None:
        self._table = table
        self._model = model
        self._task = task
        self._secret = secret

    def __call__(self, batch: pa.Table) -> Rows:
        return self._rows(self._row(row, answer) for row, answer in self._asked(batch.to_pylist()))

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return self._rows(self._row(row, Answer(error=error, status=Status.PERMANENT)) for row in batch.to_pylist())

    @cached_property
    def _asked(self) -> Endpoint | Here:
        return opened(self._model, self._task, self._secret)

    def _row(self, row: dict[str, Any], answer: Answer) -> dict[str, Any]:
        status, error, tries = answer.status, answer.error, row["attempt"]
        text = None
        if status is Status.OK:
            text, error = judged(self._task, row["text"], answer)
            if error:
                text, tries = None, 0  # it may be asked again at once
                status = Status.TRANSIENT if row["attempt"] < self._model.attempts else Status.PERMANENT
        again = retry_at(tries, self._model.retry_s, answer.wait_s) if status is Status.TRANSIENT else None
        return {name: row[name] for name in self._table.key} | {
            "status": status,
            "error": error,
            "answered_at": datetime.now(UTC),
            "retry_at": again,
            "text": text,
            "model": self._model.origin(),
        }

    def _rows(self, rows: Iterator[dict[str, Any]]) -> Rows:
        return [(self._table, pa.Table.from_pylist(list(rows), schema=self._table.schema))]


class _Bearer(requests.auth.AuthBase):
    """The key of an endpoint, which no .netrc overrides and no redirect gets."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _control(task: Task) -> dict[str, Any]:
    return {"text": task.control, "attempt": 1}


def _temperature(attempt: int) -> float:
    return min(WARMER * (attempt - 1), 1.0)
