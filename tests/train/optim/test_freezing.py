"""Trainable parameters and optimizer groups equal the published ones."""

import pytest

from mgm.errors import MGMError
from mgm.model.loading import load_model
from mgm.model.published_layout.weight_names import to_published
from mgm.train.args.arguments import ModelArguments, TrainingArguments
from mgm.train.optim.freezing import describe_trainable, set_trainable
from mgm.train.optim.param_groups import parameter_groups
from mgm.train.trainer import MGMTrainer
from tests.golden_files import golden, golden_json
from tests.model.tiny import tiny_model

CASES = {
    "stage1_plain": ({"tune_mm_mlp_adapter": True}, {}),
    "stage2_plain": ({}, {}),
    "stage2_optimize_towers": (
        {"optimize_vision_tower": True, "optimize_vision_tower_aux": True},
        {},
    ),
    "stage2_mm_projector_lr_2e-5": ({}, {"mm_projector_lr": 2e-5}),
    "stage2_lr_multi": ({}, {"lr_multi": "model.mm_projector:2,model.vlm_uni:2"}),
}


@pytest.fixture(scope="module")
def model():
    return load_model(golden("work_dirs/MGM/MGM-7B"), dtype="float32")


def trained(model) -> set[str]:
    return {
        to_published(name)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@pytest.mark.parametrize("case", CASES)
def test_parameters_and_groups_equal_published(model, case, tmp_path) -> None:
    expected = golden_json("quirks.json")[f"optimizer_{case}"]["result"]
    model_flags, flags = CASES[case]
    set_trainable(model, ModelArguments(**model_flags))
    if expected["trainable"] is not None:
        assert trained(model) == set(expected["trainable"])
    training = TrainingArguments(
        output_dir=str(tmp_path), learning_rate=1e-3, weight_decay=0.1, use_cpu=True, **flags
    )
    optimizer = MGMTrainer(model=model, args=training).create_optimizer()
    names = {parameter: to_published(name) for name, parameter in model.named_parameters()}
    assert len(optimizer.param_groups) == len(expected["groups"])
    for ours, theirs in zip(optimizer.param_groups, expected["groups"], strict=True):
        assert {names[parameter] for parameter in ours["params"]} == set(theirs["params"])
        assert ours["lr"] == pytest.approx(theirs["lr"])
        for setting in ("weight_decay", "betas", "eps"):
            assert ours[setting] == pytest.approx(theirs[setting])


def test_frozen_backbone() -> None:
    model = tiny_model()
    set_trainable(model, ModelArguments(freeze_backbone=True))
    of_language_model = {name for name in trained(model) if "vlm" not in name and "mm_" not in name}
    assert of_language_model == {"lm_head.weight"}


def test_tied_head_belongs_to_the_backbone() -> None:
    text = {"tie_word_embeddings": True, "model_type": "llama", "vocab_size": 40, "hidden_size": 16}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = tiny_model(text_config=text)
    set_trainable(model, ModelArguments(freeze_backbone=True))
    assert not any(p.requires_grad for p in model.language_model.parameters())


def test_frozen_projector() -> None:
    model = tiny_model()
    set_trainable(model, ModelArguments(tune_mm_mlp_adapter=True, freeze_mm_mlp_adapter=True))
    assert trained(model)
    assert all(name.startswith("model.vlm_uni_") for name in trained(model))


def test_drop_path_is_off_by_default() -> None:
    model = tiny_model()
    tower = model.vision_tower_aux
    set_trainable(model, ModelArguments())
    assert not model.train().vision_tower_aux.training
    set_trainable(model, ModelArguments(drop_path=True))
    assert model.train().vision_tower_aux.training
    rates = [getattr(block.drop_path, "drop_prob", 0) for s in tower.stages for block in s.blocks]
    assert rates == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])
    set_trainable(model, ModelArguments(optimize_vision_tower_aux=True))
    assert model.train().vision_tower_aux.training
    assert not any(getattr(b.drop_path, "drop_prob", 0) for s in tower.stages for b in s.blocks)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"optimize_vision_tower_aux": True}, "--optimize_vision_tower_aux: the model has no"),
        ({"drop_path": True}, "--drop_path: the model has no"),
    ],
)
def test_flags_of_a_missing_encoder(flags, message) -> None:
    with pytest.raises(MGMError, match=message):
        set_trainable(tiny_model(vision_aux_config=None), ModelArguments(**flags))


def test_nothing_to_train_is_an_error() -> None:
    flags = ModelArguments(tune_mm_mlp_adapter=True, freeze_mm_mlp_adapter=True)
    with pytest.raises(MGMError, match="nothing is left to train"):
        set_trainable(tiny_model(vision_aux_config=None), flags)


def test_table_of_parts() -> None:
    model = tiny_model()
    set_trainable(model, ModelArguments(tune_mm_mlp_adapter=True))
    rows = {row.split()[0]: row.split()[1:] for row in describe_trainable(model).splitlines()}
    assert list(rows) == [
        "part",
        "vision_tower",
        "vision_tower_aux",
        "mining",
        "projector",
        "language_model",
        "all",
    ]
    assert rows["vision_tower"][1] == rows["language_model"][1] == "0"
    assert rows["mining"][0] == rows["mining"][1]
    total = sum(parameter.numel() for parameter in model.parameters())
    assert rows["all"][0] == f"{total:,}"


@pytest.mark.parametrize(
    ("lr_multi", "message"),
    [
        ("model.mm_projector", "is not a part with a factor"),
        ("model.mm_projector:fast", "is not a part with a factor"),
        ("model.mm_projector:nan", "is not a part with a factor from 0"),
        ("model.mm_projector:inf", "is not a part with a factor from 0"),
        ("model.mm_projector:-2", "is not a part with a factor from 0"),
        ("model.mm_projector:2,model.mm_projector:3", "has 'model.mm_projector' twice"),
        ("model.mm_projector:2,mm:3", "'model.mm_projector' and 'mm' both match model.mm_proj"),
        ("model.mm_projectr:2", "no trained parameter has 'model.mm_projectr'"),
    ],
)
def test_invalid_factors(lr_multi, message, tmp_path) -> None:
    training = TrainingArguments(output_dir=str(tmp_path), lr_multi=lr_multi, use_cpu=True)
    with pytest.raises(MGMError, match=message):
        parameter_groups(tiny_model(), set(), training)


def test_invalid_optimizer_values(tmp_path) -> None:
    training = TrainingArguments(output_dir=str(tmp_path), adam_beta1=2.0, use_cpu=True)
    with pytest.raises(MGMError, match=r"--optim .*: Invalid beta parameter"):
        MGMTrainer(model=tiny_model(), args=training).create_optimizer()
