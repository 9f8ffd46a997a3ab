"""The end of a language model, for the few tokens whose next ones are wanted.

When a prompt is read, every layer gives the next one something for all tokens, and the last one
keys and values. What stands behind its attention, most of a layer, and the head are needed for the
last token of a prompt alone.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

BEHIND_ATTENTION = ("self_attn.o_proj", "mlp")  # of a layer, in most families


class LastLayer:
    """The parts of a language model's last layer that look at one token at a time, and its head.

    Args:
        language_model: if its layers are built in an unusual way, they compute everything.

    Raises:
        ValueError: it has no head.
    """

    def __init__(self, language_model: PreTrainedModel) -> None:
        layers = getattr(language_model.get_decoder(), "layers", None)
        modules = dict(layers[-1].named_modules()) if isinstance(layers, nn.ModuleList) else {}
        self._parts = [modules[name] for name in BEHIND_ATTENTION if name in modules]
        head = language_model.get_output_embeddings()
        if head is None:
            raise ValueError(f"{type(language_model).__name__} has no head")
        self._head = head

    @contextmanager
    def only_for(self, rows: Tensor, places: Tensor) -> Generator[None]:
        """Have calls compute these for some tokens alone: logits are then (1, tokens, vocabulary).

        Calls of other threads compute everything.

        Args:
            rows: (tokens) of the batch.
            places: (tokens) in these rows.
        """

        def cells(like: Tensor) -> tuple[Tensor, Tensor]:
            # The layers of a model may lie on several devices.
            return rows.to(like.device), places.to(like.device)

        def chosen(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if get_ident() != caller:
                return None
            hidden, *others = args
            sizes.append(hidden.shape[:2])
            return hidden[cells(hidden)].unsqueeze(0), *others

        def spread(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if get_ident() != caller:
                return None
            few, *others = output if isinstance(output, tuple) else (output,)
            everywhere = few.new_zeros(*sizes.pop(), few.shape[-1])
            everywhere[cells(few)] = few[0]
            # Experts may tell by what routes they came.
            return (everywhere, *others) if isinstance(output, tuple) else everywhere

        caller = get_ident()
        sizes: list[tuple[int, ...]] = []
        with ExitStack() as hooks:
            for part in (*self._parts, self._head):
                hooks.callback(part.register_forward_pre_hook(chosen).remove)
            for part in self._parts:
                hooks.callback(part.register_forward_hook(spread).remove)
            yield
