"""Causes of wrong training texts and label masks in the published implementation.

Published training masks a sample turn by turn: it splits the text at the template's separators,
tokenises each turn separately, and adds up the lengths. If the sum is not the length of the whole
sample, it masks all labels. `counted_length` repeats that sum, so that every difference between our
labels and published ones has a known cause, or is an error of ours.
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
        end: separator of turns.
        opening: separator of a question and its answer.
        first: number of tokens before the first turn.
        ends_questions: whether `end` also follows the system prompt and every question.
    """

    end: str
    opening: str
    first: int = 1
    ends_questions: bool = False


# By the text after an answer in the template.
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
    """Whether published training uses its code for captions with this template."""
    return template.training is not None and template.training.drops_questions


def has_turn_separator(template: ConversationTemplate) -> bool:
    """Whether published training writes `###` separators, for lack of code for this template."""
    return template.training is not None and bool(template.training.turn_separator)


def text_cause(
    template: ConversationTemplate, messages: Sequence[Message], pads: bool
) -> str | None:
    """Why published training has other ids for a conversation, or none; None: they are equal.

    Args:
        template: template of the record.
        messages: the conversation.
        pads: whether the tokenizer has a padding token by default.
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
    """Whether published tokenisation drops a token after each image in `text`.

    It drops the first token of each part after an image if the first part starts with BOS; but that
    BOS may be in the text, and not added by the tokenizer.
    """
    written = text.startswith(str(tokenizer.bos_token)) and IMAGE_MARKER in text
    return written and not leading_ids(tokenizer)


def counted_length(
    text: str, splitting: Splitting, tokenizer: PreTrainedTokenizerBase, correction: int
) -> tuple[int, bool]:
    """The sum of turn lengths of published training, and whether every turn could be split.

    Args:
        text: the whole conversation, with image markers.
        splitting: splitting of the template.
        tokenizer: tokenizer of the record.
        correction: added to the length of every turn; if negative, of every turn but the first.
    """
    turns = text.split(splitting.end)
    if splitting.ends_questions:
        starts = [0, *range(3, len(turns), 2)]
        stops = [3, *(start + 2 for start in starts[1:])]
        bounds = zip(starts, stops, strict=True)
        turns = [splitting.end.join(turns[start:stop]) for start, stop in bounds]
    length = splitting.first
    for index, turn in enumerate(turns):
        if not turn:
            return length, not any(turns[index:])
        if turn.count(splitting.opening) != 1:
            return length, False
        length += len(encode([Segment(turn)], tokenizer, PUBLISHED_IMAGE, 1)[0])
        length -= turn.count(IMAGE_MARKER) if loses_tokens(turn, tokenizer) else 0
        length += correction if correction > 0 or index else 0
    return length, True


def published_correction(splitting: Splitting, legacy: bool) -> int:
    """The correction of a turn's length by the tokenizer's `legacy` attribute."""
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
    """Why the published mask of a sample is wrong, and the sum of its turn lengths.

    Args:
        template: template of the record.
        text: text that published training tokenised, with image markers.
        open_question: whether the last question has no answer.
        tokenizer: tokenizer of the record.
        legacy: whether published training takes it for a legacy tokenizer.
        total: number of tokens of the sample without padding.

    Returns:
        The cause, None if the mask is right; and the sum, None if none is computed.
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
    """The two lengths in the warning of published training for a record."""
    for line in record.get("stdout", "").splitlines():
        if line.startswith("WARNING: tokenization mismatch: "):
            counted, total = line.removesuffix(". (ignored)").split(": ")[-1].split(" vs. ")
            return int(counted), int(total)
    return None
