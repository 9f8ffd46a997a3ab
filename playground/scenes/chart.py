"""Questions common to bar and line charts."""

from collections.abc import Sequence

from playground.scenes.qa import QAPair


def title_question(title: str) -> QAPair:
    """Make the question for the title of a chart."""
    answer = f"The title of the chart is {title}."
    return QAPair("title", ("What is the title of the chart?",), title, answer, ("title",))


def extreme_questions(
    labels: Sequence[str], values: Sequence[int], noun: str, question: str
) -> list[QAPair]:
    """Make the questions for the highest and the lowest value, and for their labels.

    Args:
        labels: labels of the chart.
        values: value of each label.
        noun: noun for a label, as in "month".
        question: paraphrase, with {word} for "highest" or "lowest".
    """
    result = []
    for word, pick in (("highest", max), ("lowest", min)):
        index = values.index(pick(values))
        label, value = labels[index], values[index]
        questions = (f"Which {noun} has the {word} value?", question.format(word=word))
        answer = f"The {noun} with the {word} value is {label}."
        result.append(QAPair(word, questions, label, answer, (f"label {index}",), clue=str(value)))
        questions, answer = (f"What is the {word} value?",), f"The {word} value is {value}."
        result.append(QAPair(f"{word} value", questions, str(value), answer, (f"value {index}",)))
    return result
