"""Placeholders of other frameworks are errors; texts about such tags are not."""

import time

import pytest

from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.sample import SampleError

ANSWER = {"from": "gpt", "value": "a cat"}


def asks(*texts):
    turns = [({"from": "human", "value": text}, ANSWER) for text in texts]
    return {"conversations": [message for turn in turns for message in turn]}


@pytest.mark.parametrize(
    "text",
    [
        "<video>\nWhat happens?", "<video>What happens?", "<video>what happens?", "<video>",
        "<video> What happens?", "What happens?\n<video>", "<VIDEO>\nWhat?", "<speech>\nAnswer it.",
        "<audio>\nWho speaks?", "<audio><audio>Same?", "<|audio|>", "<|AUDIO|>", "<|video_pad|>",
        "<|image|>What?", "<|image_1|>\nWhat?", "<|vision_start|><|image_pad|><|vision_end|>What?",
        "Who is it?\n<|image_1|> <|image_2|>\n", "[IMG]What?", "[IMG][IMG_END]",
        "<image_1>What?", "<image 1> What?", "<image1>", "<Image>\nWhat?", "<IMAGE>",
        "<image_1>\n<image_2>\nwhich?", "<Img><ImageHere></Img> What?", "<img><IMG_CONTEXT></img>Q",
        "<ImageHere>What?", "<IMG_CONTEXT>", "<image_placeholder>What?", "<start_of_image>What?",
        "<image_soft_token>", "<fake_token_around_image>", "<im_patch>",
        # Tag pairs around a file name.
        "Picture 1: <img>a/b.jpg</img>\nWhat?", "<img>a.jpg</img>What?",
        "<audio>a.wav</audio>\nWhat?", "What is in <video>x/a.mp4</video>?",
        "Audio 1: <audio>https://a.b/c.flac</audio>",
    ],
)  # fmt: skip
def test_placeholders(text):
    for record in (asks(text), asks(text) | {"images": ["a.png"]}):
        with pytest.raises(SampleError, match="message 0 contains '") as caught:
            parse_sample(record, "")
        assert caught.value.kind == "unsupported"
    with pytest.raises(SampleError, match="field 'system' contains '"):
        parse_sample(asks("what?") | {"system": text}, "")


@pytest.mark.parametrize(
    "texts",
    [
        ["How do I center an <img> in a flexbox?"],
        ["What does the <video> do when autoplay is set?"],
        ["How to add subtitles to <video>?"],
        ["create a React component with an <img> and a caption"],
        ["In Next.js, should I use <Image>"],
        ["In Next.js, should I use <Image> or a normal image?"],
        ["<Image> or <img> in Next.js?"],
        ["<video> vs <iframe> for embedding"],
        ["<audio> does not play in Safari"],
        ["<img>What does this do"],
        ["In SSML how do I use <audio>?"],
        ["Replace [img] with markdown in my forum posts"],
        ["[img] tags in phpBB are broken"],
        ["wordpress shortcode [video] and [audio] and [img]"],
        ["Instagram caption:  [IMG] my dog"],
        ["[IMG]http://a/b.png[/IMG] is how forums write it"],
        ["Regex that turns <bbox> into numbers"],
        ["I wrote '<IMG>' in my old homepage"],
        ["Write an HTML page with a video", "the <video> should fill the whole screen"],
        ["Write an HTML page with a video", "<video> should fill the whole screen"],
        ["What does <|image|> mean in Llama 3.2's prompt?"],
        ["explain <|vision_start|><|image_pad|><|vision_end|> in Qwen2-VL chat templates"],
        ["Docx placeholder <Picture 1> was lost"],
        ["Write an XSLT for <picture1>..</picture1>"],
        ["<picture1>\n..\n</picture1> What is it?"],
        ["The placeholder <image_1> should be replaced"],
        ["Android: what goes into <bitmap> and <image1>?"],
        ["Convert <img>foo.png</img> to markdown"],
        ["Use </IMG_CONTEXT> token in InternVL"],
        ["<video controls><source src='a.mp4'></video> does not play"],
        ["<video>\n<source src='a.mp4'>\n</video>"],
        ["<div>\n  <video>\n    <source src='a.mp4'>\n  </video>\n</div> Why is it not centred?"],
        ["<Card>\n<Image>\n</Image>\n</Card>"],
        ["Why is this wrong?\n```\n<|image|>\n<video>\n```"],
        ['<div><img src="a.png"></div> Why is it not centred?'],
        ["<speech>Hello</speech> in SSML"],
        ["is 3 < image and image > 2 in [img, 1]?"],
        ["a <b> c", "[1] <2>"],
        ['<img src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEA" />'],
        ["What does `data:image/png;base64,` mean?"],
        ["What is XML?", "<image1> is an element"],
        ["How do I close a <video>"],
        ["Which attributes has <video>", "And which has <audio>"],
        ["Why is my page blank? The tag is: <video>"],
        ["Write a page", "What does the React component <Image> Do"],
        ["Is `<|image|>` one of them, or '<|video|>'?"],
        ["Which is faster, <video> or <img>"],
        ["Explain web components", "What happens? <video>"],
    ],
)  # fmt: skip
def test_texts_about_tags(texts):
    assert [question for question, _ in parse_sample(asks(*texts), "").turns] == texts


@pytest.mark.parametrize(
    "text",
    [
        "What happens? <video>", "What happens? <video>\nBe short.", "What happens?<audio><audio>",
        "Summarize <video>", "Describe this video <video> ", "Who speaks: <audio>",
        "look at <|vision_start|><|image_pad|><|vision_end|> q", "Compare <|image_1|> with it",
        "Here is <IMG_CONTEXT> and here more", "see <ImageHere> now",
    ],
)  # fmt: skip
def test_placeholders_within_a_question(text):
    for record in (asks(text), asks(f"<image>\n{text}") | {"image": "a.png"}, asks("Hi", text)):
        with pytest.raises(SampleError, match=r"message \d contains '.*a placeholder of"):
            parse_sample(record, "")


@pytest.mark.parametrize(
    "texts",
    [["What is in <image 1>?"], ["Compare <image 1> and <image 2>, please"], ["And in <image_1>?"],
     ["What?", "<Image> What now?"], ["What?", "<video>What now?"], ["What?", "And now? <video>"],
     ["What?", "<image_1> What now?"], ["What?", "What of <IMG_CONTEXT> now"]],
)  # fmt: skip
def test_placeholders_in_texts_without_an_image(texts):
    with pytest.raises(SampleError, match=r"message \d contains '.*a placeholder of"):
        parse_sample(asks(*texts), "")
    numbered = [text for text in texts if "<image " in text]
    for text in numbered:  # may refer to the markers
        record = asks(f"<image>\n{text}") | {"images": ["a.png"]}
        assert parse_sample(record | {"system": "Images are <image 1>, and so on."}, "").images


def test_numbered_tags_may_refer_to_markers():
    for text in ("<image>\nIn <image 1>, what?", "<image>\n<image 1>\nwhat?"):
        record = asks(text) | {"image": "a.png"}
        assert parse_sample(record, "").images == ("a.png",)


def test_placeholders_after_markers():
    for text in ("<image>\n<|image|>What?", "<image><video>What?", "<image>\nWhat?\n<video>"):
        with pytest.raises(SampleError, match="a placeholder of"):
            parse_sample(asks(text) | {"image": "a.png"}, "")


def test_answers_may_contain_tags():
    for text in ("Write <|image|> or <video>.", "<video>\n", "![](data:image/png;base64,abcd)"):
        record = {"conversations": [asks("what?")["conversations"][0], ANSWER | {"value": text}]}
        assert parse_sample(record, "").turns[0][1] == text


@pytest.mark.parametrize(
    "text",
    [
        "![](data:image/png;base64,{}) What is it?",
        "What is it? ![a cat](data:image/jpeg;base64,{})",
        "data:image/png;base64,{}\nWhat is it?",
        "<img src='data:image/png;base64,{}'> What is it?",
    ],
)
def test_data_urls_in_texts(text):
    for count in (100, 5000) if "<img" not in text else (5000,):
        with pytest.raises(
            SampleError, match="message 0 contains an image as a data URL"
        ) as caught:
            parse_sample(asks(text.format("iVBORw0KGg" * (count // 10))), "")
        assert len(str(caught.value)) < 250


@pytest.mark.parametrize("tag", ["<bbox>", "<ref-object>"])
def test_grounding_placeholders(tag):
    objects = {"objects": {"ref": ["dog"], "bbox": [[1, 2, 3, 4]]}}
    in_question, in_answer = (
        asks(f"Find {tag}."),
        {"conversations": asks("Find it.")["conversations"][:1]},
    )
    in_answer["conversations"] += [ANSWER | {"value": f"At {tag}."}]
    for record in (in_question, in_answer):
        assert parse_sample(record, "").turns
        with pytest.raises(SampleError, match="refers to field 'objects'"):
            parse_sample(record | objects, "")


@pytest.mark.parametrize(
    "text",
    ["<video></video>" * 20000, "html " + "<video> " * 20000, "<img>" + "<" * 200000,
     "<|img" * 50000, "\n" * 100000 + "x<", "<video>" * 20000 + "x", "\n<video> x" * 20000,
     " " * 200000, "".join(f"<image{n % 1000}>\n</image{n % 1000}>\n" for n in range(10000)),
     "![" * 100000, "data:image/" * 30000],
)  # fmt: skip
def test_long_texts_in_linear_time(text):
    start = time.process_time()
    parse_sample(asks(f"<x> {text} <x>"), "")
    assert time.process_time() - start < 2
