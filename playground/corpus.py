"""Text-only pre-training samples: captions of scenes with questions, and reading tasks."""

from random import Random

from playground.scenes import SCENES, Split, choose_kind
from playground.scenes.asking import SHORT_SUFFIX, TURNS, conversation
from playground.scenes.sign import choose_text

ORDERED = ("sign", "table")  # the order of their sentences tells what is above what
TASKS_SHARE = 0.2  # of the texts are spelling and copying instead of a scene


def text_sample(
    seed: int, split: Split = "train", turns: tuple[int, int] = TURNS
) -> tuple[str, list[tuple[str, str]]]:
    """A text and questions with answers about it, without any picture.

    Specs are sampled as for pictures, so texts and pictures share their content and words.

    Args:
        turns: minimum and maximum number of questions about a scene.

    Returns:
        The text, and pairs of question and answer.
    """
    rng = Random(f"text/{split}/{seed}")
    if rng.random() < TASKS_SHARE:
        return _tasks(rng, split)
    name = choose_kind(rng)
    scene = SCENES[name]
    spec = scene.choose_spec(rng, split)
    sentences = scene.sentences(spec)
    caption = " ".join(sentences)
    if name not in ORDERED and rng.random() < 0.3:
        rng.shuffle(sentences)
    asks = [ask for ask in scene.asks(spec, rng) if not ask.needs_picture]
    exchanges = conversation(asks, name, caption, {}, rng, turns)
    return " ".join(sentences), [(turn.question, turn.answer) for turn in exchanges]


def _tasks(rng: Random, split: Split) -> tuple[str, list[tuple[str, str]]]:
    texts: list[str] = []
    count = rng.randint(1, 4)
    while len(texts) < count:
        text = choose_text(rng, split)
        if text not in texts:
            texts.append(text)
    first = texts[0]
    word = first.split()[0]
    turns = [
        ("Read the text." + SHORT_SUFFIX, " ".join(texts)),
        ("What is the first word?" + SHORT_SUFFIX, word),
        ("What is the last word?" + SHORT_SUFFIX, texts[-1].split()[-1]),
        (f'Spell "{word}".' + SHORT_SUFFIX, " ".join(word)),
        (
            f'How many letters and digits are in "{word}"?' + SHORT_SUFFIX,
            str(sum(char.isalnum() for char in word)),
        ),
        (f'What is the first character of "{word}"?' + SHORT_SUFFIX, word[0]),
        (f'Write "{word}" in capital letters.' + SHORT_SUFFIX, word.upper()),
    ]
    return " ".join(texts), rng.sample(turns, rng.randint(2, 4))
