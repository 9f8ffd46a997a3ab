"""What can be asked about bar and line charts alike."""

from playground.scenes.asking import Ask


def ask_title(title: str) -> Ask:
    """What the chart is called."""
    answer = f"The title of the chart is {title}."
    return Ask("title", ("What is the title of the chart?",), title, answer, ("title",))


def ask_extreme(word: str, value: int, read: str) -> Ask:
    """The highest or the lowest value, which stands in the text with the key `read`."""
    answer = f"The {word} value is {value}."
    return Ask(f"{word} value", (f"What is the {word} value?",), str(value), answer, (read,))
