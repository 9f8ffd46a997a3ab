"""Pre-train the nano language model: on text, and to read pages that are grids of cells.

A language model that knows only running text has to learn two things at once when it is joined to
encoders: where in an image a text goes on, and what the encoders' features mean. Here it learns the
first alone: 144 cells, each the sum of what stands in it (which characters in which order, how
high, which thing in which colour, a thumbnail), stand where image tokens will be.

    --tokenizer DIR --train-cell-code --out A   a random model, and the cell code
    --init-from A --out B                       frozen cell code, the target of the encoders
"""

import argparse
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

from mgm.atomic import atomic_folder
from mgm.engine.device import cpu_has_bfloat16
from mgm.errors import Parser, run_command
from mgm.model.labels import IGNORE_INDEX
from playground.arguments import count, fraction
from playground.colors import COLORS
from playground.photo_library import HOW, load_photos
from playground.pretraining.cell_code import CODE_FILE, CellCode, load_code
from playground.pretraining.conversations import Conversations, collate
from playground.pretraining.guides import HEADS, guide_loss
from playground.pretraining.loop import batches_after, optimizers, train
from playground.pretraining.targets import CHARACTERS, THINGS
from playground.tokenizer import read_tokenizer

ATTENTION = "eager"  # faster than sdpa for short rows in bfloat16 on a CPU
OTHERS_RATE = 1e-3  # the learning rate of embeddings, norms and the code
GUIDED = 0.3  # weight of the loss of the guides


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


Decode = Callable[[LlamaModel, Tensor], tuple[Tensor, list[Tensor]]]


def losses_of(
    model: LlamaForCausalLM, code: CellCode, batch: dict[str, Tensor], decode: Decode
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss over all answers, the share that is right, and the loss of the guides.

    Args:
        code: gives the cells their vectors.
        batch: of `collate`.
        decode: `decode`, or what it was compiled to.
    """
    at_cell = batch["ids"] == model.config.vocab_size
    embeds = model.get_input_embeddings()(batch["ids"].masked_fill(at_cell, 0))
    embeds = embeds.masked_scatter(at_cell.unsqueeze(-1), code(batch).to(embeds.dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
        hidden, attention = decode(model.model, embeds)
        targets = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE_INDEX)
        logits = model.lm_head(hidden[targets != IGNORE_INDEX]).float()
    guided = guide_loss(attention, batch["guides"], batch["guide_keys"])
    return *of_answers(logits, targets), guided


def decode(model: LlamaModel, embeds: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The last hidden states of `embeds` (batch, tokens, width), padded on the right if at all.

    Returns:
        (batch, tokens, width), and the attention of each of `HEADS`, (batch, tokens, tokens).
    """
    tokens = embeds.shape[1]
    positions = torch.arange(tokens).unsqueeze(0)
    rotary = model.rotary_emb(embeds, position_ids=positions)
    # Padding comes last, so causality hides it.
    mask = torch.full((1, 1, tokens, tokens), torch.finfo(torch.bfloat16).min).triu(1)
    hidden, weights = embeds, []
    for layer in cast("list[LlamaDecoderLayer]", list(model.layers)):
        attended, attention = layer.self_attn(
            layer.input_layernorm(hidden), position_embeddings=rotary, attention_mask=mask
        )
        hidden = hidden + attended
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        weights.append(attention)
    return model.norm(hidden), [weights[layer][:, head] for layer, head in HEADS]


def of_answers(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss over answers, and the share of them of which every token is the likeliest.

    An answer of n tokens weighs sqrt(n): a "Yes" counts for nearly as much as a spelled word.

    Args:
        logits: (supervised tokens, vocabulary).
        targets: (batch, tokens), `IGNORE_INDEX` between answers.
    """
    is_target = targets != IGNORE_INDEX
    starts = is_target & ~F.pad(is_target[:, :-1], (1, 0))
    answer = starts.flatten().cumsum(0).view_as(targets)[is_target] - 1
    token_losses = F.cross_entropy(logits, targets[is_target], reduction="none")
    weights = answer.bincount()[answer].float().rsqrt()
    wrong = (logits.argmax(-1) != targets[is_target]).float()
    right = torch.zeros(int(starts.sum())).index_add(0, answer, wrong) == 0
    return (weights * token_losses).sum() / weights.sum(), right.float().mean()


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
    """Read the command line and train."""
    parser = Parser(
        prog="python -m playground.pretraining.language_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--tokenizer", type=Path, help="folder of the tokenizer of a new model")
    start.add_argument("--init-from", type=Path, help="folder of a model to continue from")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the model")
    parser.add_argument("--train-cell-code", action="store_true", help="train the cell code too")
    parser.add_argument(
        "--cell-ratio", type=fraction, default=0.85, help="share of samples with cells, not text"
    )
    parser.add_argument("--photos", type=Path, help=f"folder of photographs to show; {HOW}")
    parser.add_argument("--steps", type=count, required=True)
    parser.add_argument("--batch-size", type=count, default=12, help="conversations of a step")
    parser.add_argument("--learning-rate", type=fraction, default=1.5e-3)
    parser.add_argument(
        "--decay-ratio", type=fraction, default=0.4, help="share of steps with learning-rate decay"
    )
    parser.add_argument("--workers", type=count, default=1)
    parser.add_argument("--seed", type=int, default=2_000_000_000)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(arguments.seed)
    tokenizer = read_tokenizer(arguments.init_from or arguments.tokenizer)
    if arguments.init_from:
        model = LlamaForCausalLM.from_pretrained(arguments.init_from, dtype=torch.float32).train()
    else:
        model = nano_language_model(tokenizer)
    model.set_attn_implementation(ATTENTION)
    photos = load_photos(arguments.photos) if arguments.photos else None
    code = starting_code(arguments.init_from, model, tokenizer)
    if arguments.train_cell_code:
        code.train().requires_grad_(True)
    run = torch.compile(decode, dynamic=True) if shutil.which("g++") else decode
    size = arguments.batch_size

    def losses(done: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        batches = batches_after(
            done,
            lambda seed: Conversations(tokenizer, size, seed, arguments.cell_ratio, photos),
            arguments.seed,
            size,
            arguments.workers,
            collate,
        )
        for batch in batches:
            loss, right, guided = losses_of(model, code, batch, run)
            figures = {"loss": loss.detach(), "right": right, "guided": guided.detach()}
            yield loss + GUIDED * guided, figures

    def save(folder: Path) -> None:
        with atomic_folder(folder) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            save_file(code.state_dict(), part / CODE_FILE)

    by = optimizers([model], [code], arguments.learning_rate, OTHERS_RATE)
    learnt = nn.ModuleList([model, code])
    train(learnt, losses, by, arguments.steps, arguments.out, save, arguments.decay_ratio)


if __name__ == "__main__":
    run_command(main)
