"""Pre-train the nano language model on text: descriptions of scenes and questions about them."""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mgm.atomic import atomic_folder
from mgm.errors import run_command
from playground.corpus import text_sample
from playground.pretraining.loop import train
from playground.tokenizer import conversation_ids, read_tokenizer

ATTENTION = "eager"  # faster than sdpa for short rows in bfloat16 on a CPU


class TextStream(IterableDataset[Tensor]):
    """An endless stream of rows of `length` token ids, conversations one after the other."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, length: int, seed: int) -> None:
        self.tokenizer, self.length, self.seed = tokenizer, length, seed

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker else (0, 1)
        pending: list[int] = []
        while True:
            pending += conversation_ids(self.tokenizer, text_conversation(self.seed + number))
            number += step
            while len(pending) >= self.length:
                yield torch.tensor(pending[: self.length])
                pending = pending[self.length :]


def text_conversation(seed: int) -> list[tuple[str, str]]:
    """Questions and answers about a scene that the first question describes."""
    description, [(question, answer), *rest] = text_sample(seed, "train")
    return [(f"{description}\n{question}", answer), *rest]


def nano_language_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama of 2.1 million parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=448,
            num_hidden_layers=5,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the model")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2_000_000_000)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(arguments.seed)
    tokenizer = read_tokenizer(arguments.tokenizer)
    model = nano_language_model(tokenizer)
    model.set_attn_implementation(ATTENTION)
    stream = TextStream(tokenizer, arguments.length, arguments.seed)
    loader = DataLoader(stream, arguments.batch_size, num_workers=arguments.workers)

    def losses() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for ids in loader:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=ids, labels=ids).loss
            yield loss, {"loss": loss}

    def save() -> None:
        with atomic_folder(arguments.out) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)

    groups = [{"params": list(model.parameters())}]
    train(losses(), groups, arguments.steps, [arguments.learning_rate], save)


if __name__ == "__main__":
    run_command(main)
