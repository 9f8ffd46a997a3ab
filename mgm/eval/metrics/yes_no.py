"""Answers that are yes or no: VLMEvalKit's parser, and the F1 of yes."""

from mgm.eval.harness.question import Credit
from mgm.eval.metrics.vqa_accuracy import VLMEVALKIT_MARKS, without_punctuation

YES, NO, OTHER = "yes", "no", "other"


def extracted_yes_or_no(text: str) -> str:
    """The one of both words that stands in an answer; "other": neither, or both.

    Source: YOrN_Extraction of VLMEvalKit's yorn.py.
    """
    words = without_punctuation(text.lower(), VLMEVALKIT_MARKS).split()
    found = {YES, NO}.intersection(words)
    return found.pop() if len(found) == 1 else OTHER


def f1_credit(parsed: str, label: str, other_is_missed: bool = True) -> Credit:
    """The credit of one answer, with what it adds to the F1 of yes.

    2 TP / (2 TP + FP + FN) is the harmonic mean of precision and recall.

    Args:
        parsed: "yes", "no", or "other" for an answer that is neither.
        label: "yes" or "no".
        other_is_missed: whether "other" to a question whose answer is yes is a false negative.
            To one whose answer is no it is no false positive in any case.
    """
    if parsed == label == YES:
        return Credit(1.0, numerator=2, denominator=2)
    if label == YES:
        return Credit(0.0, denominator=float(parsed == NO or other_is_missed))
    return Credit(float(parsed == label), numerator=0, denominator=float(parsed == YES))
