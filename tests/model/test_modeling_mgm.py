import copy

import pytest
import torch
from accelerate import cpu_offload
from PIL import Image

from mgm.data.image_processing_mgm import IMAGE_CONFIG_FIELDS, MGMImageProcessor
from mgm.errors import MGMError
from tests.model.inputs import difference
from tests.model.tiny import HD, TEXT, batch_of, random_images, tiny_model

LABELLED = ["abIcdefg", "hijk", "aIbIcd"]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def labelled(config, layouts: list[str]) -> dict[str, torch.Tensor]:
    batch = batch_of(config, layouts)
    hidden = (batch["input_ids"] == config.image_token_id) | (batch["attention_mask"] == 0)
    return batch | {"labels": batch["input_ids"].masked_fill(hidden, -100)}


@torch.no_grad()
def test_batch_equals_single_samples(model) -> None:
    config = model.config
    images = random_images(config, 3)
    together = model(**batch_of(config, LABELLED), **images).logits
    owners = [[0], [], [1, 2]]
    for row, (layout, mine) in enumerate(zip(LABELLED, owners, strict=True)):
        batch = batch_of(config, [layout])
        own = {name: value[mine] for name, value in images.items()} if mine else {}
        alone = model(**batch, **own).logits[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_text_only_runs_no_tower(model) -> None:
    plain = copy.deepcopy(model)
    plain.vision_tower = plain.vision_tower_aux = plain.mining = plain.projector = None
    batch = batch_of(model.config, ["abcde"])
    assert torch.equal(plain(**batch).logits, model.language_model(**batch).logits)


def test_text_only_batch_gives_zero_gradients() -> None:
    model = tiny_model().train()
    model.vision_tower.requires_grad_(False)
    batch = labelled(model.config, ["abcde"])
    loss = model(**batch).loss
    loss.backward()
    torch.testing.assert_close(loss, model.language_model(**batch).loss)
    for part in (model.mining, model.projector):
        assert all(not p.grad.any() for p in part.parameters())
    assert all(p.grad is None for p in model.vision_tower.parameters())


@torch.no_grad()
def test_hd_tokens_start_with_the_global_view() -> None:
    model = tiny_model(**HD)
    images = random_images(model.config, 2)
    features = model.get_image_features(**images)
    assert features.shape == (2, 80, 24)
    changed = images["pixel_values"].clone()
    changed[:, -1] += 1  # the global view is the last crop, and its tokens come first
    moved = model.get_image_features(changed, images["pixel_values_aux"]) - features
    assert moved[:, :16].abs().amin() > 0
    assert moved[:, 16:].abs().amax() == 0
    changed = images["pixel_values"].clone()
    changed[:, 1] += 1
    moved = model.get_image_features(changed, images["pixel_values_aux"]) - features
    assert [moved[:, i * 16 : i * 16 + 16].any().item() for i in range(5)] == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("projector", ["linear", "mlp1x_gelu", "mlp3x_gelu"])
@torch.no_grad()
def test_projector_types(projector: str) -> None:
    model = tiny_model(projector_type=projector)
    assert model.get_image_features(**random_images(model.config, 1)).shape == (1, 16, 24)


@torch.no_grad()
def test_identity_projector_and_no_mining() -> None:
    model = tiny_model(
        projector_type="identity",
        vision_aux_config=None,
        text_config=TEXT | {"hidden_size": 16, "num_attention_heads": 2},
    )
    images = random_images(model.config, 1)
    features = model.get_image_features(**images)
    tokens = model.low_resolution_tokens(images["pixel_values"])
    assert torch.equal(features, tokens.flatten(1, 2))


@pytest.mark.parametrize(
    ("layouts", "images", "words"),
    [
        (["abIc"], 2, ["1 image markers", "2 images"]),
        (["aIbI", "cI"], 2, ["3 image markers", "2 images"]),
        (["abIc"], 0, ["1 image markers", "0 images"]),
        (["abc"], 1, ["0 image markers", "1 images"]),
    ],
)
def test_images_and_markers_must_match(model, layouts, images, words) -> None:
    given = random_images(model.config, images) if images else {}
    with pytest.raises(MGMError) as fault:
        model(**batch_of(model.config, layouts), **given)
    assert all(word in str(fault.value) for word in words)


def test_unexpanded_markers(model) -> None:
    ids = torch.tensor([[5, model.config.image_token_id, 6]])
    with pytest.raises(MGMError, match="sample 0 has 1 image positions; expected a multiple of 16"):
        model(input_ids=ids, **random_images(model.config, 1))


@torch.no_grad()
def test_sample_truncated_within_an_image(model) -> None:
    config = model.config
    images = random_images(config, 3)
    full = batch_of(config, ["aIbIcd", "Ia"])
    whole = model(**full, **images).logits
    cut = {name: value[:, :30] for name, value in full.items()}  # within the second image
    torch.testing.assert_close(model(**cut, **images).logits, whole[:, :30], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pixel_values": torch.zeros(1, 3, 28, 28)}, "pixel_values is of shape (1, 3, 28, 28)"),
        ({"pixel_values_aux": torch.zeros(1, 3, 64, 64)}, "expected (1, 3, 128, 128)"),
        ({"pixel_values_aux": None}, "pixel_values_aux is missing"),
        ({"pixel_values": None}, "pixel_values is missing; expected (1, 1, 3, 28, 28)"),
        ({"pixel_values_aux": torch.zeros(1, 3, 128, 128).byte()}, "aux is torch.uint8; give norm"),
        ({"pixel_values": torch.zeros(1, 1, 3, 28, 28).byte()}, "pixel_values is torch.uint8"),
        (
            {"pixel_values": None, "pixel_values_aux": torch.zeros(1, 3, 64, 64).byte()},
            "pixel_values_aux is of shape (1, 3, 64, 64); expected (1, 3, 128, 128)",
        ),
        ({"pixel_values": None, "pixel_values_aux": None}, "pixel_values is missing"),
    ],
)
def test_wrong_pixel_shapes(model, change, words: str) -> None:
    with pytest.raises(MGMError) as fault:
        model.get_image_features(**(random_images(model.config, 1) | change))
    assert words in str(fault.value)


@pytest.mark.parametrize("left", [True, False])
@torch.no_grad()
def test_generation_of_a_padded_batch_equals_single_answers(model, left: bool) -> None:
    config = model.config
    layouts = ["abIcdefg", "hijk", "aIbIcd"] if left else ["abId", "efIg"]
    images = random_images(config, 3 if left else 2)
    owners = [[0], [], [1, 2]] if left else [[0], [1]]
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    batch = batch_of(config, layouts, left=left)
    together = model.generate(**batch, **images, **settings)[:, batch["input_ids"].shape[1] :]
    assert together.shape == (len(layouts), 6)
    for row, (layout, mine) in enumerate(zip(layouts, owners, strict=True)):
        own = {name: value[mine] for name, value in images.items()} if mine else {}
        ids = batch_of(config, [layout])["input_ids"]
        alone = model.generate(input_ids=ids, **own, **settings)[:, ids.shape[1] :]
        assert together[row].tolist() == alone[0].tolist()


@torch.no_grad()
def test_weights_loaded_for_each_call(model) -> None:
    """As accelerate does for models larger than the device."""
    inputs = batch_of(model.config, ["abIcd"]) | random_images(model.config, 1)
    expected = model(**inputs).logits
    offloaded = cpu_offload(copy.deepcopy(model), torch.device("cpu"))
    assert offloaded.mining.key.norm.weight.is_meta
    assert torch.equal(offloaded(**inputs).logits, expected)


@torch.no_grad()
def test_assistant_model_gets_the_images(model) -> None:
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    inputs = batch_of(model.config, ["abIcd"]) | random_images(model.config, 1)
    expected = model.generate(**inputs, **settings)
    for assistant in (copy.deepcopy(model), tiny_model(seed=1)):
        assisted = model.generate(**inputs, **settings, assistant_model=assistant)
        assert assisted.tolist() == expected.tolist()


@torch.no_grad()
def test_cache_does_not_change_the_output(model) -> None:
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    inputs = batch_of(model.config, ["abIcd"]) | random_images(model.config, 1)
    cached = model.generate(**inputs, **settings)
    assert cached.tolist() == model.generate(**inputs, **settings, use_cache=False).tolist()


@torch.no_grad()
def test_beam_search_with_images(model) -> None:
    settings = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False}
    settings |= {"eos_token_id": None, "pad_token_id": 0}
    images = random_images(model.config, 3)
    batch = batch_of(model.config, ["aIbIc", "deIfg"], left=True)
    together = model.generate(**batch, **images, **settings)
    for row, (layout, mine) in enumerate([("aIbIc", [0, 1]), ("deIfg", [2])]):
        ids = batch_of(model.config, [layout])["input_ids"]
        own = {name: value[mine] for name, value in images.items()}
        alone = model.generate(input_ids=ids, **own, **settings)[0, ids.shape[1] :]
        assert together[row, batch["input_ids"].shape[1] :].tolist() == alone.tolist()


def test_loss_is_the_mean_over_supervised_positions_or_a_share_of_the_whole_batch(model) -> None:
    batch = labelled(model.config, LABELLED)
    images = random_images(model.config, 3)
    output = model(**batch, **images)
    logits, labels = output.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(output.loss, expected)
    count = int((labels != -100).sum())
    share = model(**batch, **images, num_items_in_batch=4 * count).loss
    torch.testing.assert_close(share, expected / 4)


@pytest.mark.parametrize("count", [None, 50])
def test_training_makes_no_logits(count: int | None) -> None:
    whole, spared = tiny_model(), tiny_model().train()
    inputs = labelled(whole.config, LABELLED) | random_images(whole.config, 3)
    inputs["labels"][:, :4] = -100
    if count is not None:
        inputs["num_items_in_batch"] = torch.tensor(count)
    expected = whole(**inputs)
    output = spared(**inputs)
    assert output.logits is None
    torch.testing.assert_close(output.loss, expected.loss)
    expected.loss.backward()
    output.loss.backward()
    for ours, theirs in zip(spared.parameters(), whole.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("training", [False, True])
def test_labels_at_image_positions_are_ignored(training: bool) -> None:
    model = tiny_model().train(training)
    inputs = labelled(model.config, LABELLED) | random_images(model.config, 3)
    expected = model(**inputs).loss
    at_image = inputs["input_ids"] == model.config.image_token_id
    inputs["labels"][at_image] = model.config.image_token_id
    torch.testing.assert_close(model(**inputs).loss, expected)


def test_frozen_towers_stay_in_eval_mode() -> None:
    model = tiny_model().train()
    assert model.projector.training
    assert not any(module.training for module in model.vision_tower.modules())
    assert not any(module.training for module in model.vision_tower_aux.modules())
    model(**labelled(model.config, ["abIc"]), **random_images(model.config, 1)).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("vision_tower"), name


def test_trainable_towers() -> None:
    model = tiny_model(optimize_vision_tower=True, optimize_vision_tower_aux=True).train()
    assert model.vision_tower.training
    assert model.vision_tower_aux.training
    model(**labelled(model.config, ["abIc"]), **random_images(model.config, 1)).loss.backward()
    assert model.vision_tower.embeddings.patch_embedding.weight.grad is not None
    assert model.vision_tower_aux.stem[0].weight.grad is not None


def test_drop_path_in_training_only() -> None:
    aux = {"depths": [1, 1, 1, 1], "dims": [4, 8, 12, 16], "drop_path_rate": 0.5}
    model = tiny_model(vision_aux_config=aux)
    pixels = random_images(model.config, 4)["pixel_values_aux"]

    def runs() -> list[float]:
        return [model.high_resolution_stages(pixels)[3].sum().item() for _ in range(4)]

    assert len(set(runs())) == 1
    model.train()
    assert len(set(runs())) > 1
    model.eval()
    assert len(set(runs())) == 1


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable")
def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain = tiny_model(optimize_vision_tower=True).train()
    checkpointed = tiny_model(optimize_vision_tower=True).train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = labelled(plain.config, ["abIc", "defg"]) | random_images(plain.config, 1)
    plain(**inputs).loss.backward()
    checkpointed(**inputs).loss.backward()
    for ours, theirs in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if theirs.grad is not None and theirs.grad.norm() > 1e-6:
            assert difference(ours.grad, theirs.grad) < 1e-5


@torch.no_grad()
def test_eager_and_sdpa_agree() -> None:
    model = tiny_model()
    inputs = batch_of(model.config, ["abIcd", "efg"]) | random_images(model.config, 1)
    fast = model(**inputs).logits
    model.set_attn_implementation("eager")
    assert model.language_model.config._attn_implementation == "eager"
    assert model.vision_tower.config._attn_implementation == "eager"
    valid = inputs["attention_mask"].bool()
    assert difference(model(**inputs).logits[valid], fast[valid]) < 1e-5


@torch.no_grad()
def test_image_features_as_input(model) -> None:
    batch = batch_of(model.config, ["abIc"])
    images = random_images(model.config, 1)
    features = model.get_image_features(**images)
    ours = model(**batch, image_features=features).logits
    assert torch.equal(ours, model(**batch, **images).logits)


def test_input_ids_or_embeddings(model) -> None:
    with pytest.raises(MGMError, match="both or none"):
        model()


@pytest.mark.parametrize("overrides", [{}, HD, {"vision_aux_config": None}])
def test_views_from_uint8(overrides) -> None:
    model = tiny_model(**overrides)
    config = model.config
    processor = MGMImageProcessor(**{name: getattr(config, name) for name in IMAGE_CONFIG_FIELDS})
    pictures = [Image.effect_noise((90, 60), 80).convert("RGB") for _ in range(3)]
    floats = processor(pictures)
    if config.vision_aux_config is None:
        del floats["pixel_values_aux"]
    pixels = processor(pictures, do_normalize=False)
    assert set(pixels) == {"pixel_values_aux"}
    with torch.no_grad():
        expected = model.get_image_features(**floats)
        assert torch.equal(model.get_image_features(**pixels), expected)
        batch = batch_of(config, ["aIb", "IcI"])
        logits = model(**batch, **pixels).logits
        assert torch.equal(logits, model(**batch, **floats).logits)
        answers = [
            model.generate(**batch, **images, max_new_tokens=4, num_beams=2, pad_token_id=0)
            for images in (pixels, floats)
        ]
        assert torch.equal(*answers)


@pytest.mark.parametrize("where", ["model", "vision_tower", "vision_tower_aux"])
def test_gradient_checkpointing_of_all_or_one_tower(where: str) -> None:
    aux = {"depths": [1, 2, 1, 1], "dims": [4, 8, 12, 16], "drop_path_rate": 0.3}
    trained = {"optimize_vision_tower": True, "optimize_vision_tower_aux": True}
    model = tiny_model(vision_aux_config=aux, **trained).train()
    images = random_images(model.config, 3)
    runs = {"vision_tower": 0, "vision_tower_aux": 0}

    def count(name: str):
        def counted(*_) -> None:
            runs[name] += 1

        return counted

    model.vision_tower.layers[0].mlp.register_forward_pre_hook(count("vision_tower"))
    model.vision_tower_aux.stages[1].blocks[1].mlp.register_forward_pre_hook(
        count("vision_tower_aux")
    )

    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(7)  # drop path is random
        model.zero_grad()
        model(**labelled(model.config, LABELLED), **images).loss.backward()
        held = {name: value.grad for name, value in model.named_parameters()}
        return {name: value.clone() for name, value in held.items() if value is not None}

    plain = gradients()
    assert runs == {"vision_tower": 1, "vision_tower_aux": 1}
    if where == "vision_tower_aux":
        model.vision_tower_aux.gradient_checkpointing = True
    else:
        (model if where == "model" else model.vision_tower).gradient_checkpointing_enable()
    again = gradients()
    assert again.keys() == plain.keys()
    assert all(torch.equal(again[name], held) for name, held in plain.items())
    assert runs == {name: 3 if where in (name, "model") else 2 for name in runs}
    model.gradient_checkpointing_disable()
    model.vision_tower_aux.gradient_checkpointing = False
    gradients()
    assert sum(runs.values()) == (8 if where == "model" else 7)


@pytest.mark.slow
def test_compiled_parts_equal_eager() -> None:
    trained = {"optimize_vision_tower": True, "optimize_vision_tower_aux": True}
    model = tiny_model(**trained)
    names = list(model.state_dict())

    def run(count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        features = model.get_image_features(**random_images(model.config, count))
        features.square().sum().backward()
        held = {name: value.grad for name, value in model.named_parameters()}
        return features.detach(), {name: g.clone() for name, g in held.items() if g is not None}

    plain = [run(count) for count in (1, 3)]
    model.compile_vision(backend="aot_eager")
    for count, (expected, slopes) in zip((1, 3), plain, strict=True):
        features, again = run(count)
        assert difference(features, expected) < 1e-6
        assert again.keys() == slopes.keys()
        for name, slope in slopes.items():
            # The key's bias does not affect attention: its gradient is rounding noise.
            if name.endswith(("k_proj.bias", "key.bias", "key.norm.bias")):
                assert again[name].norm() < 1e-3
            else:
                assert difference(again[name], slope) < 1e-5, name
    assert list(model.state_dict()) == names


def test_unsupported_compilation(model) -> None:
    with pytest.raises(MGMError, match=r"torch\.compile does not work here \(Unrecognized mode=qu"):
        model.compile_vision(mode="quick")
