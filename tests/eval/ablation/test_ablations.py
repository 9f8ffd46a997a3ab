"""Ablations by name, with keys of their own, run on a tiny model."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

import mgm
from mgm import FusionConfig, MGMError
from mgm.eval.ablation.ablations import (
    ALL,
    CALIBRATION_IMAGES,
    KINDS,
    Ablation,
    ablation_cache,
    parse_ablations,
    run_ablation,
)
from mgm.eval.harness.models import EngineAnswerer
from mgm.eval.harness.question import Question
from mgm.eval.harness.response_cache import AnswerCache
from mgm.eval.harness.runner import answered, run
from tests.model.tiny import HD, tiny_config
from tests.tiny_model import build

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("models") / "tiny", endless=True)


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> list[Question]:
    images = tmp_path_factory.mktemp("images")
    for colour in COLOURS:
        noise = Image.effect_noise((40, 30), 90).convert("RGB")
        Image.blend(noise, Image.new("RGB", noise.size, colour), 0.5).save(images / f"{colour}.png")
    return [
        Question(f"{colour}/{n}", f"what {n}?", (images / f"{colour}.png",), max_new_tokens=8)
        for colour in COLOURS
        for n in range(2)
    ]


@pytest.mark.parametrize(
    ("name", "fusion"),
    [
        ("hr_off", {"mode": "none"}),
        ("grey_vit", {"grey_low_resolution": True}),
        ("hr_only", {"high_resolution_only": True}),
        ("pool", {"mode": "pool"}),
        ("one_query", {"mode": "one_query"}),
        ("shift", {"window_shift": 1}),
        ("shift:3", {"window_shift": 3}),
        ("blur:20", {"blur_high_resolution": 20}),
        ("stage_mean", {"averaged_stages": (4,)}),
        ("stage_mean:2", {"averaged_stages": (2,)}),
    ],
)
def test_each_is_one_setting_of_fusion(name, fusion) -> None:
    (ablation,) = parse_ablations([name])
    assert ablation.fusion(tiny_config()) == FusionConfig(**fusion)
    assert parse_ablations([ablation.name]) == [ablation]
    assert "{}" not in ablation.description


def test_a_blur_without_a_number_is_to_what_the_vit_sees() -> None:
    (blur,) = parse_ablations(["blur"])
    assert blur.name == "blur"
    assert blur.fusion(tiny_config()).blur_high_resolution == 28
    assert blur.fusion(tiny_config(**HD)).blur_high_resolution == 2 * 28


def test_groups_and_repeated_names() -> None:
    assert [one.name for one in parse_ablations(["utilisation", "pool", "hr_off"])] == [
        "hr_off", "grey_vit", "pool",
    ]  # fmt: skip
    everything = parse_ablations(["all"])
    assert {one.kind for one in everything} == set(KINDS)
    assert len({one.name for one in everything}) == len(everything) == len(ALL)
    assert parse_ablations(["shift", "shift:1"]) == [Ablation("shift", 1)]
    assert parse_ablations([]) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hr", "--ablate hr: no such ablation; valid: hr_off, grey_vit"),
        ("", "no such ablation"),
        ("pool:2", "takes no number; write --ablate pool"),
        ("blur:", "'' is no number from 1"),
        ("blur:0", "'0' is no number from 1"),
        ("blur:-3", "'-3' is no number from 1"),
        ("shift:1.5", "'1.5' is no number from 1"),
    ],
)
def test_wrong_names(name, message) -> None:
    with pytest.raises(MGMError) as error:
        parse_ablations([name])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("blur:128", {}, "--ablate blur:128: config: fusion.blur_high_resolution is 128"),
        ("shift:4", {}, "--ablate shift:4: config: fusion.window_shift is 4; valid: below 4"),
        ("stage_mean:5", {}, "numbers from 1 to 4"),
        ("pool", {"vision_aux_config": None}, "--ablate pool: .*no high-resolution encoder"),
        ("hr_off", {"vision_aux_config": None}, "--ablate hr_off: .*no high-resolution encoder"),
        ("pool", {"fusion": {"mode": "pool"}}, "the model's config.json says so already"),
        ("hr_only", {"fusion": {"mode": "none"}}, "--ablate hr_only: config: fusion"),
    ],
)
def test_what_makes_no_sense_for_a_model(name, config, message) -> None:
    (ablation,) = parse_ablations([name])
    with pytest.raises(MGMError, match=message):
        ablation.fusion(tiny_config(**config))


def test_keys_are_those_of_one_ablation(tmp_path, questions) -> None:
    cache = AnswerCache(tmp_path, "tiny")
    before = cache.key(questions[0])
    names = [*ALL, "shift:2", "blur:20"]
    caches = [ablation_cache(cache, one, questions) for one in parse_ablations(names)]
    keys = [one.key(questions[0]) for one in (cache, *caches)]
    assert keys[0] == before
    assert len(set(keys)) == len(names) + 1
    caches[0].put(keys[1], "red")
    again = AnswerCache(tmp_path, "tiny")
    (first,) = parse_ablations(names[:1])
    assert ablation_cache(again, first, questions).get(keys[1]) == "red"
    assert again.get(before) is None
    # A fixed query comes from the images, so they decide the answers of others too.
    (query,) = parse_ablations(["one_query"])
    some = ablation_cache(cache, query, questions[2:])
    assert some.key(questions[2]) != ablation_cache(cache, query, questions).key(questions[2])


def test_answers_are_those_of_a_model_with_that_fusion(tmp_path, folder, questions) -> None:
    engine = mgm.load(folder, device="cpu")
    answerer, cache = EngineAnswerer(engine, 4), AnswerCache(tmp_path, "tiny")
    run(questions, answerer, cache)
    texts = {}
    for name in ("hr_off", "grey_vit"):
        (ablation,) = parse_ablations([name])
        run_ablation(ablation, questions, answerer, cache)
        assert engine.fusion == FusionConfig()
        own = answered(questions, ablation_cache(cache, ablation, questions))
        texts[name] = [one.text for one in own]
        other = mgm.load(folder, device="cpu", fusion=ablation.fusion(engine.model.config))
        fresh = AnswerCache(tmp_path / name, "tiny")
        run(questions, EngineAnswerer(other, 4), fresh)
        assert texts[name] == [one.text for one in answered(questions, fresh)]
    whole = [one.text for one in answered(questions, cache)]
    assert whole not in (texts["hr_off"], texts["grey_vit"])
    assert texts["hr_off"] != texts["grey_vit"]


def test_the_fixed_query_is_the_mean_over_the_first_images(
    tmp_path, folder, questions, monkeypatch
) -> None:
    engine = mgm.load(folder, device="cpu")
    answerer, cache = EngineAnswerer(engine, 4), AnswerCache(tmp_path, "tiny")
    used = []
    original = EngineAnswerer.answers

    def noted(self, asked):
        used.append(self.engine.fusion)
        return original(self, asked)

    monkeypatch.setattr(EngineAnswerer, "answers", noted)
    (ablation,) = parse_ablations(["one_query"])
    run_ablation(ablation, questions, answerer, cache)
    pixels = engine.processor.image_processor(
        [Image.open(one.images[0]) for one in questions[::2]], do_normalize=False
    )["pixel_values_aux"]
    expected = engine.model.mean_query(pixels)
    torch.testing.assert_close(torch.tensor(used[0].query), expected)
    assert used == [FusionConfig(mode="one_query", query=used[0].query)]
    texts = [Question("t", "no image?", max_new_tokens=4)]
    run_ablation(ablation, texts, answerer, cache)
    assert used[1].query is None
    many = [replace(questions[0], id=str(n), images=(bytes([n]),)) for n in range(50)]
    keys = {ablation_cache(cache, ablation, many[:n]).key(texts[0]) for n in range(1, 50)}
    assert len(keys) == CALIBRATION_IMAGES


def test_a_fault_leaves_the_model_as_it_was(tmp_path, folder, questions, monkeypatch) -> None:
    engine = mgm.load(folder, device="cpu")
    answerer, cache = EngineAnswerer(engine, 4), AnswerCache(tmp_path, "tiny")
    missing = replace(questions[0], id="m", images=(tmp_path / "missing.png",))
    (query,) = parse_ablations(["one_query"])
    skipped = run_ablation(query, [missing, questions[1]], answerer, cache)
    assert [one.id for one in skipped] == ["m"]
    assert engine.fusion == FusionConfig()

    def broken(self, asked):
        raise MGMError("nobody answers")

    monkeypatch.setattr(EngineAnswerer, "answers", broken)
    with pytest.raises(MGMError, match="nobody answers"):
        run_ablation(query, questions, answerer, cache)
    assert engine.fusion == FusionConfig()
