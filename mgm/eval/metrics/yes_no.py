"""Yes-or-no questions: VLMEvalKit's parser, with an LLM judge, and the F1 score of yes."""

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Credit, Response
from mgm.eval.metrics.vqa_accuracy import VLMEVALKIT_MARKS, remove_punctuation

YES, NO, OTHER = "yes", "no", "other"
YES_NO_ATTEMPTS = 5  # maximum attempts until a judge's reply can be parsed
YES_NO_TEMPERATURE_STEP = 0.5  # increase of the judge's temperature per attempt


def extract_yes_no(text: str) -> str:
    """Extract yes or no from a response; "other": neither, or both.

    Source: YOrN_Extraction of VLMEvalKit's yorn.py.
    """
    words = remove_punctuation(text.lower(), VLMEVALKIT_MARKS).split()
    stated = {YES, NO}.intersection(words)
    return stated.pop() if len(stated) == 1 else OTHER


def judge_yes_no(response: Response, judge: Judge) -> str:
    """Extract yes or no from a response, else let a judge model decide.

    Source: YOrN_auxeval of VLMEvalKit's yorn.py; the wording of the prompt is ours.

    Raises:
        MGMError: the judge does not reply.
    """
    parsed = extract_yes_no(response.text)
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
            accepts=lambda text: extract_yes_no(text) != OTHER,
        )
        parsed = extract_yes_no(reply)
        if parsed != OTHER:
            break
    return parsed


def f1_credit(parsed: str, label: str, other_is_missed: bool = True) -> Credit:
    """The credit of a response, with its terms of F1 = 2 TP / (2 TP + FP + FN) of yes.

    Args:
        parsed: "yes", "no", or "other".
        label: target, "yes" or "no".
        other_is_missed: whether "other" is a false negative if the label is yes. If the label is
            no, "other" is never a false positive.
    """
    if parsed == label == YES:
        return Credit(1.0, numerator=2, denominator=2)
    if label == YES:
        return Credit(0.0, denominator=float(parsed == NO or other_is_missed))
    return Credit(float(parsed == label), numerator=0, denominator=float(parsed == YES))
