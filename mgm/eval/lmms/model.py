"""Our engine under lmms-eval's tasks: lmms_eval --model mgm --model_args pretrained=FOLDER."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from PIL import Image
from tqdm import tqdm

from mgm.data.images.orientation import STORED
from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.core.request import Request
from mgm.engine.loading import load
from mgm.engine.scheduler.config import SchedulerConfig
from mgm.errors import MGMError
from mgm.eval.harness.models import answer_all

LONGEST = 1024  # tokens of an answer where a task says nothing


class LMMSMiniGemini(lmms):
    """A checkpoint of ours or a published one.

    Args:
        pretrained: its folder or name on the hub.
        device: as for `mgm.load`; lmms-eval's own option comes here, too.
        dtype: as for `mgm.load`.
        quantize: as for `mgm.load`.
        base: as for `mgm.load`.
        conv_mode: conversation template; None: the model's own.
        batch_size: answers at once.
        max_batch_size: lmms-eval gives it; nothing here depends on it.

    Raises:
        MGMError: it cannot be loaded so.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        dtype: str | None = None,
        quantize: str | None = None,
        base: str | None = None,
        conv_mode: str | None = None,
        batch_size: int | str = 16,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self._rank = int(os.environ.get("RANK", "0"))
        self._world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if self._world_size > 1 and torch.cuda.is_available():
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        # lmms-eval's own default is 1, which would throw the engine's batches away.
        self._batch_size = max(int(batch_size), 1) if str(batch_size).isdigit() else 16
        config = SchedulerConfig.offline(self._batch_size)
        self.engine = load(pretrained, device, dtype, quantize, base, scheduler_config=config)
        if conv_mode is not None:
            self.engine.use_template(conv_mode)

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self._rank

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self._world_size

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """The answer to every request, in order."""
        found: dict[int, GenerationResult] = {}
        with tqdm(total=len(requests), disable=self._rank > 0, desc="mgm") as bar:
            for number, answer in answer_all(self.engine, self._asked(requests), self._batch_size):
                counts = TokenCounts(answer.prompt_tokens, len(answer.tokens))
                found[number] = GenerationResult(answer.text.strip(), counts)
                self.cache_hook.add_partial(
                    "generate_until", requests[number].args, found[number].text
                )
                bar.update()
        return [found[number] for number in range(len(requests))]

    def _asked(self, requests: Iterable[Instance]) -> Iterator[tuple[int, Request]]:
        for number, one in enumerate(requests):
            context, settings, to_visual, doc_id, task, split = one.args
            images = self._images(to_visual, doc_id, task, split)
            yield number, _request(context, images, settings)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """How likely every continuation is, and whether it is the greedy one."""
        return [self._likelihood(one) for one in tqdm(requests, disable=self._rank > 0)]

    @torch.inference_mode()
    def _likelihood(self, one: Instance) -> tuple[float, bool]:
        context, target, to_visual, doc_id, task, split = one.args
        document = self.task_dict[task][split][doc_id]
        continuation = target if isinstance(target, str) else target(document)
        request = _request(context, self._images(to_visual, doc_id, task, split), {})
        processor, model = self.engine.processor, self.engine.model
        prompt = processor.encode(self.engine.prompt(request))
        written = processor.tokenizer(continuation, add_special_tokens=False)["input_ids"]
        features = self.engine.images.encode(request.images, STORED)
        logits = model(
            input_ids=torch.tensor([[*prompt, *written]], device=model.device),
            image_features=torch.stack(features) if features else None,
            logits_to_keep=len(written) + 1,
        ).logits[0, :-1]
        right = torch.tensor(written, device=logits.device)
        chances = logits.float().log_softmax(-1).gather(-1, right[:, None])
        return float(chances.sum()), bool((logits.argmax(-1) == right).all())

    def generate_until_multi_round(self, requests: list[Instance]) -> list[GenerationResult]:
        """The answers to every request, one of each round, in order.

        What a task asks next follows from what was answered: all requests go through a round
        together, as far as they have one.
        """
        said: list[list[str | None]] = [[] for _ in requests]
        counts = [TokenCounts(0, 0) for _ in requests]
        told: list[Any] = [None] * len(requests)  # what a task keeps from one round to the next
        asked: dict[int, Request] = {}
        for number, one in enumerate(requests):
            context, settings, to_visual, _, doc_id, task, split = one.args
            images = self._images(to_visual, doc_id, task, split)
            asked[number] = _request(context, images, settings)
        turn = 0
        while asked:
            turn += 1
            bar = tqdm(total=len(asked), disable=self._rank > 0, desc=f"mgm, round {turn}")
            with bar:
                for number, answer in answer_all(self.engine, asked.items(), self._batch_size):
                    said[number].append(answer.text.strip())
                    counts[number].input_tokens += answer.prompt_tokens
                    counts[number].output_tokens += len(answer.tokens)
                    bar.update()
            numbers, asked = sorted(asked), {}
            for number in numbers:
                _, settings, _, to_text, doc_id, task, split = requests[number].args
                visuals, context, ended, before, told[number] = to_text(
                    self.task_dict[task][split][doc_id],
                    previous_output=said[number],
                    round_idx=turn,
                    previous_round_info=told[number],
                )
                said[number] = list(before)  # as the task sees it, which may differ
                if not ended:
                    images = _flat(visuals, task, doc_id)
                    asked[number] = _request(context, images, settings)
        return [GenerationResult(*pair) for pair in zip(said, counts, strict=True)]

    def _images(self, to_visual: Any, doc_id: int, task: str, split: str) -> list[Image.Image]:
        """The images of a document; videos are refused."""
        visuals = to_visual(self.task_dict[task][split][doc_id]) if to_visual else []
        return _flat(visuals, task, doc_id)


def _flat(visuals: Any, task: str, doc_id: int) -> list[Image.Image]:
    """Images from what a task gives; videos are refused."""
    flat = [one for part in visuals or [] for one in (part if isinstance(part, list) else [part])]
    for one in flat:
        if not isinstance(one, Image.Image):
            raise MGMError(f"{task}, document {doc_id}: {type(one).__name__} is no image")
    return [one.convert("RGB") for one in flat]


def _request(context: str, images: list[Image.Image], settings: dict[str, Any]) -> Request:
    """A task's question as ours: images first, unless it marks the place of each."""
    if context.count(IMAGE_MARKER) != len(images):
        context = context.replace(IMAGE_MARKER, "").strip()
    until = settings.get("until") or []
    sampled = settings.get("do_sample", bool(settings.get("temperature")))
    return Request(
        context,
        images=images,
        max_new_tokens=int(settings.get("max_new_tokens") or LONGEST),
        temperature=float(settings.get("temperature") or 0) if sampled else 0.0,
        top_p=float(settings.get("top_p") or 1.0) if sampled else 1.0,
        num_beams=int(settings.get("num_beams") or 1),
        stop=[until] if isinstance(until, str) else [text for text in until if text],
        orientation=STORED,  # the library `datasets` has turned them, or else the harness does not
    )
