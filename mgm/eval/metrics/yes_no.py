"""Answers that are yes or no: VLMEvalKit's parser, and the F1 of yes."""

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Credit, Response
from mgm.eval.metrics.vqa_accuracy import VLMEVALKIT_MARKS, without_punctuation

YES, NO, OTHER = "yes", "no", "other"
YES_NO_ATTEMPTS = 5  # of a judge whose reply is neither yes nor no
YES_NO_TEMPERATURE_STEP = 0.5  # of the judge, from one try to the next


def extracted_yes_or_no(text: str) -> str:
    """The one of both words that stands in an answer; "other": neither, or both.

    Source: YOrN_Extraction of VLMEvalKit's yorn.py.
    """
    words = without_punctuation(text.lower(), VLMEVALKIT_MARKS).split()
    found = {YES, NO}.intersection(words)
    return found.pop() if len(found) == 1 else OTHER


def judged_yes_or_no(response: Response, judge: Judge) -> str:
    """The word that an answer has, or that a language model takes it to mean.

    Source: YOrN_auxeval of VLMEvalKit's yorn.py; the words of the prompt are ours.

    Raises:
        MGMError: the judge does not reply.
    """
    parsed = extracted_yes_or_no(response.text)
    if parsed != OTHER or not judge.is_model:
        return parsed
    prompt = (
        "A question takes yes or no, and somebody has answered it in their own words. Say which of "
        "both the answer means.\nReply with one word: Yes, No, or Unknown if it means neither.\n\n"
        f"Question: {response.question.text}\nAnswer: {response.text}\nReply:"
    )
    for attempt in range(YES_NO_ATTEMPTS):
        reply = judge.complete(
            prompt,
            temperature=YES_NO_TEMPERATURE_STEP * attempt,
            max_tokens=16,
            accepts=lambda text: extracted_yes_or_no(text) != OTHER,
        )
        parsed = extracted_yes_or_no(reply)
        if parsed != OTHER:
            break
    return parsed


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
