"""Renders a sample as HTML: its images, and its tokens with the supervised ones in colour."""

import html
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from mgm.data.sources.sample import Sample
from mgm.data.text.templates import ConversationTemplate
from mgm.model.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from mgm.data.processing_mgm import MGMProcessor

NEIGHBOURS = 8  # preceding tokens that are decoded with a token
UNFINISHED = "\N{REPLACEMENT CHARACTER}"

STYLE = """
body { font: 16px/1.7 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
.token { border-radius: 3px; padding: 1px 0; white-space: pre-wrap; outline: 1px solid #0001 }
.learned { background: #b8e6c1 }
.image { background: #cfe2ff; padding: 1px 6px }
img { height: 12rem; margin: 0 1rem 1rem 0 }
"""


def sample_page(
    sample: Sample,
    template: ConversationTemplate,
    processor: "MGMProcessor",
    addresses: Sequence[str],
    title: str,
) -> str:
    """HTML of one sample.

    Args:
        sample: a conversation with its images.
        template: its conversation template.
        processor: processor of the model.
        addresses: URLs of its images.
        title: title of the page.
    """
    ids, labels = processor.encode_segments(sample.segments(template))
    learned = sum(label != IGNORE_INDEX for label in labels)
    spans = []
    for is_image, group in groupby(
        zip(ids, labels, strict=True), key=lambda pair: pair[0] == processor.image_token_id
    ):
        pairs = list(group)
        if is_image:
            spans.append(f'<span class="token image">{len(pairs)} image positions</span>')
            continue
        texts = _texts(processor, [token for token, _ in pairs])
        for (token, label), text in zip(pairs, texts, strict=True):
            kind = "token" if label == IGNORE_INDEX else "token learned"
            shown = html.escape(text.replace("\n", "⏎\n"))
            spans.append(f'<span class="{kind}" title="{token}">{shown}</span>')
    images = "".join(
        f'<img src="{html.escape(address)}" alt="image {number}">'
        for number, address in enumerate(addresses, start=1)
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<p>{len(ids)} positions, {learned} of them learned (green).</p>"
        f"<p>{images}</p><p>{''.join(spans)}</p></html>\n"
    )


def _texts(processor: "MGMProcessor", ids: Sequence[int]) -> list[str]:
    """The text of each token; a character of several tokens belongs to the last of them."""
    decode = processor.tokenizer.decode
    texts = []
    for index in range(len(ids)):
        start = max(0, index - NEIGHBOURS)
        before, whole = decode(ids[start:index]), decode(ids[start : index + 1])
        texts.append(whole.rstrip(UNFINISHED)[len(before.rstrip(UNFINISHED)) :])
    return texts
