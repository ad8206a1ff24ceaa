"""Texts → answers of a language model: what an endpoint may do wrong costs a row its attempt and never the run."""

import shutil
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.chat import Endpoint, Here, cleaned
from pipelines.corpus import Corpus
from pipelines.retry import retry_after_s
from pipelines.sources.synthesis import add_candidates
from pipelines.stage import pending, run
from pipelines.translate import TASK, refusal, table_of, translation_stage
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.recipe import Translate
from schemas.tables import SYNTHESES, Status, Table
from tests.pipelines.chat_server import Model, refused, said


def silent(name: str, done: int, total: int) -> None:
    pass


def drawn(corpus: Corpus, *prompts: str, status: str = "ok", source: str = "drawn") -> None:
    """Rows of pictures that are there."""
    rows = [
        {"synthesis_id": digest(f"{source} {prompt}".encode()), "source": source, "prompt": prompt, "status": status}
        | {"drawn_at": datetime.now(UTC), "seed": 1, "model": "0" * 12}
        for prompt in prompts
    ]
    corpus.append(SYNTHESES, pa.Table.from_pylist(rows, schema=SYNTHESES.schema))


def translated(corpus: Corpus, table: Table) -> dict[str, list[dict[str, Any]]]:
    """The attempts at each prompt, in order."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    parts = f"read_parquet('{corpus.tables / table.path}/part-*.parquet')"
    about = "SELECT synthesis_id, prompt, drawn_at FROM syntheses"
    for row in corpus.sql(f"FROM {parts} JOIN ({about}) USING (synthesis_id) ORDER BY attempt").to_pylist():
        found[row["prompt"]].append(row)
    return found


SCRIPT = {
    "good": [said(" “一只猫，\n油画” ")],
    "busy": [refused(429, Retry_After="1"), said("忙碌的街道")],
    "broken": [refused(500), refused(503), said("破碎的镜子")],
    "garbage": [(200, {}, b"<html>"), (200, {}, b'{"choices": []}'), said("垃圾堆")],
    "english": [said("a street in the rain"), said("雨中的街道")],
    "thinking": [said("<think>\nA street… 街道?\n</think>\n\n思考者雕像")],
    "long": [refused(400)],
    "stubborn": [said("I cannot do that")],
    "endless": [said("无尽无尽", finish="length"), said("无尽的沙漠")],
    "silent": [(200, {}, b'{"choices": [{"message": {"content": null}}]}'), said("寂静的森林")],
}


@pytest.mark.usefixtures("ray_cluster")
def test_every_prompt_ends_in_a_row(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret-key")
    drawn(corpus, *SCRIPT)
    drawn(corpus, "never drawn", status="permanent")
    drawn(corpus, "of another", source="other")
    model = Model(**SCRIPT)
    with model.served() as endpoint:
        translate = Translate(endpoint=endpoint, model="tiny", key_variable="A_KEY", attempts=4, retry_s=0.2)
        table = table_of("drawn", translate)
        assert run(corpus, translation_stage(corpus, "drawn", translate, table), silent) == sum(
            {"good": 1, "busy": 2, "broken": 3, "garbage": 3, "english": 2, "thinking": 1, "long": 1, "stubborn": 4}
            .values()
        ) + 4  # fmt: skip
        asked = sum(map(len, model.asked.values()))
        assert run(corpus, translation_stage(corpus, "drawn", translate, table), silent) == 0
        assert sum(map(len, model.asked.values())) == asked, "what is settled is not asked again"
    attempts = translated(corpus, table)
    assert attempts.keys() == SCRIPT.keys()
    assert {prompt: [row["status"] for row in rows] for prompt, rows in attempts.items()} == {
        "good": ["ok"],
        "busy": ["transient", "ok"],
        "broken": ["transient", "transient", "ok"],
        "garbage": ["transient", "transient", "ok"],
        "english": ["transient", "ok"],
        "thinking": ["ok"],
        "long": ["permanent"],
        "stubborn": ["transient"] * 3 + ["permanent"],
        "endless": ["transient", "ok"],
        "silent": ["transient", "ok"],
    }
    texts = {prompt: rows[-1]["text"] for prompt, rows in attempts.items()}
    assert (texts["good"], texts["thinking"], texts["broken"]) == ("一只猫， 油画", "思考者雕像", "破碎的镜子")
    assert texts["long"] is texts["stubborn"] is None
    errors = {prompt: [row["error"] for row in rows] for prompt, rows in attempts.items()}
    assert errors["busy"][0].startswith("HTTP 429: ")
    assert errors["english"] == ["0 Chinese of 16 letters: a street in the rain", None]
    assert errors["endless"][0] == "cut off: 无尽无尽"
    assert "\n" not in errors["long"][0] and errors["long"][0].startswith("HTTP 400: ")
    for rows in attempts.values():
        assert [row["attempt"] for row in rows] == list(range(1, len(rows) + 1))
        for row in rows:
            assert row["model"] == f"tiny at {endpoint}"
            assert (row["retry_at"] is None) == (row["status"] != "transient")
            assert row["drawn_at"] < model.first <= row["answered_at"]
        for row, after in pairwise(rows):
            assert row["retry_at"] <= after["answered_at"]
    [busy, _] = attempts["busy"]
    assert busy["retry_at"] - busy["answered_at"] > timedelta(seconds=0.9), "longer than its own wait of 0.2 s"
    assert model.instructions == {TASK.instruction}
    assert model.keys == {"Bearer secret-key"}
    assert model.paths == {"/v1/chat/completions"}
    assert 1 < model.most_at_once <= 32
    told = [(asked["model"], asked["temperature"], asked.get("seed")) for asked in model.asked["stubborn"]]
    assert told == [("tiny", 0, None), ("tiny", 0.3, 2), ("tiny", 0.6, 3), ("tiny", pytest.approx(0.9), 4)]
    kept = b"".join(path.read_bytes() for path in corpus.path.rglob("*") if path.is_file())
    assert b"secret-key" not in kept

    assert add_candidates(corpus, "drawn", table, "recipe") == 8
    assert add_candidates(corpus, "drawn", table, "recipe") == 0
    captions = corpus.sql("SELECT caption, caption_from FROM candidates").to_pylist()
    assert {row["caption"] for row in captions} == set(texts.values()) - {None}
    assert {row["caption_from"] for row in captions} == {"translation"}


@pytest.mark.usefixtures("ray_cluster")
def test_an_endpoint_that_is_down_costs_attempts_alone(corpus: Corpus) -> None:
    drawn(corpus, "a cat", "a dog")
    translate = Translate(endpoint="http://127.0.0.1:9/v1", model="tiny")
    table = table_of("drawn", translate)
    assert run(corpus, translation_stage(corpus, "drawn", translate, table), silent) == 2
    for [row] in translated(corpus, table).values():
        assert (row["status"], row["error"]) == ("transient", "ConnectionError")
        assert row["retry_at"] - row["answered_at"] > timedelta(minutes=4)
    assert pending(corpus, translation_stage(corpus, "drawn", translate, table)).num_rows == 0, "not due yet"

    drawn(corpus, "a hen")
    with Model(a_hen=[refused(401)]).served() as endpoint:
        locked = translate.model_copy(update={"endpoint": endpoint, "key_variable": "NO_SUCH_KEY"})
        assert table_of("drawn", locked) == table, "the same model behind another address"
        with pytest.raises(JuZhouError, match=r"refuses the key \(HTTP 401\): set .* NO_SUCH_KEY$"):
            run(corpus, translation_stage(corpus, "drawn", locked, table), silent)
    with Model().served() as endpoint:
        mended = translate.model_copy(update={"endpoint": endpoint})
        assert run(corpus, translation_stage(corpus, "drawn", mended, table), silent) == 1
    assert [row["text"] for row in translated(corpus, table)["a hen"]] == ["一只猫坐在红色的椅子上"]


def ask(endpoint: str, prompt: str = "a cat", timeout_s: float = 5.0) -> Any:
    translate = Translate(endpoint=endpoint, model="tiny")
    [(row, answer)] = Endpoint(translate, TASK, None, timeout_s)([{"text": prompt, "attempt": 1}])
    assert row["text"] == prompt
    return answer


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"[" * 100_000, "no chat completion"),
        (b"\xff\xfe", "no chat completion"),
        (b"null", "no chat completion"),
        (b'{"choices": [{"message": {"content": ["a"]}}]}', "no chat completion"),
        (b'{"choices": ["a"]}', "no chat completion"),
    ],
    ids=range(5),
)
def test_an_answer_that_is_none_may_be_asked_for_again(content: bytes, error: str) -> None:
    with Model(a_cat=[(200, {}, content)]).served() as endpoint:
        answer = ask(endpoint)
    assert answer.status is Status.OK and answer.error.startswith(error)


def test_half_a_character_can_be_kept() -> None:
    with Model(a_cat=[said("猫\ud800")]).served() as endpoint:
        assert ask(endpoint).text == "猫?"


def test_an_endpoint_that_hangs() -> None:
    with Model(a_cat=[(0, {}, b"0.6")]).served() as endpoint:
        begun = time.monotonic()
        answer = ask(endpoint, timeout_s=0.2)
        assert time.monotonic() - begun < 0.5
    assert (answer.status, answer.error, answer.wait_s) == (Status.TRANSIENT, "ReadTimeout", None)


@pytest.mark.parametrize("code", [301, 400, 404, 422])
def test_a_refusal_is_the_prompts_if_the_control_goes_well(code: int) -> None:
    model = Model(a_cat=[refused(code, Location="/elsewhere")])
    with model.served() as endpoint:
        answer = ask(endpoint)
    assert (answer.status, answer.error[:8]) == (Status.PERMANENT, f"HTTP {code}")
    assert list(model.asked) == ["a cat", TASK.control]


def test_a_refusal_is_the_endpoints_if_the_control_is_refused_too() -> None:
    control = TASK.control.replace(" ", "_")
    with Model(a_cat=[refused(404)], **{control: [refused(404)]}).served() as endpoint:
        with pytest.raises(JuZhouError, match=r"refuses every text .*check the endpoint and the model$") as caught:
            ask(endpoint)
        assert "\n" not in str(caught.value)
    with Model(a_cat=[refused(400)], **{control: [refused(503)]}).served() as endpoint:
        assert ask(endpoint).status is Status.TRANSIENT
    with pytest.raises(JuZhouError, match="no endpoint's URL"):
        ask("localhost/v1")


def test_what_retry_after_says() -> None:
    assert retry_after_s(None) is retry_after_s("soon") is retry_after_s("1.5") is None
    assert retry_after_s(" 7 ") == 7.0
    assert retry_after_s("9" * 400) == 7 * 24 * 3600.0
    soon = retry_after_s(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert soon is not None and 85 < soon <= 90
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("一只猫", "一只猫"),
        ("「一只猫」", "一只猫"),
        ("“红”与“黑”", "“红”与“黑”"),
        ("<think>cat</think>\n一只猫", "一只猫"),
        ("cat…</think>一只猫", "一只猫"),
        ("<think>一只", ""),
        ("一只猫，\n\n  油画", "一只猫， 油画"),
    ],
)
def test_what_is_left_of_an_answer(answer: str, text: str) -> None:
    assert cleaned(answer) == text


@given(st.text(max_size=60), st.text(alphabet=st.sampled_from("<think>/ \n猫“”a\u0000\ud7ff"), max_size=60) | st.text())
def test_no_answer_is_too_wild(prompt: str, answer: str) -> None:
    text = cleaned(answer)
    assert text == " ".join(text.split())
    refusal(prompt, text)


WORDS = ["<pad>", "</s>", "<unk>", ">>cmn_Hans<<", "a", "cat", "dog", "on", "red", "chair", "猫", "狗", "椅子", "红"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", additional_special_tokens=[]
    )


@pytest.fixture(scope="module")
def marian(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A translator with random weights."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(3)
    config = MarianConfig(
        vocab_size=len(WORDS),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        init_std=1.0,
    )
    folder = tmp_path_factory.mktemp("marian")
    model = MarianMTModel(config)
    model.final_logits_bias[0, 1] = 6.0  # so that it ends now and then
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def chat(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A chat model with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        initializer_range=1.0,
    )
    folder = tmp_path_factory.mktemp("chat")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    template = "{{ messages[0].content }}{% if add_generation_prompt %} dog{% endif %}"
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def rows_of(*prompts: str, attempt: int = 1) -> list[dict[str, Any]]:
    return [{"text": prompt, "attempt": attempt} for prompt in prompts]


PROMPTS = ("a cat", "a red dog on a red chair", "dog", "chair on a cat")


def test_a_translator_here_says_what_the_library_does(marian: str) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(marian)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(marian)
    here = Here(marian, TASK)
    answers = here.generate(rows_of(*PROMPTS))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        inputs = tokenizer(f">>cmn_Hans<< {prompt}", return_tensors="pt").input_ids
        [tokens] = model.generate(inputs, max_new_tokens=48, do_sample=False)
        assert answer.text == tokenizer.decode(tokens, skip_special_tokens=True)
        assert answer.error == (None if 1 in tokens.tolist()[1:] else "cut off")
    assert len({answer.text for answer in answers}) > 1


def test_a_chat_model_here_says_what_the_library_does(chat: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(chat)
    model: Any = AutoModelForCausalLM.from_pretrained(chat)
    answers = Here(chat, TASK).generate(rows_of(*PROMPTS))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        framed = f"{TASK.instruction}\n\n{prompt} dog"
        inputs = tokenizer(framed, return_tensors="pt", add_special_tokens=False).input_ids
        [tokens] = model.generate(inputs, max_new_tokens=48, do_sample=False)
        assert answer.text == tokenizer.decode(tokens[inputs.shape[1] :], skip_special_tokens=True)


def test_later_attempts_draw_lots_of_their_own(marian: str) -> None:
    here = Here(marian, TASK)
    asked = rows_of(*PROMPTS, attempt=2) + rows_of("a cat", attempt=3)
    first = [(row["text"], answer) for row, answer in here(asked)]
    assert first == [(row["text"], answer) for row, answer in here(asked)]
    assert sorted(prompt for prompt, _ in first) == sorted([*PROMPTS, "a cat"])
    assert {answer.text for _, answer in first} != {answer.text for answer in here.generate(rows_of(*PROMPTS))}


def test_a_prompt_that_fails_here_costs_itself(marian: str) -> None:
    answers = {row["text"]: answer for row, answer in Here(marian, TASK)(rows_of("a cat", "a " * 2000, "dog"))}
    assert [answer.status for answer in answers.values()] == [Status.OK, Status.PERMANENT, Status.OK]


def test_no_model_here(chat: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(JuZhouError, match="no model that transformers can load") as caught:
        Here(str(tmp_path), TASK)
    assert "\n" not in str(caught.value)
    untaught = shutil.copytree(chat, tmp_path / "untaught")
    (untaught / "chat_template.jinja").unlink()
    with pytest.raises(JuZhouError, match="has no chat template"):
        Here(str(untaught), TASK)


@pytest.mark.usefixtures("ray_cluster")
def test_a_model_here_is_held_to_the_same_rules(corpus: Corpus, marian: str) -> None:
    drawn(corpus, *PROMPTS)
    translate = Translate(model=marian, attempts=2)
    table = table_of("drawn", translate)
    assert table != table_of("drawn", Translate(model=marian, endpoint="http://127.0.0.1:9/v1"))
    run(corpus, translation_stage(corpus, "drawn", translate, table), silent)
    attempts = translated(corpus, table)
    assert attempts.keys() == set(PROMPTS)
    for prompt, rows in attempts.items():
        assert all(row["model"] == marian for row in rows)
        last = rows[-1]
        assert last["status"] in ("ok", "permanent")
        assert (last["status"] == "ok") == (last["text"] is not None)
        assert last["text"] is None or refusal(prompt, last["text"]) is None
    assert run(corpus, translation_stage(corpus, "drawn", translate, table), silent) == 0
