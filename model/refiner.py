"""Chat models of transformers, and what one is asked in order to turn a poem into the prompt that is drawn."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # loading torch takes seconds, and a build that asks no model has no use for it
    import torch

INSTRUCTION = (
    "下面是一首古典诗词。请说出照它画一幅画时画面上会出现的东西：用现代汉语的名词作关键词，每个显著的物体、人物或景物一个，诗里说了颜色的写成“红色的枫叶”这样，"
    "照出现的先后排列，最多十二个，彼此不重复、不同义；时间、季节、天气若看得见也算。"
    "不要情感、抽象的概念、典故的名目和诗里没有的东西。只给出一行关键词，用逗号隔开，不解释；若什么也看不见，只答“无”。"
)
ADAPTER = "adapter_config.json"
"""The file by which peft knows a folder for an adapter's."""


def messages(instruction: str, text: str) -> list[dict[str, str]]:
    """One message of the user, as not every chat template knows of a system's."""
    return [{"role": "user", "content": f"{instruction}\n\n{text}"}]


def framed(tokenizer: Any, instruction: str, text: str) -> str:
    """What a chat model reads before it answers."""
    return tokenizer.apply_chat_template(
        messages(instruction, text), tokenize=False, add_generation_prompt=True, enable_thinking=False
    )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter rather than a whole model."""
    return (folder / ADAPTER).exists()


def load_chat(source: Path | str, dtype: "torch.dtype | Literal['auto']") -> tuple[Any, Any]:
    """The causal language model of a folder or hub id, and its tokenizer, which pads on the left; an adapter is merged
    into its base model.

    Args:
        dtype: what its weights are held in; "auto" is what they are on disk.

    Raises:
        OSError, ValueError: there is no such model, or the adapter's base is not where it was.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if not is_adapter(Path(source)):
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype), tokenizer
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(source, dtype=dtype).merge_and_unload(), tokenizer


def adapted(chat: Any, rank: int) -> Any:
    """A chat model with a fresh LoRA adapter on all its linear layers (arXiv 2106.09685, alpha = 2 · rank); nothing
    else of it can be trained."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        chat, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    )


def answer(chat: Any, tokenizer: Any, instruction: str, text: str, longest: int = 128) -> str:
    """What a chat model says of a text, greedily, in `longest` tokens at most."""
    asked = tokenizer(framed(tokenizer, instruction, text), add_special_tokens=False, return_tensors="pt")
    inputs = {name: asked[name].to(chat.device) for name in ("input_ids", "attention_mask")}
    produced = chat.generate(**inputs, max_new_tokens=longest, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(produced[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
