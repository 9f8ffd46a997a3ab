"""Random questions and responses by a seed: typical ones of models, and unusual ones."""

from collections.abc import Mapping, Sequence
from random import Random

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORDS = (
    *("dog", "hot dog", "cat", "A cat", "red", "dark red", "blue", "two", "2", "3.5", "12", "0"),
    *("left", "on the left", "in front of", "a", "Yes", "No", "the bus", "Paris", "狗", "红色的车"),
    *("none", "None of the above", "All of A and B", "(A) and (C)", "25%", "$4.00", "1,000"),
    *("It is raining.", "B-52", "vitamin D", "x = 3", "café", "naïve", "banana", "an apple"),
)
ODD_CHOICES = ("None", "nan", "NA", "null", "N/A", "none", "NULL", "n/a", "-")
QUESTIONS = (
    *("Which colour is it?", "How many are there?", "What is it?", "图中是什么？", "Where is A?"),
    *("What is shown in the image, and what is its name", "Is the answer B or C?"),
)
DRESSES = (
    *("{l}", "{l}", "{l}", "{l}.", "({l})", "({l}).", "{l})", "{l}:", "{l},", "{l};", "[{l}]"),
    *("**{l}**", "**{l}.**", "**({l})**", "`{l}`", "*{l}*", "#{l}", "{{{l}}}"),
    *("$\\boxed{{{l}}}$", "{l}. {text}", "({l}) {text}", "{l}: {text}", "{l}) {text}"),
    *("{l} {text}", "**{l}. {text}**", "The answer is {l}.", "The answer is ({l})."),
    *("The correct answer is **{l}**.", "answer is {l}"),
    *("the correct answer is {l}, since it is {text}.", "Answer: {l}", "Answer: ({l})"),
    *("Answer:{l}", "ANSWER IS {l}", "The best answer is: {l}", "Final answer: **{l}**"),
    *("<answer>{l}</answer>", "<answer> {low} </answer>", "Option {l}", "option {l} is right"),
    *("I choose {l}", "my choice is {l}", "Therefore, {l} is correct.", "{l} is correct."),
    *("So it must be {l}", "It's {l}!", "{l}?", "答案是{l}", "答案：{l}", "选{l}。"),
    *("正确答案是 {l} 。", "答案为({l})", "정답은 {l}입니다", "答えは{l}です", "{text}"),
    *("{text}.", "It is {text}.", "{upper}", "The picture shows {text}", "{text} ({l})"),
    *("I think that the answer is {text} because of what is seen in it.", "{text}, so {l}"),
    *("{low}", "{low}.", "({low})", "{low})", "the answer is {low}", "option {low}"),
    *("{low}. {text}", " {l} ", "\n{l}\n", "\t{l}", "{l}\n\n{text}", "{l}{l}", "{l} {l}"),
    *("{l}\u00a0", "\ufeff{l}", "{o} or {l}", "Not {o}, but {l}", "{l}, {o}", "({o}) or ({l})"),
    *("{o}. no\n{l}. yes", "{o}{l}", "Both {l} and {o} are possible", "({l}) {text} ({o})"),
    *("{l}. {text} {o}. {other}", "{l}/{o}", "A person holds {text}, which is {l}"),
    *("A {text} is seen in it", "I see a {text}", "A is {l}", "answer is a {text}"),
    *("The answer is A or {l}", "answer is\n{l}", "The correct  answer is {l}"),
    *("<think>{o}</think>{l}", "<think>\nIt may be {o}. {other}\n</think>\n\n{l}."),
    *("</think>{l}", "{o} as I think</think>\n{l}", "<think>{l}", "<think>{l}</think>"),
    *("<THINK>{o}</THINK>{l}", "<think>{o}</think><think>{o}</think> The answer is {l}."),
    *("<analysis>{o}</analysis>{l}", "<thinking>{o}</thinking>{l}"),
    *("<think>a</think>{l}</think>", "</think>{o}<think>{l}"),
    *("Let us see. First, {other} is not there. Then, it looks like {text}.\nThe answer is {l}.",),
    *("{l}. {text}\n\nWhat is seen here is clearly {text} and not {other}; so I am sure of this.",),
    *("The image is of {other} and {text} and more things that do not matter at all here {l}",),
    *("Option A says one thing, option B another, but option {l} is what I see.",),
    *("A, B, C and D", "A. {other} B. {text} C. {other} D. {text}"),
    *("The options are A, B. I take the letter {l}", "\"{l}\"", "'{l}'"),
    *("{{\"answer\": \"{l}\"}}", "Answer: ${l}", "({l}", "{l}]", "-{l}-", "_{l}_"),
)  # fmt: skip
OTHERS = (
    *("", "", " ", "\n", ".", "?!", "()", "None", "none", "nan", "NaN", "NA", "null", "N/A"),
    *("Z", "(Z)", "E", "e", "F.", "I", "a", "an", "A cat", "Ä", "Ａ", "Ⓑ", "𝐀", "б", "😀"),
    *("\u200b", "B̲", "ß", "ı", "Sorry, I can't help with images of people yet."),
    *("I can't process this file.", "0", "1", "2."),
    *("I'm sorry, but without the image provided I do not know; A?",),
    *("Cannot determine the answer: B", "I am sorry, I cannot answer that."),
    *("Failed to obtain answer via API", "unanswerable", "7.0"),
    *("Failed to obtain answer via API. B", "It cannot be seen in this image.", "Yes", "No."),
    *("yes", "None of the above", "All of them", "I do not know which of A, B, C, D it is"),
    *("12", "3.50", "\\", "<image>", "%s {l}", "{}", "[]", "null\n", "0x1F", "1e400", "-inf"),
    *("١٢", "²"),
)  # fmt: skip
LONG = 100_000  # characters of the longest responses


def choice_row(
    random: Random, index: int, letters: str = "ABCD", odd: float = 0.15, gaps: float = 0.0
) -> dict[str, str]:
    """A multiple-choice question as a row of a table.

    Args:
        random: draws it.
        index: of the row.
        letters: of the columns for choices; at least two of them are filled.
        odd: how often a choice is one that tables take for a missing value.
        gaps: how often a choice is left out before others.
    """
    words = random.sample(WORDS, random.randint(2, len(letters)))
    words = [random.choice(ODD_CHOICES) if random.random() < odd else word for word in words]
    words = ["" if random.random() < gaps else word for word in words]
    row = dict.fromkeys(letters, "") | dict(zip(letters, words, strict=False))
    there = list(filled(row, letters)) or [letters[0]]
    return {
        "index": str(index),
        "question": random.choice(QUESTIONS),
        **row,
        "answer": random.choice(there),
        "category": random.choice(("colour", "count, area", "ocr")),
    }


def filled(row: Mapping[str, str], letters: str = "ABCDEFGHIJ") -> dict[str, str]:
    """The choices of a row by letter."""
    return {letter: row[letter] for letter in letters if row.get(letter)}


def choice_answer(random: Random, choices: Mapping[str, str], right: str) -> str:
    """A response to a multiple-choice question, right more often than by chance."""
    if random.random() < 0.12:
        return random.choice(OTHERS)
    letters = list(choices) or ["A"]
    letter = right if random.random() < 0.5 else random.choice([*letters, random.choice("ABCDE")])
    other = random.choice(letters)
    text = choices.get(letter, "nothing")
    answer = random.choice(DRESSES).format(
        l=letter,
        low=letter.lower(),
        o=other,
        text=text,
        upper=text.upper(),
        other=choices.get(other, "something"),
    )
    if random.random() < 0.02:
        return (
            answer + " " + random.choice(("la ", "A ", "x", "。", "B. ")) * random.choice((9, 400))
        )
    return answer


def long_answers(right: str) -> Sequence[str]:
    """Very long responses."""
    return (
        "x" * LONG,
        f"{right} " + "word " * (LONG // 5),
        "word " * (LONG // 5) + f"The answer is {right}.",
        "A B C D " * (LONG // 8),
    )
