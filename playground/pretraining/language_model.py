"""Pre-train the nano language model on text, and on grids of cells that replace image tokens.

A language model that was trained on text alone has to learn two skills at once when it is combined
with encoders: to follow text across an image, and to interpret the encoders' features. Here it
learns the first skill separately: in place of image tokens it gets 144 cell embeddings, each the
sum of the embeddings of the cell's true content (characters in order, their height, object and
colour, a thumbnail).

    --tokenizer DIR --train-cell-code --out A   a new model, and the cell code
    --init-from A --out B                       continues with a frozen cell code, the target of
                                                the encoders
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
from playground.photo_library import FETCH_HINT, load_photos
from playground.pretraining.cell_code import CODE_FILE, CellCode, load_code
from playground.pretraining.conversations import Conversations, collate
from playground.pretraining.guides import HEADS, guide_loss
from playground.pretraining.loop import batches_after, optimizers, train
from playground.pretraining.targets import CHARACTERS, THINGS
from playground.tokenizer import read_tokenizer

ATTENTION = "eager"  # faster than sdpa for short sequences in bfloat16 on a CPU
OTHERS_RATE = 1e-3  # learning rate of embeddings, norms and the cell code
GUIDE_WEIGHT = 0.3  # weight of the attention-guide loss


def nano_language_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build a Llama of 4 million parameters with random weights."""
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
            initializer_range=0.06,  # about 1 / sqrt(width); learning is half as fast with 0.02
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


Decode = Callable[[LlamaModel, Tensor], tuple[Tensor, list[Tensor]]]


def compute_losses(
    model: LlamaForCausalLM, code: CellCode, batch: dict[str, Tensor], decode: Decode
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the mean loss over answers, their accuracy, and the attention-guide loss.

    Args:
        model: language model.
        code: embeds the cells.
        batch: output of `collate`.
        decode: `decode`, or its compiled form.
    """
    at_cell = batch["ids"] == model.config.vocab_size
    embeds = model.get_input_embeddings()(batch["ids"].masked_fill(at_cell, 0))
    embeds = embeds.masked_scatter(at_cell.unsqueeze(-1), code(batch).to(embeds.dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
        hidden, attention = decode(model.model, embeds)
        targets = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE_INDEX)
        logits = model.lm_head(hidden[targets != IGNORE_INDEX]).float()
    guided = guide_loss(attention, batch["guides"], batch["guide_keys"])
    return *answer_loss(logits, targets), guided


def decode(model: LlamaModel, embeds: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Compute the last hidden states of `embeds` (batch, tokens, width), which are right-padded.

    Returns:
        (batch, tokens, width), and the attention of each of `HEADS`, (batch, tokens, tokens).
    """
    tokens = embeds.shape[1]
    positions = torch.arange(tokens).unsqueeze(0)
    rotary = model.rotary_emb(embeds, position_ids=positions)
    # The causal mask also hides padding, which is on the right.
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


def answer_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean loss over answers, and the share of answers with all tokens right (argmax).

    An answer of n tokens has weight sqrt(n), so that short answers such as "Yes" count nearly as
    much as long ones.

    Args:
        logits: (labelled tokens, vocabulary).
        targets: (batch, tokens), `IGNORE_INDEX` outside answers.
    """
    is_target = targets != IGNORE_INDEX
    starts = is_target & ~F.pad(is_target[:, :-1], (1, 0))
    answer = starts.flatten().cumsum(0).view_as(targets)[is_target] - 1
    token_losses = F.cross_entropy(logits, targets[is_target], reduction="none")
    weights = answer.bincount()[answer].float().rsqrt()
    wrong = (logits.argmax(-1) != targets[is_target]).float()
    right = torch.zeros(int(starts.sum())).index_add(0, answer, wrong) == 0
    return (weights * token_losses).sum() / weights.sum(), right.float().mean()


def initial_code(
    folder: Path | None, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> CellCode:
    """Load the cell code of `folder`, or build one from the model's token embeddings."""
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
    """Tokenise words separately, without special tokens."""
    return [torch.tensor(tokenizer(word, add_special_tokens=False).input_ids) for word in words]


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="python -m playground.pretraining.language_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--tokenizer", type=Path, help="tokenizer folder, for a new model")
    start.add_argument("--init-from", type=Path, help="folder of a model to continue training")
    parser.add_argument("--out", type=Path, required=True, help="output folder of the model")
    parser.add_argument("--train-cell-code", action="store_true", help="train the cell code too")
    parser.add_argument(
        "--cell-ratio",
        type=fraction,
        default=0.85,
        help="share of samples about cells; the others are about a text",
    )
    parser.add_argument(
        "--photos", type=Path, help=f"folder of photographs used in scenes; {FETCH_HINT}"
    )
    parser.add_argument("--steps", type=count, required=True)
    parser.add_argument("--batch-size", type=count, default=12, help="conversations per step")
    parser.add_argument("--learning-rate", type=fraction, default=1.5e-3)
    parser.add_argument(
        "--decay-ratio", type=fraction, default=0.4, help="share of steps with learning-rate decay"
    )
    parser.add_argument("--workers", type=count, default=1)
    parser.add_argument("--seed", type=int, default=2_000_000_000)
    return parser.parse_args()


def main() -> None:
    """Train the language model as the command line says."""
    arguments = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(arguments.seed)
    tokenizer = read_tokenizer(arguments.init_from or arguments.tokenizer)
    if arguments.init_from:
        model = LlamaForCausalLM.from_pretrained(arguments.init_from, dtype=torch.float32).train()
    else:
        model = nano_language_model(tokenizer)
    model.set_attn_implementation(ATTENTION)
    photos = load_photos(arguments.photos) if arguments.photos else None
    code = initial_code(arguments.init_from, model, tokenizer)
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
            loss, right, guided = compute_losses(model, code, batch, run)
            figures = {"loss": loss.detach(), "right": right, "guided": guided.detach()}
            yield loss + GUIDE_WEIGHT * guided, figures

    def save(folder: Path) -> None:
        with atomic_folder(folder) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            save_file(code.state_dict(), part / CODE_FILE)

    optimizer_list = optimizers([model], [code], arguments.learning_rate, OTHERS_RATE)
    trained = nn.ModuleList([model, code])
    steps, decay_ratio = arguments.steps, arguments.decay_ratio
    train(trained, losses, optimizer_list, steps, arguments.out, save, decay_ratio)


if __name__ == "__main__":
    run_command(main)
