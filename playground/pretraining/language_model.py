"""Pre-train the nano language model: on text, and to read pages that are grids of cells.

A language model that knows only running text has to learn two things at once when it is joined to
encoders: where in an image a text goes on, and what the encoders' features mean. Here it learns the
first alone: 144 cells, each the sum of what stands in it (which characters in which order, how
high, which thing in which colour, a thumbnail), take the places that image tokens will take.

    --tokenizer DIR --learn-code --out A    a random model, and the code of the cells
    --start A --out B                       the code stays: the encoders are pre-trained to see it
"""

import argparse
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mgm.atomic import atomic_folder
from mgm.data.conversation import IGNORED
from mgm.errors import run_command
from playground.colors import COLORS
from playground.pretraining.cell_code import CODE_FILE, CellCode, load_code
from playground.pretraining.conversations import Conversations, collate
from playground.pretraining.loop import optimizers, train
from playground.pretraining.targets import CHARACTERS, THINGS
from playground.tokenizer import read_tokenizer

ATTENTION = "eager"  # faster than sdpa for short rows in bfloat16 on a CPU
OTHERS_RATE = 3e-3  # the learning rate of embeddings, norms and the code


def nano_language_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama of 4 million parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            initializer_range=0.06,  # near 1 / sqrt(width): 0.02 learns half as fast
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def answer_loss(
    model: LlamaForCausalLM, code: CellCode, batch: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The mean loss over all answers of a batch, and the share of answers that are right.

    Args:
        code: gives the cells their vectors.
        batch: of `collate`.
    """
    at_cell = batch["ids"] == model.config.vocab_size
    embeds = model.get_input_embeddings()(batch["ids"].masked_fill(at_cell, 0))
    embeds = embeds.masked_scatter(at_cell.unsqueeze(-1), code(batch).to(embeds.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(inputs_embeds=embeds, attention_mask=batch["mask"]).last_hidden_state
        targets = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
        logits = model.lm_head(hidden[targets != IGNORED]).float()
    return F.cross_entropy(logits, targets[targets != IGNORED]), answers_right(logits, targets)


def answers_right(logits: Tensor, targets: Tensor) -> Tensor:
    """The share of answers of which every token is the likeliest after those before it.

    Args:
        logits: (supervised tokens, vocabulary).
        targets: (batch, tokens), `IGNORED` between answers.
    """
    is_target = targets != IGNORED
    starts = is_target & ~F.pad(is_target[:, :-1], (1, 0))
    answer = starts.flatten().cumsum(0).view_as(targets)[is_target] - 1
    wrong = (logits.argmax(-1) != targets[is_target]).float()
    return (torch.zeros(int(starts.sum())).index_add(0, answer, wrong) == 0).float().mean()


def starting_code(
    folder: Path | None, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> CellCode:
    """The code of `folder`, to be kept, or a new one."""
    if folder is not None and (folder / CODE_FILE).is_file():
        return load_code(folder)
    embedding = model.get_input_embeddings()
    characters = torch.tensor(tokenizer.convert_tokens_to_ids(list(CHARACTERS)))
    things, colors = (
        torch.stack([embedding(ids).mean(0) for ids in word_ids(words, tokenizer)])
        for words in (THINGS, COLORS)
    )
    return CellCode(embedding(characters).detach(), things.detach(), colors.detach())


def word_ids(words: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> list[Tensor]:
    """The ids of each word's tokens, without special ones."""
    return [torch.tensor(tokenizer(word, add_special_tokens=False).input_ids) for word in words]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--tokenizer", type=Path, help="folder of the tokenizer of a new model")
    start.add_argument("--start", type=Path, help="folder of the model to go on with")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the model")
    parser.add_argument("--learn-code", action="store_true", help="learn the code of cells too")
    parser.add_argument("--shown", type=float, default=0.85, help="share of cells, not text")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=12, help="conversations of a step")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--fall", type=float, default=0.4, help="share of falling learning rates")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2_000_000_000)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(arguments.seed)
    tokenizer = read_tokenizer(arguments.start or arguments.tokenizer)
    if arguments.start:
        model = LlamaForCausalLM.from_pretrained(arguments.start, dtype=torch.float32).train()
    else:
        model = nano_language_model(tokenizer)
    model.set_attn_implementation(ATTENTION)
    code = starting_code(arguments.start, model, tokenizer)
    if arguments.learn_code:
        code.train().requires_grad_(True)
    if shutil.which("g++"):
        model.model.forward = torch.compile(model.model.forward, dynamic=True)
    conversations = Conversations(tokenizer, arguments.batch_size, arguments.seed, arguments.shown)
    loader = DataLoader(
        conversations, arguments.batch_size, collate_fn=collate, num_workers=arguments.workers
    )

    def losses() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for batch in loader:
            loss, right = answer_loss(model, code, batch)
            yield loss, {"loss": loss, "right": right}

    def save() -> None:
        with atomic_folder(arguments.out) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            save_file(code.state_dict(), part / CODE_FILE)

    by = optimizers([model], [code], arguments.learning_rate, OTHERS_RATE)
    train(losses(), by, arguments.steps, save, arguments.fall)


if __name__ == "__main__":
    run_command(main)
