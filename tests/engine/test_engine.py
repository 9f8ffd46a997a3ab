import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BloomConfig

import mgm
from mgm import Engine, MGMError, Request


def count_calls(engine, monkeypatch):
    """Record the batch sizes of the towers."""
    seen = []
    original = engine.model.get_image_features

    def counted(pixel_values_aux):
        assert pixel_values_aux.dtype == torch.uint8
        seen.append(len(pixel_values_aux))
        return original(pixel_values_aux=pixel_values_aux)

    monkeypatch.setattr(engine.model, "get_image_features", counted)
    return seen


@pytest.fixture
def requests(pictures):
    """Requests with prompts and answers of different lengths."""
    red, ring = pictures
    return [
        Request("hi", max_new_tokens=20),
        Request("what is this?", images=[red], max_new_tokens=33),
        Request("what is this?", images=[ring], max_new_tokens=33),
        Request("compare them", images=[ring, red], max_new_tokens=7),
        Request("sure?", images=[red], history=[("what is this?", "red")], max_new_tokens=25),
        Request("draw", images=[ring], temperature=1.0, seed=5, max_new_tokens=20),
        Request("draw", images=[ring], temperature=1.0, top_p=0.5, seed=5, max_new_tokens=20),
    ]


def test_single_batched_and_streamed_answers_are_equal(engine, requests):
    alone = [engine.answer([request])[0] for request in requests]
    assert len({answer.text for answer in alone}) == len(alone)
    assert engine.answer(requests) == alone
    assert engine.answer(requests, batch_size=3) == alone
    # Accepted drafts may give a short answer in one chunk; without them it has a chunk per token.
    drafting = Engine(engine.model, engine.processor, num_speculative_tokens=8)
    for request, answer in zip(requests, alone, strict=True):
        for one in (drafting, engine):
            stream = one.stream(request)
            chunks = list(stream)
            assert "".join(chunks) == answer.text
            assert stream.answer == answer
        assert len(chunks) > 1 or len(answer.tokens) < 3


def test_tokens_equal_generate(engine, pictures):
    request = Request("what is this?", images=pictures, max_new_tokens=12)
    inputs = engine.processor(text=engine.prompt(request), images=pictures)
    ids = engine.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    new = ids[0, inputs["input_ids"].shape[1] :] if ids.shape[1] > 12 else ids[0]
    answer = engine.answer([request])[0]
    assert list(answer.tokens) == [i for i in new.tolist() if i != 4]
    assert answer.prompt_tokens == inputs["input_ids"].shape[1]


def test_every_image_is_encoded_once(engine, pictures, monkeypatch):
    seen = count_calls(engine, monkeypatch)
    red, ring = pictures
    first = Request("what is this?", images=[red], max_new_tokens=2)
    answer = engine.answer([first])[0]
    engine.answer([Request("sure?", images=[red.copy()], history=[(first.prompt, answer.text)])])
    assert seen == [1]
    engine.answer([Request("hi", max_new_tokens=1)])
    engine.answer([Request("compare", images=[ring, red, ring], max_new_tokens=1)])
    assert seen == [1, 1]
    assert (engine.images.cache.hits, engine.images.cache.misses) == (2, 2)
    engine.model.to(torch.bfloat16)
    assert engine.images.encode([red])[0].dtype == torch.bfloat16
    engine.processor.image_processor.image_aspect_ratio = "square"
    engine.images.encode([red, ring])
    assert seen == [1, 1, 1, 2]


def test_images_as_paths_bytes_and_arrays(engine, pictures, tmp_path):
    ring = pictures[1]
    ring.save(tmp_path / "ring.png")
    content = io.BytesIO()
    ring.save(content, "PNG")
    sources = [ring, tmp_path / "ring.png", str(tmp_path / "ring.png"), content.getvalue()]
    sources.append(np.asarray(ring))
    answers = engine.answer([Request("what?", [source], max_new_tokens=9) for source in sources])
    assert len({answer.text for answer in answers}) == 1
    assert engine.answer([Request("what?", images=ring, max_new_tokens=9)])[0] == answers[0]
    assert len(engine.images.cache) == 1


def test_image_markers_are_inserted_and_numbered(engine, pictures):
    assert engine.prompt(Request("hi")) == "<s><|user|>hi<|end|><|assistant|>"
    one = Request("and now?", images=pictures[:1], history=[("what?", "red")])
    assert engine.prompt(one) == (
        "<s><|user|><image>\nwhat?<|end|><|assistant|>red<|end|>"
        "<|user|>and now?<|end|><|assistant|>"
    )
    two = engine.prompt(Request("compare", images=pictures))
    assert two == "<s><|user|><image>\n<image>\ncompare<|end|><|assistant|>"
    other = Engine(engine.model, engine.processor)
    other.use_template("vicuna_v1")
    two = other.prompt(Request("compare", images=pictures))
    assert "Image 1:<image>\nImage 2:<image>\ncompare" in two


def test_stop_strings_end_an_answer(engine):
    request = Request("hi", max_new_tokens=30)
    whole = engine.answer([request])[0].text
    stop = whole[8:11]
    short = Request("hi", max_new_tokens=30, stop=["never said", stop])
    answer = engine.answer([short])[0]
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"
    assert len(answer.tokens) < 30
    chunks = list(engine.stream(short))
    assert "".join(chunks) == answer.text


def test_stop_tokens_are_not_part_of_an_answer(engine, pictures):
    answers = engine.answer(
        [Request("hi", images=pictures[:1], temperature=1.5, seed=i) for i in range(4)]
    )
    stopped = [answer for answer in answers if answer.finish_reason == "stop"]
    assert stopped
    assert all(4 not in answer.tokens for answer in stopped)


def test_seeds_are_reproducible(engine):
    def ask(seed):
        return engine.answer([Request("hi", temperature=1.0, seed=seed, max_new_tokens=12)])[0]

    assert ask(1) == ask(1)
    assert ask(1) != ask(2)
    assert ask(None) != ask(None)


def test_closing_a_stream(engine):
    stream = engine.stream(Request("hi", max_new_tokens=30))
    first = next(stream)
    stream.close()
    rest = "".join(stream)
    answer = stream.answer
    assert answer.finish_reason == "cancelled"
    assert answer.text == first + rest
    assert len(answer.tokens) < 30


def test_context_length_limits_prompt_and_answer(engine, pictures):
    assert engine.context_length == 512
    engine.model.config.text_config.max_position_embeddings = 500
    with pytest.raises(MGMError, match=r"^the prompt takes 504 tokens.* context has 500") as caught:
        engine.answer([Request("x" * 500)])
    assert "\n" not in str(caught.value)
    with pytest.raises(MGMError, match=r"^request 2 of 2: .*\(4 for each of its 2 images\)"):
        engine.answer([Request("x"), Request("x" * 500, images=pictures)])
    long = Request("x" * 485, temperature=5, seed=0, max_new_tokens=99)
    answer = engine.answer([long])[0]
    assert answer.prompt_tokens == 489
    assert answer.finish_reason == "stop" or len(answer.tokens) == 11
    assert (engine.remaining_tokens(long), engine.remaining_tokens(Request("x" * 500))) == (11, 0)


def test_language_model_without_a_context_limit(engine):
    engine.model.config.text_config = BloomConfig()
    assert engine.context_length > 10**6
    engine.model.config.model_max_length = 300
    assert engine.context_length == 300


def test_error_messages_name_request_and_image(engine, pictures, tmp_path):
    missing = tmp_path / "none.png"
    with pytest.raises(MGMError, match=r"^image 2 of 2: .*none.png: there is no such file"):
        engine.stream(Request("compare", images=[pictures[0], missing]))
    with pytest.raises(MGMError, match=r"^request 2 of 2: image 1 of 1: .*none.png"):
        engine.answer([Request("hi"), Request("what?", images=[missing])])
    with pytest.raises(MGMError, match="list"):
        engine.answer(Request("hi"))


def test_empty_batch(engine):
    assert engine.answer([]) == []


def test_other_conversation_template(engine):
    engine.use_template("vicuna_v1")
    assert engine.prompt(Request("hi")).endswith(" USER: hi ASSISTANT:")
    with pytest.raises(MGMError, match="vicuna_v1"):
        engine.use_template("vicuna")
    assert engine.template.stop == "</s>"  # the failed call changed nothing


def test_errors_of_load(tiny_folder, tmp_path):
    with pytest.raises(MGMError, match=r"quantize is 'int3'; choose None, int8, llm-int8, int4"):
        mgm.load(tiny_folder, quantize="int3")
    with pytest.raises(MGMError, match="choose one of float32, bfloat16, float16"):
        mgm.load(tiny_folder, device="cpu", dtype="float8")
    with pytest.raises(MGMError, match=r"device is 'tpu'.*cpu"):
        mgm.load(tiny_folder, device="tpu")
    with pytest.raises(MGMError, match="none"):
        mgm.load(tmp_path / "none")
    with pytest.raises(MGMError, match="path is empty; give the folder"):
        mgm.load("")


@pytest.mark.parametrize(
    ("file", "change", "parts"),
    [
        ("config.json", {"image_size_aux": 65}, ["image_size_aux is 65"]),
        ("config.json", {"image_grid": 0}, ["image_grid is 0"]),
        ("processor_config.json", {"conversation": "none"}, ["'none'", "vicuna_v1"]),
        ("processor_config.json", {"conversation": ["nano"]}, ["['nano']", "vicuna_v1"]),
        ("processor_config.json", {"image_token_id": 7}, ["image_token_id is 261", "but 7"]),
        ("processor_config.json", {"patch_size": "14"}, ["patch_size is '14'"]),
        ("processor_config.json", {"patch_size": 7}, ["image_tokens_per_image is 4", "but 16"]),
        ("preprocessor_config.json", {"image_grid": 2}, ["image_grid is 1", "but 2"]),
        ("preprocessor_config.json", {"image_global": True}, ["image_global is False"]),
        ("preprocessor_config.json", {"image_size": 56}, ["image_size is 28", "but 56"]),
        ("preprocessor_config.json", {"image_size_aux": 96}, ["image_size_aux is 64", "but 96"]),
        ("preprocessor_config.json", {"image_std": 1}, ["image_std is 1"]),
    ],
)
def test_conflicting_settings_are_errors_at_load(tiny_folder, tmp_path, file, change, parts):
    folder = tmp_path / "changed"
    shutil.copytree(tiny_folder, folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    settings.pop("image_processor", None)  # the base given by the caller is used
    (folder / "processor_config.json").write_text(json.dumps(settings))
    changed = json.loads((folder / file).read_text()) | change
    (folder / file).write_text(json.dumps(changed))
    with pytest.raises(MGMError) as caught:
        mgm.load(folder, device="cpu")
    assert all(part in str(caught.value) for part in [str(folder), *parts]), caught.value


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_dtype(tiny_folder, dtype):
    engine = mgm.load(tiny_folder, device="cpu", dtype=dtype)
    assert {parameter.dtype for parameter in engine.model.parameters()} == {torch.bfloat16}
    image = Image.new("RGB", (9, 9), "blue")
    assert engine.answer([Request("what?", images=[image], max_new_tokens=3)])[0].tokens
