"""Whether an answer says yes or no, as VLMEvalKit sees it."""

import re


def extracted_yes_or_no(text: str) -> str:
    """Which of both words is among an answer's; "other": neither, or both.

    Source: YOrN_Extraction of VLMEvalKit's yorn.py.
    """
    words = set(re.findall(r"[^\W_]+", text.lower()))
    said = words & {"yes", "no"}
    return said.pop() if len(said) == 1 else "other"
