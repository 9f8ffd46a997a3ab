from random import Random

from playground import words


def test_at_least_700_words_of_3_to_9_letters():
    everything = {word for theme in words.themes().values() for word in theme}
    assert len(everything) >= 700
    assert all(word.isalpha() and 3 <= len(word) <= 9 for word in everything)


def test_parts_are_disjoint_and_complete():
    train, held_out = set(words.words_of("train")), set(words.words_of("held_out"))
    assert not train & held_out
    assert train | held_out == {word for theme in words.themes().values() for word in theme}
    assert 0.10 < len(held_out) / len(train | held_out) < 0.20


def test_parts_do_not_change():
    # A word that moves between the parts would make old results worthless.
    assert sum(map(words.is_held_out, map(str, range(1000)))) == 149
    assert words.is_held_out("Garden") == words.is_held_out("GARDEN")


def test_training_draws_nothing_held_out():
    rng = Random(0)
    for draw in (words.choose_code, words.choose_phone, words.choose_nonsense):
        assert not any(words.is_held_out(draw(rng, "train")) for _ in range(200))
        assert all(words.is_held_out(draw(rng, "held_out")) for _ in range(50))
    numbers = [words.choose_number(rng, "train", 1, 999) for _ in range(500)]
    assert not any(words.is_held_out(str(n)) for n in numbers if n >= words.SMALL_NUMBER)


def test_held_out_numbers_are_drawn_half_the_time():
    rng = Random(0)
    numbers = [words.choose_number(rng, "held_out", 100, 999) for _ in range(400)]
    share = sum(words.is_held_out(str(n)) for n in numbers) / len(numbers)
    assert 0.45 < share < 0.7


def test_codes_have_no_look_alikes():
    rng = Random(0)
    letters = "".join(words.choose_code(rng, "train") for _ in range(300))
    assert not set(letters) & set("IO01l")
