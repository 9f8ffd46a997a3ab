"""Questions about signs."""

from random import Random

from playground.scenes.qa import ORDINALS, QAPair, yes_no_question
from playground.scenes.sign_spec import Spec


def sign_qa_pairs(spec: Spec, rng: Random) -> list[QAPair]:
    """List the questions about a sign, with answers."""
    if spec.layout == "boxes":
        return _box_pairs(spec, rng)
    color = spec.papers[0]
    if spec.bare:
        result = [
            QAPair(
                "color",
                ("What color is the background?", "What is the color of the background?"),
                color,
                f"The background is {color}.",
            ),
            QAPair(
                "color",
                ("What color is the text?", "What is the color of the text?"),
                spec.ink,
                f"The text is {spec.ink}.",
            ),
        ]
    else:
        result = [
            QAPair(
                "color",
                ("What color is the sign?", "What is the color of the sign?"),
                color,
                f"The sign is {color}.",
            )
        ]
    if spec.layout == "single":
        return result + _single_text_pairs(spec, rng)
    if spec.layout == "headline":
        for name, index in (("large", 1 - spec.small), ("small", spec.small)):
            result.append(
                QAPair(
                    name,
                    (
                        f"What does the {name} text say?",
                        f"Read the {name} text.",
                    ),
                    spec.texts[index],
                    f"The {name} text says {spec.texts[index]}.",
                    (f"line {index}",),
                )
            )
    else:
        count = len(spec.texts)
        result.append(
            QAPair(
                "lines",
                ("How many lines of text are there?",),
                str(count),
                f"There are {count} lines of text.",
            )
        )
    for name, index in (("top", 0), ("bottom", len(spec.texts) - 1)):
        text = spec.texts[index]
        result.append(
            QAPair(
                name,
                (
                    f"What is written at the {name}?",
                    f"What does the {name} line say?",
                    f"Read the {name} line.",
                ),
                text,
                f"The {name} line says {text}.",
                (f"line {index}",),
            )
        )
    if spec.layout == "lines":
        for index in range(1, min(3, len(spec.texts) - 1)):
            text, name = spec.texts[index], ORDINALS[index]
            result.append(
                QAPair(
                    "line",
                    (f"What does the {name} line say?", f"Read the {name} line."),
                    text,
                    f"The {name} line says {text}.",
                    (f"line {index}",),
                )
            )
    return result


def _single_text_pairs(spec: Spec, rng: Random) -> list[QAPair]:
    text, key = spec.texts[0], ("line 0",)
    words = text.split()
    noun = "text" if spec.bare else "sign"
    if spec.bare:
        questions = (
            "What does the text say?",
            "What is written in the image?",
            "Read the text.",
            "What does the image say?",
        )
    else:
        questions = (
            "What does the sign say?",
            "What is written on the sign?",
            "Read the sign.",
            "What is the text on the sign?",
        )
    result = [QAPair("text", questions, text, f"The {noun} says {text}.", key)]
    claim = rng.choice((text, spec.other))
    result.append(
        yes_no_question(
            "check",
            (f'Does the {noun} say "{claim}"?',),
            claim == text,
            f"Yes, the {noun} says {text}.",
            f"No, the {noun} says {text}.",
            key,
        )
    )
    if len(words) > 1:
        for name, word in zip(ORDINALS, words, strict=False):
            result.append(
                QAPair(
                    "word",
                    (f"What is the {name} word?", f"Which word comes {name}?"),
                    word,
                    f"The {name} word is {word}.",
                    key,
                )
            )
    number = f"are {len(words)} words" if len(words) > 1 else "is 1 word"
    result.append(
        QAPair("words", ("How many words are there?",), str(len(words)), f"There {number}.")
    )
    return result


def _box_pairs(spec: Spec, rng: Random) -> list[QAPair]:
    count = len(spec.texts)
    result = []
    for index, (color, text) in enumerate(zip(spec.papers, spec.texts, strict=True)):
        key = (f"line {index}",)
        result.append(
            QAPair(
                "box",
                (
                    f"What does the {color} box say?",
                    f"What is written in the {color} box?",
                    f"Read the text in the {color} box.",
                ),
                text,
                f"The {color} box says {text}.",
                key,
            )
        )
    index = rng.randrange(count)
    text, color = spec.texts[index], spec.papers[index]
    result.append(
        QAPair(
            "box color",
            (f'What color is the box that says "{text}"?',),
            color,
            f"The box that says {text} is {color}.",
            (f"line {index}",),
        )
    )
    result.append(
        QAPair("boxes", ("How many boxes are there?",), str(count), f"There are {count} boxes.")
    )
    for name, index in (("top", 0), ("bottom", count - 1)):
        text = spec.texts[index]
        result.append(
            QAPair(
                f"{name} box",
                (f"What does the box at the {name} say?", f"What does the {name} box say?"),
                text,
                f"The {name} box says {text}.",
                (f"line {index}",),
            )
        )
    return result
