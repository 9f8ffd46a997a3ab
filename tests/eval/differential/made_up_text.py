"""Random open-ended responses and targets by a seed."""

from collections.abc import Sequence
from random import Random

from tests.eval.differential.made_up import LONG

NUMBERS = (
    "1,000", "1000", "1,,000", "12,5", "3.5", "3.", ".5", "0.50", "5,000.00", "$5.99", "10%",
    "12:30", "none", "zero", "one", "two", "ten", "twelve", "Two", "-5", "−5", "1e3", "1_000",
    "inf", "nan", "0", "007", "42", "1 000", "1/2", "½", "１２", "٣", "2.0", "2.1", "95", "99.5%",
    "-0.0", "2018",
)  # fmt: skip
PHRASES = (
    "dont", "don't", "isnt", "cant", "wont", "somebody'd", "its", "it's", "Im", "I'm", "oclock",
    "a", "an", "the", "The A", "a dog", "the dog", "dogs", "dog's", "coca-cola", "coca cola",
    "café", "CAFÉ", "cafe", "İstanbul", "straße", "STRASSE", "ﬁne", "狗", "红色的车", "😀", "Ωmega",
    "e.g.", "U.S.A.", "st. mary", "mr. x", "5 p.m.", "n/a", "yes", "no", "unanswerable",
    "unsuitable", "left", "on the left", "red", "dark  red", "red and white", "new york, ny",
    "http://a.b/c?d=e", "a@b.c", "x = 3", "C:\\temp", "[1]", "{x}", "(two)", "B-52", "#1", "a_b",
    "Ｆｕｌｌ\u3000ｗｉｄｔｈ", "line\none", "tab\tbed", "two  blanks", "``quoted''", "it`s",
    "who?", "hey!",
)  # fmt: skip
DRESSES = (
    "{t}", "{t}", "{t}", "{t}", "{t}.", "{t}!", "{t}?", "{t},", "{t};", " {t} ", "\n{t}\n",
    "{t}\t", "{upper}", "{low}", "{title}", "a {t}", "The {t}", "an {t}", "the {t} is",
    "It is {t}.", "{t}'s", "The answer is {t}.", "Answer: {t}", "**{t}**", '"{t}"', "'{t}'",
    "({t})", "[{t}]", "`{t}`", "{t} and {o}", "{t}, {o}", "{t}/{o}", "{t}-{o}", "{t};{o}",
    "{t}: {o}", "{t} ({o})", "{o} {t}", "{t}%", "${t}", "{t}.0", "{t} .", "{t}.{o}", "{t}. {o}",
    "#{t}", "{t}…", "{t}\xa0", "\ufeff{t}", "{t}\nbecause of {o}", "{t} {t}", "{t}{t}", "{t}x",
    "x{t}", "{cut}", "{t} {o} {t}", "{t}\u3000{o}", "<think>{o}</think>{t}",
    "<think>\n{t}\n</think>\n\n{o}.", "{o}</think> {t}", "<think>{t}", "<THINK>{o}</THINK>{t}",
    "<analysis>{o}</analysis>{t}", "{{'answer': '{t}'}}", "{t}\x00",
)  # fmt: skip
OTHERS = (
    "", "", " ", "\n", ".", "?!", "...", "None", "nan", "NaN", "null", "N/A", "[]", "{}",
    "\u200b", "Sorry, I can't help with that.", "I cannot tell.", "Unanswerable", "Yes", "no.",
    "\x00", "%", "a b c d e f g", "the the the", "1. first\n2. second", "- one\n- two",
    "Failed to obtain answer",
)  # fmt: skip
YES_NO = (
    "{y}", "{y}", "{y}", "{y}", "{y}.", "{y}!", "{y},", "**{y}**", "**{y}.**", "'{y}'", "({y})",
    "{upper}", "{low}", "{low}.", " {y}", "{y} ", "\n{y}", "{y}\n", "{y}\n{o}", "{low} {olow}",
    "_{y}_", "{y}, there is.", "{y}, it is not.", "{y} and {olow}", "{y} or {olow}",
    "{olow}. {y}", "{y}/{o}", "The answer is {low}.", "Answer: {y}", "I would say {low}",
    "There is no dog.", "It is not there.", "There is a dog", "nope", "yep", "yeah", "y", "n",
    "Y", "N", "N.", "Y.", "not", "Not at all.", "cannot", "Nothing", "know", "yesterday",
    "Yes man", "no one", "NO", "no-one", "yes-no", "{y}-", "-{y}", "`{y}`",
    "<think>{o}</think>{y}", "<think>\n{olow}, or\n</think>\n\n{y}.", "{o}</think>{y}",
    "<think>{y}", "1", "0", "true", "False", "是", "ＹＥＳ", "Да", "yes\xa0", "no\u200b", "y e s",
    "{y}.{y}", "{y}:", '"{y}"', "...yes", ". no", ",no", "1,000 {low}", "1,000 {low}. x", "no,no",
    "{y};{o}", "[{y}]", "{y}@{o}", "{y}?",
)  # fmt: skip


def yes_no_answer(random: Random, right: str) -> str:
    """A response to a yes/no question, right more often than not."""
    if random.random() < 0.06:
        return random.choice(OTHERS)
    own, other = ("Yes", "No") if (right == "yes") == (random.random() < 0.7) else ("No", "Yes")
    return random.choice(YES_NO).format(
        y=own, o=other, low=own.lower(), olow=other.lower(), upper=own.upper()
    )


def short_answer(random: Random, right: Sequence[str]) -> str:
    """A response that contains one of the targets, or another answer."""
    if random.random() < 0.08 or not right:
        return random.choice(OTHERS)
    text = random.choice(right) if random.random() < 0.75 else random.choice(NUMBERS + PHRASES)
    other = random.choice(NUMBERS + PHRASES)
    return random.choice(DRESSES).format(
        t=text,
        o=other,
        upper=text.upper(),
        low=text.lower(),
        title=text.title(),
        cut=text[: len(text) - 1],
    )


def short_truth(random: Random) -> str:
    """A random target text."""
    return random.choice(NUMBERS + PHRASES)


def peoples_answers(random: Random, count: int = 10) -> list[str]:
    """Human answers to a question: mostly the same, in different words."""
    text = short_truth(random)
    forms = (text, text, text.upper(), f"the {text}", f"{text}.", short_truth(random))
    agreed = random.random()
    return [text if random.random() < agreed else random.choice(forms) for _ in range(count)]


def long_answers(right: str) -> list[str]:
    """Very long responses."""
    return [
        "x" * LONG,
        f"{right} " + "word " * (LONG // 5),
        "no, " * (LONG // 4) + right,
        f"<think>{'word ' * (LONG // 5)}</think>{right}",
        "." * 40 + right + "." * 40,
    ]
