"""Model adapter for lmms-eval: lmms_eval --model mgm --model_args pretrained=FOLDER."""

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
from mgm.eval.harness.models import generate_all

DEFAULT_MAX_NEW_TOKENS = 1024  # if a task does not set it


class LMMSMiniGemini(lmms):
    """A native or published checkpoint as a model of lmms-eval.

    Args:
        pretrained: folder, or name on the hub.
        device: as for `mgm.load`; lmms-eval passes its own option too.
        dtype: as for `mgm.load`.
        quantize: as for `mgm.load`.
        base: as for `mgm.load`.
        conv_mode: conversation template; None: the model's own.
        batch_size: maximum number of running sequences.
        max_batch_size: unused; lmms-eval passes it.

    Raises:
        MGMError: the checkpoint cannot be loaded.
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
        """The rank of this process."""
        return self._rank

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return self._world_size

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Generate the response to each request, in order."""
        results: dict[int, GenerationResult] = {}
        with tqdm(total=len(requests), disable=self._rank > 0, desc="mgm") as bar:
            for number, answer in generate_all(
                self.engine, self._requests(requests), self._batch_size
            ):
                counts = TokenCounts(answer.prompt_tokens, len(answer.tokens))
                results[number] = GenerationResult(answer.text.strip(), counts)
                self.cache_hook.add_partial(
                    "generate_until", requests[number].args, results[number].text
                )
                bar.update()
        return [results[number] for number in range(len(requests))]

    def _requests(self, requests: Iterable[Instance]) -> Iterator[tuple[int, Request]]:
        for number, one in enumerate(requests):
            context, settings, to_visual, doc_id, task, split = one.args
            images = self._images(to_visual, doc_id, task, split)
            yield number, _request(context, images, settings)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether it is the greedy one."""
        return [self._likelihood(one) for one in tqdm(requests, disable=self._rank > 0)]

    @torch.inference_mode()
    def _likelihood(self, one: Instance) -> tuple[float, bool]:
        context, target, to_visual, doc_id, task, split = one.args
        document = self.task_dict[task][split][doc_id]
        continuation = target if isinstance(target, str) else target(document)
        request = _request(context, self._images(to_visual, doc_id, task, split), {})
        processor, model = self.engine.processor, self.engine.model
        prompt = processor.encode(self.engine.prompt(request))
        target_ids = processor.tokenizer(continuation, add_special_tokens=False)["input_ids"]
        features = self.engine.images.encode(request.images, STORED)
        logits = model(
            input_ids=torch.tensor([[*prompt, *target_ids]], device=model.device),
            image_features=torch.stack(features) if features else None,
            logits_to_keep=len(target_ids) + 1,
        ).logits[0, :-1]
        expected = torch.tensor(target_ids, device=logits.device)
        log_probs = logits.float().log_softmax(-1).gather(-1, expected[:, None])
        return float(log_probs.sum()), bool((logits.argmax(-1) == expected).all())

    def generate_until_multi_round(self, requests: list[Instance]) -> list[GenerationResult]:
        """Generate the responses to multi-round requests, a list of rounds for each, in order.

        The prompt of a round depends on the responses before: all requests run a round together.
        """
        outputs: list[list[str | None]] = [[] for _ in requests]
        counts = [TokenCounts(0, 0) for _ in requests]
        round_info: list[Any] = [None] * len(requests)  # state of the task between rounds
        pending: dict[int, Request] = {}
        for number, one in enumerate(requests):
            context, settings, to_visual, _, doc_id, task, split = one.args
            images = self._images(to_visual, doc_id, task, split)
            pending[number] = _request(context, images, settings)
        round_index = 0
        while pending:
            round_index += 1
            bar = tqdm(total=len(pending), disable=self._rank > 0, desc=f"mgm, round {round_index}")
            with bar:
                for number, answer in generate_all(self.engine, pending.items(), self._batch_size):
                    outputs[number].append(answer.text.strip())
                    counts[number].input_tokens += answer.prompt_tokens
                    counts[number].output_tokens += len(answer.tokens)
                    bar.update()
            numbers, pending = sorted(pending), {}
            for number in numbers:
                _, settings, _, to_text, doc_id, task, split = requests[number].args
                visuals, context, ended, before, round_info[number] = to_text(
                    self.task_dict[task][split][doc_id],
                    previous_output=outputs[number],
                    round_idx=round_index,
                    previous_round_info=round_info[number],
                )
                outputs[number] = list(before)  # the task may change them
                if not ended:
                    images = _flat(visuals, task, doc_id)
                    pending[number] = _request(context, images, settings)
        return [GenerationResult(*pair) for pair in zip(outputs, counts, strict=True)]

    def _images(self, to_visual: Any, doc_id: int, task: str, split: str) -> list[Image.Image]:
        """The images of a document; videos raise an MGMError."""
        visuals = to_visual(self.task_dict[task][split][doc_id]) if to_visual else []
        return _flat(visuals, task, doc_id)


def _flat(visuals: Any, task: str, doc_id: int) -> list[Image.Image]:
    """Flatten a task's visuals to images; videos raise an MGMError."""
    flat = [one for part in visuals or [] for one in (part if isinstance(part, list) else [part])]
    for one in flat:
        if not isinstance(one, Image.Image):
            raise MGMError(f"{task}, document {doc_id}: {type(one).__name__} is not an image")
    return [one.convert("RGB") for one in flat]


def _request(context: str, images: list[Image.Image], settings: dict[str, Any]) -> Request:
    """Convert to a request of the engine: images first, unless the text has a marker for each."""
    if context.count(IMAGE_MARKER) != len(images):
        context = context.replace(IMAGE_MARKER, "").strip()
    until = settings.get("until") or []
    sampled = settings.get("do_sample", bool(settings.get("temperature")))
    return Request(
        context,
        images=images,
        max_new_tokens=int(settings.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS),
        temperature=float(settings.get("temperature") or 0) if sampled else 0.0,
        top_p=float(settings.get("top_p") or 1.0) if sampled else 1.0,
        num_beams=int(settings.get("num_beams") or 1),
        stop=[until] if isinstance(until, str) else [text for text in until if text],
        orientation=STORED,  # `datasets` has applied EXIF orientation already
    )
