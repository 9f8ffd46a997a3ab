"""A sample as the model reads it, on a page: what is learned of it in colour, token by token."""

import html
import os
from itertools import groupby
from pathlib import Path

from mgm.data.conversation import encode
from mgm.data.processor import MGMProcessor
from mgm.data.samples import Sample
from mgm.data.templates import Template
from mgm.model.supervised import IGNORED

STYLE = """
body { font: 16px/1.7 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
.token { border-radius: 3px; padding: 1px 0; white-space: pre-wrap; outline: 1px solid #0001 }
.learned { background: #b8e6c1 }
.image { background: #cfe2ff; padding: 1px 6px }
img { height: 12rem; margin: 0 1rem 1rem 0 }
"""


def sample_page(
    sample: Sample, template: Template, processor: MGMProcessor, image_folder: Path, title: str
) -> str:
    """HTML of one sample.

    Args:
        sample: a conversation with its images.
        template: the way it is written.
        processor: the model's.
        image_folder: where the sample's image paths begin.
        title: of the page.
    """
    ids, labels = encode(
        sample.segments(template),
        processor.tokenizer,
        processor.image_token_id,
        processor.image_tokens_per_image,
    )
    learned = sum(label != IGNORED for label in labels)
    pieces = []
    for is_image, group in groupby(
        zip(ids, labels, strict=True), key=lambda pair: pair[0] == processor.image_token_id
    ):
        pairs = list(group)
        if is_image:
            pieces.append(f'<span class="token image">{len(pairs)} image positions</span>')
            continue
        for token, label in pairs:
            kind = "token" if label == IGNORED else "token learned"
            text = html.escape(_shown(processor.tokenizer.decode([token])))
            pieces.append(f'<span class="{kind}" title="{token}">{text}</span>')
    images = "".join(
        f'<img src="{html.escape(os.path.abspath(image_folder / name))}" alt="{html.escape(name)}">'  # noqa: PTH100
        for name in sample.images
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<p>{len(ids)} positions, {learned} of them learned (green).</p>"
        f"<p>{images}</p><p>{''.join(pieces)}</p></html>\n"
    )


def _shown(text: str) -> str:
    """With a sign where a line ends, or nothing would be seen of it."""
    return text.replace("\n", "⏎\n") if text else "·"
