"""Chat models of transformers, and what one is asked in order to turn a poem into the prompt that is drawn."""

from pathlib import Path
from typing import Any

import torch

INSTRUCTION = (
    "下面是一首古典诗词。请说出照它画一幅画时画面上会出现的东西：用现代汉语的名词作关键词，每个显著的物体、人物或景物一个，"
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


def load_chat(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, which pads on the left; an adapter is merged into its base model.

    Raises:
        OSError, ValueError: there is no such model, or the adapter's base is not where it was.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if not is_adapter(folder):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), tokenizer
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(folder, dtype=dtype).merge_and_unload(), tokenizer
