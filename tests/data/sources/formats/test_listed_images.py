"""Order of images that a record names in another order than it stores them."""

from pathlib import Path

import pytest

from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.sample import SampleError
from mgm.data.sources.shards import TarShard
from tests.data.shards import write_tar

QUESTION = "first <image> second <image>"
ASKS = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "a"}]


def parts(*names):
    content = [{"type": "image", "image": name} for name in names]
    question = {"role": "user", "content": [*content, {"type": "text", "text": "what?"}]}
    return {"messages": [question, {"role": "assistant", "content": "a"}]}


NAMING = {
    "image": lambda *names: {"image": list(names), "conversations": ASKS},
    "images": lambda *names: {"images": list(names), "conversations": ASKS},
    "parts": parts,
}


@pytest.mark.parametrize("naming", NAMING.values(), ids=NAMING.keys())
@pytest.mark.parametrize(
    ("members", "names"),
    [
        (("0.png", "1.png"), ("k.1.png", "k.0.png")),
        (("0.png", "1.png"), ("1.png", "0.png")),
        (("a.png", "b.png"), ("x/y/k.b.PNG", "x/y/k.a.png")),
        (("jpg", "png"), ("x/k.png", "x/k.jpg")),
        (("png", "depth.png"), ("k.depth.png", "k.png")),
    ],
)
def test_members_in_the_order_of_their_names(naming, members, names):
    held = dict(zip(members, (b"A", b"B"), strict=True))
    assert parse_sample(naming(*names) | held, "").images == (b"B", b"A")
    assert parse_sample(naming(*names[::-1]) | held, "").images == (b"A", b"B")


@pytest.mark.parametrize("naming", NAMING.values(), ids=NAMING.keys())
def test_unnamed_members_keep_their_order(naming):
    held = {"0.png": b"A", "1.png": b"B"}
    assert parse_sample(naming("coco/7.png", "coco/3.png") | held, "").images == (b"A", b"B")
    for names in (("k.0.png", "7.png"), ("k.0.png", "j.0.png")):
        with pytest.raises(SampleError, match=r"match only some of the images in '0.png, 1.png'"):
            parse_sample(naming(*names) | held, "")


def test_numbered_members():
    record = {"images": ["a", "b", "c"], "conversations": ASKS}
    record["conversations"] = [{"from": "human", "value": "<image>" * 3}, ASKS[1]]
    held = {"0.png": b"0", "10.png": b"10", "2.png": b"2"}
    assert parse_sample(record | held, "").images == (b"0", b"2", b"10")


@pytest.mark.parametrize(
    "form", ["img{}.png", "image_{}.jpg", "{}.image.PNG", "x.{}.png", "{:03d}.png", "p1_i{}.png"]
)
def test_numbers_after_a_common_prefix(form):
    record = {"conversations": [{"from": "human", "value": "<image>" * 3}, ASKS[1]]}
    held = {form.format(n): b"%d" % n for n in (0, 10, 2)}
    assert parse_sample(record | held, "").images == (b"0", b"2", b"10")
    assert parse_sample({"txt": "Three."} | held, "").images == (b"0", b"2", b"10")


@pytest.mark.parametrize(
    "members",
    [("img_1.png", "image_0.png"), ("a.png", "b.png"), ("jpg", "1.jpg"), ("1.png", "1.jpg"),
     ("1.png", "01.png"), ("png", "depth.png")],
)  # fmt: skip
def test_undefined_order_is_an_error(members):
    held = dict(zip(members, (b"A", b"B"), strict=True))
    talk = {"conversations": ASKS}
    for record in (talk, talk | {"image": ["7.bmp", "3.bmp"]}, {"txt": "Two."}, parts("7", "3")):
        with pytest.raises(SampleError, match="is not defined; number them"):
            parse_sample(record | held, "")
    alone = {"conversations": [{"from": "human", "value": "<image>"}, ASKS[1]]}
    assert parse_sample(alone | {members[0]: b"A"}, "").images == (b"A",)


def test_member_and_the_same_image_in_json():
    record = {"conversations": [{"from": "human", "value": "<image>"}, ASKS[1]], "png": b"A"}
    assert parse_sample(record | {"image": b"A"}, "").images == (b"A",)
    with pytest.raises(SampleError, match="the images in 'image' and in the members png differ"):
        parse_sample(record | {"image": b"B"}, "")


def test_table_rows_with_image_names():
    held = [{"bytes": b"B", "path": "x/b.png"}, {"bytes": b"A", "path": "a.png"}]
    for names in (("a.png", "b.png"), ("a.png", "x/b.png"), ("y/a.png", "b.png")):
        assert parse_sample(parts(*names) | {"images": held}, "").images == (b"A", b"B")
    assert parse_sample(parts("c.png", "d.png") | {"images": held}, "").images == (b"B", b"A")
    with pytest.raises(SampleError, match=r"match only some .*, c.png matches none"):
        parse_sample(parts("a.png", "c.png") | {"images": held}, "")
    unnamed = [{"bytes": b"B", "path": None}, {"bytes": b"A", "path": None}]
    assert parse_sample(parts("a.png", "b.png") | {"images": unnamed}, "").images == (b"B", b"A")
    with pytest.raises(SampleError, match="only some of its image parts"):
        parse_sample(parts("a.png", None) | {"images": held[1:]}, "")


def test_tar_reader(tmp_path: Path):
    json = b'{"image": ["k.1.png", "k.0.png"], "conversations": [{"from": "human", "value": "'
    json += QUESTION.encode() + b'"}, {"from": "gpt", "value": "a"}]}'
    path = write_tar(tmp_path / "a.tar", [("k.0.png", b"A"), ("k.1.png", b"B"), ("k.json", json)])
    (row,) = TarShard(str(path)).records(0)
    assert parse_sample(row, "").images == (b"B", b"A")
