"""Teaches a chat model to turn a raw poem into the prompt that is drawn: LoRA on the release's poems and keywords."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import device
from model.refiner import INSTRUCTION, adapted, answer, framed, load_chat
from schemas.errors import JuZhouError
from training.draws import generator
from training.release import Poem, poems
from training.stage import Job, Metrics, Stage, bare, descend, learning_rate, mean, optimizer

LONGEST = 1024
"""Tokens of a poem with its answer; longer poems are left out."""
HELD = 256
"""Poems of the split `validation` on which the loss is measured at the end, …"""
SHOWN = 8
"""… and of which the answers are kept."""
UNTAUGHT = -100
"""The target of a token that is asked rather than answered."""

Example = tuple[Tensor, int]
"""Tokens, as int32 since a release has 300,000 poems of some hundreds each; and how many of them are asked."""


class Words(NamedTuple):
    """What a step is given, (share, tokens) each."""

    tokens: Tensor
    mask: Tensor
    targets: Tensor
    """The tokens of the answer, `UNTAUGHT` elsewhere."""


def answer_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the answers' tokens, each said from those before it, in float32.

    Args:
        logits: (batch, tokens, vocabulary).
        targets: (batch, tokens); `UNTAUGHT` does not count.
    """
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten(), ignore_index=UNTAUGHT)


class RefinerStage(Stage):
    """Product: `adapter`, as peft saves it, with the tokenizer; `samples.json`, held poems and what is said of them."""

    name = "refiner"

    def __init__(self, job: Job) -> None:
        """Open the chat model and give it a fresh adapter.

        Raises:
            JuZhouError: no model there, or no poems in the release.
        """
        super().__init__(job)
        settings = self.recipe.stages.refiner
        assert settings
        self.settings, self.steps = settings, settings.steps
        try:
            chat, self.tokenizer = load_chat(settings.model, device.precision(self.device))
        except (OSError, ValueError) as error:
            said = str(error).splitlines()[0]
            raise JuZhouError(f"{settings.model}: no chat model that transformers can load ({said})") from error
        known = poems(self.release.folder)
        self.held = [poem for poem in known if poem.split == "validation"][:HELD]
        self.examples = self._examples([poem for poem in known if poem.split == "train"])
        if len(self.examples) < settings.batch:
            raise JuZhouError(
                f"{self.release.folder}: {len(self.examples)} poems are too few to train on; build the release from a "
                "recipe with `poetry: {collection: whole}`"
            )
        self.chat = job.wrap(adapted(chat, settings.rank))
        learnt = {name: part for name, part in bare(self.chat).named_parameters() if part.requires_grad}
        self.adapter = nn.ParameterDict({name.replace(".", "_"): part for name, part in learnt.items()})
        self.optimizer = optimizer(self.adapter.parameters())

    def state(self) -> dict[str, Any]:
        """The adapter alone, and its optimizer; the chat model stays as it is."""
        return {"adapter": self.adapter, "optimizer": self.optimizer}

    def load(self, step: int) -> Words:
        """This worker's share of a step's poems: epoch after epoch, each in an order of its own."""
        size = self.settings.batch
        places = torch.arange(step * size, (step + 1) * size)
        epochs = range(int(places[0]) // len(self.examples), int(places[-1]) // len(self.examples) + 1)
        dealt = torch.cat([self._order(epoch) for epoch in epochs])
        chosen = dealt[places - epochs[0] * len(self.examples)]
        return self._words([self.examples[number] for number in self.job.slice(chosen).tolist()])

    def step(self, step: int, batch: Words) -> Metrics:
        """Say the keywords of poems."""
        losses = []
        for piece in self.in_turn(self.pieces(batch), self.chat):
            loss = self._loss(piece)
            self.backward(loss)
            losses.append({"loss": loss.item()})
        norm = descend(self.optimizer, learning_rate(step, self.steps, self.settings.learning_rate))
        return mean(losses) | {"grad_norm": norm}

    def finish(self, folder: Path) -> Metrics:
        """Save the adapter, and measure it on poems that it has not seen."""
        chat = bare(self.chat).eval()
        chat.save_pretrained(folder / "adapter")
        self.tokenizer.save_pretrained(folder / "adapter")
        shown = [
            {"poem": poem.text, "keywords": poem.keywords, "said": answer(chat, self.tokenizer, INSTRUCTION, poem.text)}
            for poem in self.held[:SHOWN]
        ]
        (folder / "samples.json").write_text(json.dumps(shown, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        examples = self._examples(self.held)
        if not examples:
            return {}
        with torch.no_grad():
            losses = [self._loss(self._words([example])).item() for example in examples]
        return {"held_loss": sum(losses) / len(losses)}

    def _examples(self, some: list[Poem]) -> list[Example]:
        """The tokens of poems with their answers, and how many of them are asked; without those that are too long."""
        found = []
        for poem in some:
            asked = self.tokenizer(framed(self.tokenizer, INSTRUCTION, poem.text), add_special_tokens=False).input_ids
            said = self.tokenizer(poem.keywords + self.tokenizer.eos_token, add_special_tokens=False).input_ids
            if len(asked) + len(said) <= LONGEST:
                found.append((torch.tensor(asked + said, dtype=torch.int32), len(asked)))
        return found

    def _words(self, examples: list[Example]) -> Words:
        longest = max(len(tokens) for tokens, _ in examples)
        tokens = torch.full((len(examples), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros(len(examples), longest, dtype=torch.bool)
        targets = torch.full_like(tokens, UNTAUGHT)
        for row, (words, asked) in enumerate(examples):
            tokens[row, : len(words)] = words
            mask[row, : len(words)] = True
            targets[row, asked : len(words)] = words[asked:]
        return Words(tokens, mask, targets)

    def _loss(self, words: Words) -> Tensor:
        with device.autocast(self.device):
            seen = self.chat(input_ids=words.tokens.to(self.device), attention_mask=words.mask.to(self.device))
        return answer_loss(seen.logits, words.targets.to(self.device))

    def _order(self, epoch: int) -> Tensor:
        draws = generator(self.recipe.seed, self.release.digest, "poems", epoch)
        return torch.randperm(len(self.examples), generator=draws)
