"""A chat model learns to say what a poem shows: on the answer alone, resumed to the bit, saved as an adapter."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from model.refiner import INSTRUCTION, answer, is_adapter, load_chat
from schemas.errors import JuZhouError
from schemas.release import POEMS
from schemas.training import RefinerSettings, Stages, Training
from training.refiner import UNTAUGHT, RefinerStage, answer_loss
from training.release import Release, poems
from training.stage import Job, run

THINGS = "山水云雨雪月花鸟船桥柳松竹梅马牛"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Qwen3 of two layers with random weights, whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    signs = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = Tokenizer(models.BPE({sign: number for number, sign in enumerate(signs)}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=special[1:2],
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(signs),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=2048,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("qwen")
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def versed(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny release with poems that each name two things."""
    folder = shutil.copytree(release, tmp_path_factory.mktemp("versed") / "release")
    pairs = [(first, second) for first in THINGS for second in THINGS if first != second]
    rows = [
        {
            "poem_id": number.to_bytes(16, "big"),
            "split": "validation" if number % 10 == 0 else "train",
            "title": f"{first}{second}",
            "author": "某人",
            "text": f"{first}有{second}",
            "keywords": f"{first}, {second}",
        }
        for number, (first, second) in enumerate(pairs)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / POEMS)
    return folder


def stage(versed: Path, model: str, steps: int = 6, **settings: Any) -> RefinerStage:
    refiner = RefinerSettings(model=model, steps=steps, batch=4, rank=4, **settings)
    return RefinerStage(Job(Release(versed), Training(size=32, save_every=2, stages=Stages(refiner=refiner))))


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_the_loss_is_on_the_answer_alone() -> None:
    logits = torch.randn(2, 5, 7, requires_grad=True)
    targets = torch.tensor([[UNTAUGHT, UNTAUGHT, 3, 4, UNTAUGHT], [UNTAUGHT, 1, UNTAUGHT, UNTAUGHT, UNTAUGHT]])
    loss = answer_loss(logits, targets)
    said = torch.log_softmax(logits, -1)
    assert torch.isclose(loss, -(said[0, 1, 3] + said[0, 2, 4] + said[1, 0, 1]) / 3)
    [felt] = torch.autograd.grad(loss, logits)
    assert felt[0, 1].any() and felt[0, 2].any() and felt[1, 0].any()
    assert not felt[0, 0].any() and not felt[0, 3:].any() and not felt[1, 1:].any()


def test_what_is_asked_is_not_learnt(versed: Path, qwen: str) -> None:
    words = stage(versed, qwen).load(0)
    tokenizer = load_chat(qwen, torch.float32)[1]
    for tokens, mask, targets in zip(words.tokens, words.mask, words.targets, strict=True):
        said = tokenizer.decode(tokens[targets != UNTAUGHT])
        whole = tokenizer.decode(tokens[mask])
        assert said.endswith("<|im_end|>") and ", " in said
        assert whole.endswith("<|im_start|>assistant\n" + said) and INSTRUCTION in whole


def test_an_epoch_has_every_poem_once(versed: Path, qwen: str) -> None:
    refiner = stage(versed, qwen, steps=100)
    count, size = len(refiner.examples), refiner.settings.batch
    assert count == sum(poem.split == "train" for poem in poems(versed)) == 216
    batches = [refiner.load(step) for step in range(count // size)]
    rows = [tuple(row[row != UNTAUGHT].tolist()) for words in batches for row in words.targets]
    assert len(set(rows)) == count


def test_resumed_it_is_the_same_to_the_bit(versed: Path, qwen: str, tmp_path: Path) -> None:
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    run(stage(versed, qwen), tmp_path / "whole")
    broken = stage(versed, qwen)
    step = broken.step

    def dies(number: int, batch: Any) -> Any:
        if number == 5:
            raise KeyboardInterrupt
        return step(number, batch)

    broken.step = dies  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path / "resumed")
    run(stage(versed, qwen), tmp_path / "resumed")
    assert losses(tmp_path / "resumed")[-2:] == losses(tmp_path / "whole")[-2:]
    weights = [path / "adapter" / "adapter_model.safetensors" for path in (tmp_path / "whole", tmp_path / "resumed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_it_learns_and_its_adapter_says_what_it_learnt(versed: Path, qwen: str, tmp_path: Path) -> None:
    run(stage(versed, qwen, steps=60, learning_rate=0.005), tmp_path)
    found = losses(tmp_path)
    assert sum(found[-5:]) < 0.7 * sum(found[:5])
    [*_, last] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < last["held_loss"] < 0.8 * found[0]
    shown = json.loads((tmp_path / "samples.json").read_text())
    assert len(shown) == 8 and shown[0]["poem"] == "山有水" and shown[0]["keywords"] == "山, 水"

    adapter = tmp_path / "adapter"
    assert is_adapter(adapter) and not is_adapter(Path(qwen))
    assert sum(path.stat().st_size for path in adapter.iterdir()) < 400_000, "the base model is not in it"
    chat, tokenizer = load_chat(adapter, torch.float32)
    said = [answer(chat, tokenizer, INSTRUCTION, row["poem"]) for row in shown]
    assert said == [row["said"] for row in shown]
    plain = [answer(load_chat(qwen, torch.float32)[0], tokenizer, INSTRUCTION, row["poem"]) for row in shown]
    assert said != plain


def test_no_model_and_no_poems(versed: Path, release: Path, qwen: str, tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match="no chat model") as caught:
        stage(versed, str(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(JuZhouError, match="0 poems are too few to train on; build the release from a recipe with"):
        stage(release, qwen)
