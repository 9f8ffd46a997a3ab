"""Where the published training text or its label mask is wrong, told by its cause.

Published training masks a sample turn by turn: it splits the text at the template's separators,
tokenises every turn alone, and adds up the lengths. Where they do not come to the length of the
whole, nothing of the sample is learned. `counted_length` repeats that sum, so that a difference
between our labels and the published ones has a cause, or is a fault of ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from mgm.data.text.conversation import Segment
from mgm.data.text.encoding import encode
from mgm.data.text.templates import IMAGE_MARKER, ConversationTemplate
from mgm.data.text.tokenizer import leading_ids

PUBLISHED_IMAGE = -200  # the id at image markers in the golden records
Message = dict[str, str]


@dataclass(frozen=True)
class Splitting:
    """How published training splits a text into turns.

    Attributes:
        end: what stands between turns.
        opening: what stands between a question and its answer.
        first: the length before the first turn.
        ends_questions: `end` also follows the system text and every question.
    """

    end: str
    opening: str
    first: int = 1
    ends_questions: bool = False


# By how an answer ends in the template.
SPLITTINGS = {
    "</s>": Splitting("</s>", " ASSISTANT: "),
    " </s>": Splitting("</s>", "[/INST] "),
    "<end_of_turn>\n<eos>": Splitting("<eos>", "<start_of_turn>model\n"),
    "<|eot_id|>": Splitting(
        "<|eot_id|>",
        "<|eot_id|><|start_header_id|>system<|end_header_id|>\n\n",
        ends_questions=True,
    ),
    "<|im_end|>": Splitting(
        "<|im_end|>", "<|im_end|><|im_start|>assistant\n", first=0, ends_questions=True
    ),
}


def is_caption(template: ConversationTemplate) -> bool:
    """Whether published training has its code for captions take this template."""
    return template.training is not None and template.training.drops_questions


def has_turn_separator(template: ConversationTemplate) -> bool:
    """Whether published training writes `###` separators, having no code for this template."""
    return template.training is not None and bool(template.training.turn_separator)


def text_cause(
    template: ConversationTemplate, messages: Sequence[Message], pads: bool
) -> str | None:
    """Why published training has other ids for a conversation, or none; None: it has ours.

    Args:
        template: of the record.
        messages: the conversation.
        pads: whether the tokenizer comes with a padding token.
    """
    if not pads and template.layout.answer_open.startswith("<start_of_turn>"):
        return "no padding token"
    texts = [message["value"] for message in messages]
    if is_caption(template) and (len(texts) != 2 or IMAGE_MARKER not in texts[0]):
        return "not a caption"
    if any(text.count(IMAGE_MARKER) > 1 for text in texts):
        return "several images"
    if "" in texts and not is_caption(template) and not has_turn_separator(template):
        return "empty message"
    return None


def loses_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether published tokenising takes a token off every piece of `text` after an image.

    It takes off what the tokenizer put before the piece, if the first piece begins with that; but
    the first piece may hold it as text.
    """
    written = text.startswith(str(tokenizer.bos_token)) and IMAGE_MARKER in text
    return written and not leading_ids(tokenizer)


def counted_length(
    text: str, splitting: Splitting, tokenizer: PreTrainedTokenizerBase, correction: int
) -> tuple[int, bool]:
    """Tokens of `text` as published training adds them up, and whether every turn could be split.

    Args:
        text: the whole conversation, image markers in place.
        splitting: of the template.
        tokenizer: of the record.
        correction: tokens added to every turn, or taken from every turn but the first.
    """
    rounds = text.split(splitting.end)
    if splitting.ends_questions:
        starts = [0, *range(3, len(rounds), 2)]
        stops = [3, *(start + 2 for start in starts[1:])]
        bounds = zip(starts, stops, strict=True)
        rounds = [splitting.end.join(rounds[start:stop]) for start, stop in bounds]
    length = splitting.first
    for index, text_of_round in enumerate(rounds):
        if not text_of_round:
            return length, not any(rounds[index:])
        if text_of_round.count(splitting.opening) != 1:
            return length, False
        length += len(encode([Segment(text_of_round)], tokenizer, PUBLISHED_IMAGE, 1)[0])
        length -= text_of_round.count(IMAGE_MARKER) if loses_tokens(text_of_round, tokenizer) else 0
        length += correction if correction > 0 or index else 0
    return length, True


def published_correction(splitting: Splitting, legacy: bool) -> int:
    """What published training adds to the length of a turn for a tokenizer that is `legacy`."""
    if splitting.opening == " ASSISTANT: ":
        return 0 if legacy else -1
    return int(legacy and not splitting.first)


def mask_cause(
    template: ConversationTemplate,
    text: str,
    open_question: bool,
    tokenizer: PreTrainedTokenizerBase,
    legacy: bool,
    total: int,
) -> tuple[str | None, int | None]:
    """Why the published mask of a sample is wrong, and the length that was added up for it.

    Args:
        template: of the record.
        text: what published training tokenised, image markers in place.
        open_question: whether the last question has no answer.
        tokenizer: of the record.
        legacy: whether published training holds it for a legacy one.
        total: tokens of the whole that are not padding.

    Returns:
        None as the cause where the mask is right; None as the length where nothing is counted.
    """
    if has_turn_separator(template):
        return "signals", None
    if is_caption(template):
        return None, None
    splitting = SPLITTINGS[template.layout.answer[1]]
    correction = published_correction(splitting, legacy)
    counted, splits = counted_length(text, splitting, tokenizer, correction)
    if counted == total:
        return None, counted
    if open_question:
        return "open question", counted
    if not splits:
        return "separator in text", counted
    other = published_correction(splitting, not legacy)
    if other != correction and counted_length(text, splitting, tokenizer, other)[0] == total:
        return ("later turns" if splitting.first else "end token"), counted
    return "foreign tokenizer", counted


def warned(record: dict[str, Any]) -> tuple[int, int] | None:
    """The two lengths in the warning that published training printed for a record."""
    for line in record.get("stdout", "").splitlines():
        if line.startswith("WARNING: tokenization mismatch: "):
            counted, total = line.removesuffix(". (ignored)").split(": ")[-1].split(" vs. ")
            return int(counted), int(total)
    return None
