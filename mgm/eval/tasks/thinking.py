"""Removes <think> blocks from responses."""

# Source: the default of lmms-eval's --reasoning_tags.
THINKING_TAGS = (("<think>", "</think>"), ("<analysis>", "</analysis>"))


def strip_thinking(text: str) -> str:
    """Remove reasoning blocks and surrounding whitespace.

    If there are closing tags only, since the prompt ended with the opening one, the text after the
    last of them remains. A block that is not closed remains.
    Source: lmms-eval's `strip_reasoning_tags`.
    """
    for opening, closing in THINKING_TAGS:
        while (begin := text.find(opening)) >= 0 and (end := text.find(closing, begin)) >= 0:
            text = text[:begin] + text[end + len(closing) :]
        if opening not in text:
            text = text.rpartition(closing)[2]
    return text.strip()
