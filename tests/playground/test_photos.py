import json
from collections import defaultdict

import pytest
from PIL import Image, ImageDraw

from mgm.errors import MGMError
from playground.generate import generate
from playground.photo_library import INDEX_FILE, Photo, listed_photos, load_photos
from playground.photos import fetch
from playground.scenes import PHOTO, draw_sample

NAMES = {"frog": "animal", "apple": "fruit", "hat": "clothes"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as `python -m playground.photos` writes one, with discs instead of photographs."""
    folder = tmp_path_factory.mktemp("photos")
    cutouts = [
        {"file": f"{name}-{number}.png", "name": name, "kind": kind}
        for name, kind in NAMES.items()
        for number in range(12)
    ]
    for entry in cutouts:
        image = Image.new("RGBA", (60, 80))
        ImageDraw.Draw(image).ellipse((0, 0, 59, 79), (200, 90, 40, 255))
        image.save(folder / entry["file"])
    backgrounds = [{"file": f"background-{number}.png"} for number in range(12)]
    for number, entry in enumerate(backgrounds):
        Image.new("RGB", (700, 500), (10 * number, 120, 60)).save(folder / entry["file"])
    index = {"cutouts": cutouts, "backgrounds": backgrounds}
    (folder / INDEX_FILE).write_text(json.dumps(index))
    return folder


def test_photographs_of_the_splits_differ(folder):
    photos = load_photos(folder)
    held_out = [photo for photo in photos.cutouts if photo.is_held_out]
    assert 0 < len(held_out) < len(photos.cutouts) / 2
    assert any(photo.is_held_out for photo in photos.backgrounds)
    assert photos.trained_names == set(NAMES)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_questions_fit_the_photograph(folder, split):
    photos = load_photos(folder)
    kinds = set()
    for seed in range(30):
        sample = draw_sample(seed, split, PHOTO, photos=photos)
        again = draw_sample(seed, split, PHOTO, photos=photos)
        assert sample.images[0].tobytes() == again.images[0].tobytes()
        names = [thing.label for thing in sample.objects[0]]
        label = "".join(glyph.char for glyph in sample.glyphs[0])
        for turn in sample.turns:
            kinds.add(turn.kind)
            short = not turn.answer.endswith(".")
            if turn.kind == "photo/what":
                assert any(name in turn.answer for name in names)
            elif turn.kind == "photo/kind":
                assert any(NAMES[name] in turn.answer for name in names)
            elif turn.kind == "photo/label" and short:
                assert turn.answer.replace(" ", "") == label
                assert turn.text_height >= 4
            elif turn.kind == "photo/check" and short:
                claim = turn.question.split("\n")[0]
                assert turn.answer == ("Yes" if any(name in claim for name in names) else "No")
    assert kinds >= {"photo/what", "photo/kind", "photo/label", "photo/check", "photo/where"}


def test_other_scenes_show_photographs_around_plates(folder):
    photos = load_photos(folder)
    differ = 0
    for seed in range(12):
        plain = draw_sample(seed, "train", "receipt")
        shown = draw_sample(seed, "train", "receipt", photos=photos)
        differ += plain.images[0].tobytes() != shown.images[0].tobytes()
    assert differ > 2


def test_data_with_photographs(folder, tmp_path):
    generate(tmp_path / "set", "train", 4, 1, (PHOTO,), photos=folder)
    records = json.loads((tmp_path / "set" / "conversations.json").read_text())
    assert all(kind.startswith("photo/") for record in records for kind in record["kinds"])
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["photos"] is True


def test_without_photographs_it_says_how_to_get_them(tmp_path):
    with pytest.raises(MGMError, match=r"python -m playground.photos --out DIR"):
        draw_sample(1, "train", PHOTO)
    with pytest.raises(MGMError, match=r"photos.json: no such file; fetch them"):
        load_photos(tmp_path / "nothing")


def test_a_name_has_one_kind_and_a_picture_one_name():
    kinds, pictures = defaultdict(set), []
    for kind, name, picture in listed_photos():
        kinds[name].add(kind)
        pictures.append(picture)
    assert all(len(kind) == 1 for kind in kinds.values())
    assert len(set(pictures)) == len(pictures) > 250


def test_names_known_in_training_are_held_out_too():
    pictures = [Photo(f"cutouts/{picture}.png", name) for _, name, picture in listed_photos()]
    trained = {photo.name for photo in pictures if not photo.is_held_out}
    questioned = [photo for photo in pictures if photo.is_held_out and photo.name in trained]
    assert len(questioned) > 20


def test_what_is_there_is_not_fetched_again(folder):
    before = (folder / INDEX_FILE).stat().st_mtime_ns
    fetch(folder)
    assert (folder / INDEX_FILE).stat().st_mtime_ns == before
