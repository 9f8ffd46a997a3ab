"""Answers without the reasoning that a model writes before them."""

# Source: the default of lmms-eval's --reasoning_tags.
THINKING_TAGS = (("<think>", "</think>"), ("<analysis>", "</analysis>"))


def strip_thinking(text: str) -> str:
    """An answer without its blocks of reasoning and without blanks around it.

    Of a text with a closing tag alone, since the prompt ended with the opening one, what follows
    the last closing tag is the answer; a block that is not closed stays.
    Source: lmms-eval's `strip_reasoning_tags`.
    """
    for opening, closing in THINKING_TAGS:
        while (begin := text.find(opening)) >= 0 and (end := text.find(closing, begin)) >= 0:
            text = text[:begin] + text[end + len(closing) :]
        if opening not in text:
            text = text.rpartition(closing)[2]
    return text.strip()
