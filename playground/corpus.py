"""Text-only pre-training samples: scene captions with questions, and spelling tasks."""

from random import Random

from playground.scenes import SCENES, Split, choose_kind
from playground.scenes.qa import SHORT_SUFFIX, TURNS, conversation
from playground.scenes.sign import choose_text

ORDERED = ("sign", "table")  # scenes whose sentence order encodes the vertical order
TASKS_SHARE = 0.2  # share of texts that are spelling and copying tasks, not scenes


def text_sample(
    seed: int, split: Split = "train", turns: tuple[int, int] = TURNS
) -> tuple[str, list[tuple[str, str]]]:
    """Sample a text with questions and answers about it, without an image.

    Specs are sampled as for images, so texts and images have the same content and words.

    Args:
        turns: minimum and maximum number of questions about a scene.

    Returns:
        The text, and (question, answer) pairs.
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
    qa_pairs = [pair for pair in scene.qa_pairs(spec, rng) if not pair.needs_image]
    selected = conversation(qa_pairs, name, caption, {}, rng, turns)
    return " ".join(sentences), [(turn.question, turn.answer) for turn in selected]


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
