"""What can be asked about bar and line charts alike."""

from collections.abc import Sequence

from playground.scenes.asking import Ask


def ask_title(title: str) -> Ask:
    """What the chart is called."""
    answer = f"The title of the chart is {title}."
    return Ask("title", ("What is the title of the chart?",), title, answer, ("title",))


def ask_extremes(
    labels: Sequence[str], values: Sequence[int], noun: str, question: str
) -> list[Ask]:
    """The highest and the lowest value, and the labels they have.

    Args:
        noun: what a label stands for, as in "month".
        question: a second wording, with {word} for "highest" or "lowest".
    """
    result = []
    for word, pick in (("highest", max), ("lowest", min)):
        index = values.index(pick(values))
        label, value = labels[index], values[index]
        questions = (f"Which {noun} has the {word} value?", question.format(word=word))
        answer = f"The {noun} with the {word} value is {label}."
        result.append(Ask(word, questions, label, answer, (f"label {index}",), clue=str(value)))
        questions, answer = (f"What is the {word} value?",), f"The {word} value is {value}."
        result.append(Ask(f"{word} value", questions, str(value), answer, (f"value {index}",)))
    return result
