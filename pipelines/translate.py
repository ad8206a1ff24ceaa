"""English → Chinese for the prompts of pictures that are there: by an endpoint of OpenAI's protocol, or here."""

import os
import re
from collections.abc import Iterator
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

from filters.characters import is_han
from filters.weights import folder, model_digest
from pipelines.corpus import Corpus
from pipelines.models import each
from pipelines.retry import retry_after_s, retry_at
from pipelines.stage import Rows, Stage
from pipelines.views import literal
from schemas.errors import JuZhouError, in_words
from schemas.identity import fingerprint
from schemas.recipe import Translate
from schemas.tables import Status, Table, translations_table

INSTRUCTION = (
    "把下面这段英文绘画提示词译成忠实而自然的简体中文。内容不增不减；人名、画派、风格与作品用通行的译名，没有译名的保留原文。"
    "只给出一行译文，不解释，不加引号，不加标题。"
)
VERSION = 1
"""Of the rules for an answer and of how it is asked for."""
CONTROL = {"prompt": "a cat on a red chair", "attempt": 1}
"""What a translator that fails at it fails at everything."""
LEAST_HAN = 0.3
"""Of an answer's letters; the others may be names."""
LONGEST = 2
"""Times the prompt's characters that an answer may have; Chinese takes about a third of English."""
ALWAYS_ALLOWED = 24
"""Characters that the answer to however short a prompt may have."""
WARMER = 0.3
"""What each attempt adds to the temperature of the first, which is 0."""
BATCH = 64
THREADS = 8
"""Requests in flight in one worker."""
HERE_AT_ONCE = 16
"""Prompts that a local model translates together."""
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
CHATTER = re.compile(
    r"^(?:好的|当然)[,，。!！]|^(?:以下|下面|这)(?:是|为).{0,12}(?:翻译|译文)|^(?:(?:简体)?中文|英文)?(?:翻译|译文)?(?:结果|如下)?[:：]"
    r"|^(?:sure\b|here(?:'s| is)\b|translation\b)|[（(](?:译?注|说明)[:：]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Answer:
    """What a translator said, word for word, or why it said nothing."""

    text: str = ""
    error: str | None = None
    """With the status `ok`: why what it said is of no use."""
    status: Status = Status.OK
    wait_s: float | None = None
    """How long to wait at least before it is asked again."""


def table_of(name: str, translate: Translate) -> Table:
    """Where the translations for a source's prompts lie; where the endpoint is does not matter."""
    model = translate.model if translate.endpoint else model_digest(translate.model)
    facts = fingerprint(version=VERSION, instruction=INSTRUCTION, model=model, here=not translate.endpoint)
    return translations_table(name, facts)


def rows(corpus: Corpus, table: Table) -> str:
    """A query for the rows of a table of translations, as many as there are when it is asked, be it none."""
    none = "NULL::BLOB AS synthesis_id, NULL::VARCHAR AS status, NULL::TIMESTAMPTZ AS retry_at, NULL::VARCHAR AS text"
    parts = literal(corpus.tables / table.path / "part-*.parquet")
    return f"SELECT {none} WHERE false UNION ALL BY NAME FROM read_parquet({parts}, allow_empty = true)"


def translation_stage(corpus: Corpus, name: str, translate: Translate, table: Table) -> Stage:
    """The prompts of the pictures that a source has, until each has its Chinese or no attempt is left.

    Transient failures are asked again when they fall due, in this run or in one to come.
    """
    asked = f"""
        SELECT synthesis_id, count(*) AS attempts, bool_or(status <> 'transient') AS settled, max(retry_at) AS retry_at
        FROM ({rows(corpus, table)}) GROUP BY synthesis_id
    """
    left = f"NOT settled AND attempts < {translate.attempts}"
    key = os.environ.get(translate.key_variable) if translate.endpoint else None
    return Stage(
        name=f"translate {name}",
        key=("synthesis_id", "attempt"),
        inputs=f"""
            SELECT synthesis_id, (coalesce(attempts, 0) + 1)::INT AS attempt, prompt
            FROM (SELECT synthesis_id, prompt FROM syntheses WHERE source = {literal(name)} AND status = 'ok')
            LEFT JOIN ({asked}) USING (synthesis_id)
            WHERE attempts IS NULL OR ({left} AND retry_at <= now())
        """,
        outputs=(table,),
        work=lambda: _Translate(table, translate, key),
        batch=BATCH,
        due=f"SELECT min(retry_at) AS due FROM ({asked}) WHERE {left}",
        patience_s=PATIENCE_S,
        gpu=not translate.endpoint,
    )


def cleaned(answer: str) -> str:
    """An answer in one line, without the thoughts before it and the quotes around it."""
    line = " ".join(THOUGHTS.sub("", answer).split())
    quoted = QUOTED.fullmatch(line)
    return quoted[1].strip() if quoted else line


def refusal(prompt: str, text: str) -> str | None:
    """Why a cleaned answer cannot be a translation of a prompt into Chinese; None where it can."""
    if not text:
        return "empty"
    if len(text) > _longest(prompt):
        return f"{len(text)} characters for {len(prompt)}"
    letters = [sign for sign in text if sign.isalpha()]
    han = sum(map(is_han, letters))
    if han < LEAST_HAN * max(1, len(letters)):
        return f"{han} Chinese of {len(letters)} letters"
    return "more than a translation" if CHATTER.search(text) else None


class Endpoint:
    """A server that is asked for chat completions, some prompts at a time."""

    def __init__(self, translate: Translate, key: str | None, timeout_s: float = TIMEOUT_S) -> None:
        self._translate = translate
        self._url = f"{str(translate.endpoint).rstrip('/')}/chat/completions"
        self._timeout_s = timeout_s
        self._session = requests.Session()
        if key:
            self._session.auth = _Bearer(key)

    def __call__(self, prompts: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Answer]]:
        """Each prompt (`prompt`, `attempt`) with the answer to it.

        Raises:
            JuZhouError: the endpoint wants another key, or refuses whatever it is asked.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            yield from zip(prompts, pool.map(self._answer, prompts), strict=True)

    def _answer(self, row: dict[str, Any]) -> Answer:
        """The answer to a prompt. It is the prompt that is refused for good only if the control is not."""
        answer = self._ask(row)
        if answer.status is not Status.PERMANENT:
            return answer
        control = self._ask(CONTROL)
        if control.status is Status.PERMANENT:
            raise JuZhouError(f"{self._url} refuses every prompt ({control.error}): check the endpoint and the model")
        return answer if control.status is Status.OK else control

    def _ask(self, row: dict[str, Any]) -> Answer:
        attempt = row["attempt"]
        asked = {
            "model": self._translate.model,
            "messages": _messages(row["prompt"]),
            "max_tokens": MAX_TOKENS,
            "temperature": _temperature(attempt),
        }
        if attempt > 1:
            asked["seed"] = attempt
        timeout_s = (CONNECT_S, self._timeout_s)
        try:
            response = self._session.post(self._url, json=asked, timeout=timeout_s, allow_redirects=False)
        except (MissingSchema, InvalidSchema, InvalidURL) as error:
            raise JuZhouError(
                f"{self._translate.endpoint}: no endpoint's URL; http://127.0.0.1:8000/v1 is one"
            ) from error
        except requests.RequestException as error:
            reason = getattr(error.args[0], "reason", None) if error.args else None
            down = isinstance(reason, (NewConnectionError, ConnectTimeoutError))
            return Answer(error=type(error).__name__, status=Status.TRANSIENT, wait_s=DOWN_S if down else None)
        code = response.status_code
        if code in (401, 403):
            variable = self._translate.key_variable
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

    def __init__(self, model: str) -> None:
        """Load the model from its own files and translate the control.

        Raises:
            JuZhouError: it cannot be loaded, has no chat template where it needs one, or cannot generate.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        from model.device import pick, precision

        try:
            path = folder(model)
            self._translates = bool(AutoConfig.from_pretrained(path).is_encoder_decoder)
            kind = AutoModelForSeq2SeqLM if self._translates else AutoModelForCausalLM
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                path, padding_side="right" if self._translates else "left"
            )
            loaded: Any = kind.from_pretrained(path, dtype=precision(pick()))
            self._model = loaded.to(pick()).eval()
        except Exception as error:  # of transformers and of whatever else the folder names
            raise JuZhouError(f"{model}: no model that transformers can load: {in_words(error)}") from error
        if not self._translates and not self._tokenizer.chat_template:
            raise JuZhouError(f"{model}: has no chat template; name a translator or a model that was taught to chat")
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        try:
            self.generate([CONTROL])
        except Exception as error:
            raise JuZhouError(f"{model}: cannot generate: {in_words(error)}") from error

    def __call__(self, prompts: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Answer]]:
        """Each prompt (`prompt`, `attempt`) with the answer to it; those of later attempts draw lots, each alone."""
        for attempt, group in groupby(sorted(prompts, key=itemgetter("attempt")), key=itemgetter("attempt")):
            some, at_once = list(group), HERE_AT_ONCE if attempt == 1 else 1
            for start in range(0, len(some), at_once):
                asked = some[start : start + at_once]
                for row, answer in zip(asked, each(self.generate, asked, CONTROL), strict=True):
                    if isinstance(answer, Exception):
                        answer = Answer(error=in_words(answer), status=Status.PERMANENT)
                    yield row, answer

    def generate(self, prompts: list[dict[str, Any]]) -> list[Answer]:
        """Answers to prompts of one attempt: greedily at first, later by lots, with the attempt for a seed."""
        import torch

        attempt = prompts[0]["attempt"]
        torch.manual_seed(attempt)
        how = {"do_sample": True, "temperature": _temperature(attempt)} if attempt > 1 else {"do_sample": False}
        texts = [self._framed(row["prompt"]) for row in prompts]
        encoded = self._tokenizer(texts, padding=True, add_special_tokens=self._translates, return_tensors="pt")
        inputs = {name: encoded[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
        # A Chinese character is a token or less, so that what is cut off would be refused for its length too.
        longest = max(_longest(row["prompt"]) for row in prompts)
        produced = self._model.generate(**inputs, max_new_tokens=longest, **how)
        produced = produced[:, 1 if self._translates else inputs["input_ids"].shape[1] :]
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        said = self._tokenizer.batch_decode(produced, skip_special_tokens=True)
        return [
            Answer(text, None if ends & set(tokens) else "cut off")
            for text, tokens in zip(said, produced.tolist(), strict=True)
        ]

    def _framed(self, prompt: str) -> str:
        """What the model reads of a prompt; a translator into several kinds of Chinese is told which."""
        if self._translates:
            return f"{SIMPLIFIED} {prompt}" if SIMPLIFIED in self._tokenizer.get_vocab() else prompt
        return self._tokenizer.apply_chat_template(
            _messages(prompt), tokenize=False, add_generation_prompt=True, enable_thinking=False
        )


class _Translate:
    """A batch of prompts → an answer each, checked by the rules."""

    def __init__(self, table: Table, translate: Translate, key: str | None) -> None:
        self._table = table
        self._translate = translate
        self._key = key

    def __call__(self, batch: pa.Table) -> Rows:
        answered = self._translator(batch.to_pylist())
        return self._rows(self._row(row, answer) for row, answer in answered)

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return self._rows(self._row(row, Answer(error=error, status=Status.PERMANENT)) for row in batch.to_pylist())

    @cached_property
    def _translator(self) -> Endpoint | Here:
        return Endpoint(self._translate, self._key) if self._translate.endpoint else Here(self._translate.model)

    def _row(self, row: dict[str, Any], answer: Answer) -> dict[str, Any]:
        status, error, tries = answer.status, answer.error, row["attempt"]
        text = None
        if status is Status.OK:
            text = cleaned(answer.text)
            if error := error or refusal(row["prompt"], text):
                error = f"{error}: {text[:80]}" if text else error
                text, tries = None, 0  # it may be asked again at once
                status = Status.TRANSIENT if row["attempt"] < self._translate.attempts else Status.PERMANENT
        again = retry_at(tries, self._translate.retry_s, answer.wait_s) if status is Status.TRANSIENT else None
        return {
            "synthesis_id": row["synthesis_id"],
            "attempt": row["attempt"],
            "status": status,
            "error": error,
            "translated_at": datetime.now(UTC),
            "retry_at": again,
            "text": text,
            "translator": self._translate.origin(),
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


def _messages(prompt: str) -> list[dict[str, str]]:
    """One message of the user, as not every chat template knows of a system's."""
    return [{"role": "user", "content": f"{INSTRUCTION}\n\n{prompt}"}]


def _longest(prompt: str) -> int:
    """Characters that an answer may have."""
    return max(ALWAYS_ALLOWED, LONGEST * len(prompt))


def _temperature(attempt: int) -> float:
    return min(WARMER * (attempt - 1), 1.0)
