"""Generation with ablations on a tiny model, with separate cache keys."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

import mgm
from mgm import FusionConfig, MGMError
from mgm.eval.ablation.definitions import ALL_ABLATIONS, parse_ablations
from mgm.eval.ablation.inference import CALIBRATION_IMAGES, ablation_cache, run_ablation
from mgm.eval.harness.models import EngineModel
from mgm.eval.harness.question import Question
from mgm.eval.harness.response_cache import ResponseCache
from mgm.eval.harness.runner import cached_responses, generate_responses
from tests.model.tiny import tiny_config
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


def test_cache_keys_differ_by_ablation(tmp_path, questions) -> None:
    cache = ResponseCache(tmp_path, "tiny")
    before = cache.key(questions[0])
    names = [*ALL_ABLATIONS, "shift:2", "blur:20"]
    caches = [
        ablation_cache(cache, one, questions) for one in parse_ablations(names, tiny_config())
    ]
    keys = [one.key(questions[0]) for one in (cache, *caches)]
    assert keys[0] == before
    assert len(set(keys)) == len(names) + 1
    caches[0].put(keys[1], "red")
    again = ResponseCache(tmp_path, "tiny")
    (first,) = parse_ablations(names[:1], tiny_config())
    assert ablation_cache(again, first, questions).get(keys[1]) == "red"
    assert again.get(before) is None
    # A fixed query depends on the images, so they are part of the other responses' keys.
    (query,) = parse_ablations(["one_query"], tiny_config())
    some = ablation_cache(cache, query, questions[2:])
    assert some.key(questions[2]) != ablation_cache(cache, query, questions).key(questions[2])


def test_responses_equal_a_model_with_that_fusion(tmp_path, folder, questions) -> None:
    engine = mgm.load(folder, device="cpu")
    answerer, cache = EngineModel(engine, 4), ResponseCache(tmp_path, "tiny")
    generate_responses(questions, answerer, cache)
    texts = {}
    for name in ("hr_off", "grey_vit"):
        (ablation,) = parse_ablations([name], tiny_config())
        run_ablation(ablation, questions, answerer, cache)
        assert engine.fusion == FusionConfig()
        own = cached_responses(questions, ablation_cache(cache, ablation, questions))
        texts[name] = [one.text for one in own]
        other = mgm.load(folder, device="cpu", fusion=ablation.fusion(engine.model.config))
        fresh = ResponseCache(tmp_path / name, "tiny")
        generate_responses(questions, EngineModel(other, 4), fresh)
        assert texts[name] == [one.text for one in cached_responses(questions, fresh)]
    whole = [one.text for one in cached_responses(questions, cache)]
    assert whole not in (texts["hr_off"], texts["grey_vit"])
    assert texts["hr_off"] != texts["grey_vit"]


def test_fixed_query_is_the_mean_of_the_first_images(
    tmp_path, folder, questions, monkeypatch
) -> None:
    engine = mgm.load(folder, device="cpu")
    answerer, cache = EngineModel(engine, 4), ResponseCache(tmp_path, "tiny")
    used = []
    original = EngineModel.generate

    def noted(self, queries):
        used.append(self.engine.fusion)
        return original(self, queries)

    monkeypatch.setattr(EngineModel, "generate", noted)
    (ablation,) = parse_ablations(["one_query"], tiny_config())
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


def test_error_restores_the_model(tmp_path, folder, questions, monkeypatch) -> None:
    engine = mgm.load(folder, device="cpu")
    answerer, cache = EngineModel(engine, 4), ResponseCache(tmp_path, "tiny")
    missing = replace(questions[0], id="m", images=(tmp_path / "missing.png",))
    (query,) = parse_ablations(["one_query"], tiny_config())
    skipped = run_ablation(query, [missing, questions[1]], answerer, cache)
    assert [one.id for one in skipped] == ["m"]
    assert engine.fusion == FusionConfig()

    def broken(self, queries):
        raise MGMError("nobody answers")

    monkeypatch.setattr(EngineModel, "generate", broken)
    with pytest.raises(MGMError, match="nobody answers"):
        run_ablation(query, questions, answerer, cache)
    assert engine.fusion == FusionConfig()
