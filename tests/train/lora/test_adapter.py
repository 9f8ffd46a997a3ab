"""Trained adapters: loading merged and unmerged, with plain peft, continued training, merging."""

import json
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

import mgm
from mgm.errors import MGMError
from mgm.model.loading import load_model
from mgm.train.__main__ import run_training
from tests.model.tiny import TEXT
from tests.preloaded import PYTHON
from tests.train.conftest import words

peft = pytest.importorskip("peft")

VARIANTS = {
    "lora": {},
    "dora": {"use_dora": True},
    "biases": {"lora_bias": "all"},
}


@pytest.fixture(scope="module")
def flags(stage1_flags, stage2_flags, stage1):
    """As in the published script: language model, towers, and the result of stage 1."""
    names = ("model_name_or_path", "vision_tower", "vision_tower_aux", "mm_projector_type")
    names += ("mm_vision_select_layer", "image_size_aux")
    return (
        stage2_flags
        | {name: stage1_flags[name] for name in names}
        | {
            "pretrain_mm_mlp_adapter": stage1 / "mm_projector.bin",
            "lora_enable": True,
            "lora_r": 4,
            "lora_alpha": 8,
            "learning_rate": 1e-2,
        }
    )


@pytest.fixture(scope="module", params=VARIANTS)
def trained(request, flags, tmp_path_factory):
    """The output folder of a run, and its model."""
    folder = tmp_path_factory.mktemp(request.param)
    trainer = run_training(words(flags | VARIANTS[request.param] | {"output_dir": folder}))
    return folder, trainer.model.eval()


def inputs_of(model) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    config = model.config
    image = [config.image_token_id] * config.image_tokens_per_image
    side = config.image_size_aux
    return {
        "input_ids": torch.tensor([[1, *range(10, 20), *image, *range(20, 30)]]),
        "pixel_values_aux": torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8),
    }


@torch.no_grad()
def logits(model, **inputs) -> torch.Tensor:
    return model(**inputs).logits


def test_adapter_mining_and_projector_are_trained(trained, parts):
    folder, model = trained
    learned = {name for name, part in model.named_parameters() if part.requires_grad}
    assert {name.split(".")[0] for name in learned} == {"language_model", "mining", "projector"}
    of_language = [name for name in learned if name.startswith("language_model")]
    assert all("lora_" in name or name.endswith("bias") for name in of_language)
    kept = load_file(parts["language"] / "model.safetensors")
    for name, tensor in model.language_model.state_dict().items():
        if ".base_layer.weight" in name:
            assert torch.equal(tensor, kept[name.replace(".base_layer", "")])
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize("merge", [True, False])
def test_load_merged_and_unmerged(trained, merge):
    folder, model = trained
    if not merge and json.loads((folder / "adapter_config.json").read_text())["bias"] != "none":
        pytest.skip("biases are part of the weights")
    loaded = load_model(folder, merge_lora=merge)
    inputs = inputs_of(model)
    torch.testing.assert_close(
        logits(loaded, **inputs), logits(model, **inputs), rtol=1e-4, atol=1e-4
    )


def test_plain_peft_loads_the_adapter(trained, parts):
    folder, model = trained
    plain = LlamaForCausalLM.from_pretrained(parts["language"])
    before = logits(plain, input_ids=torch.arange(5, 25).unsqueeze(0))
    wrapped = peft.PeftModel.from_pretrained(plain, folder).eval()
    ids = torch.arange(5, 25).unsqueeze(0)
    ours = logits(model.language_model, input_ids=ids)
    torch.testing.assert_close(logits(wrapped, input_ids=ids), ours, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, ours, atol=1e-3)  # it is not zero


def test_lora_weight_path(trained, flags, tmp_path):
    folder, model = trained
    settings = json.loads((folder / "adapter_config.json").read_text())
    again = flags | {
        "use_dora": settings["use_dora"],
        "lora_bias": settings["bias"],
        "lora_weight_path": folder,
        "learning_rate": 0.0,
        "max_steps": 1,
        "output_dir": tmp_path,
    }
    continued = run_training(words(again)).model.eval()
    inputs = inputs_of(model)
    assert torch.equal(logits(continued, **inputs), logits(model, **inputs))


@pytest.mark.process
def test_merge_command(trained, tmp_path):
    folder, model = trained
    target = tmp_path / "merged"
    done = subprocess.run(
        [PYTHON, "-m", "mgm.train.merge", folder, target], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    inputs = inputs_of(model)
    whole = load_model(target)
    torch.testing.assert_close(
        logits(whole, **inputs), logits(model, **inputs), rtol=1e-4, atol=1e-4
    )
    engine = mgm.load(target, device="cpu")
    assert engine.answer([mgm.Request("hi", max_new_tokens=2)])


@pytest.mark.slow
def test_resume_is_exact(flags, tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    saving = flags | {"save_steps": 2, "save_strategy": "steps"}
    run_training(words(saving | {"output_dir": straight}))
    run_training(words(saving | {"output_dir": stopped}))
    for folder in stopped.glob("checkpoint-*"):
        if folder.name != "checkpoint-2":
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    run_training(words(saving | {"output_dir": stopped}))
    ours, theirs = (
        load_file(folder / "adapter_model.safetensors") for folder in (stopped, straight)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.slow
def test_mixtral_experts(flags, parts, tmp_path):
    language = tmp_path / "mixtral"
    torch.manual_seed(0)
    text = {name: value for name, value in TEXT.items() if name != "model_type"}
    vocabulary = json.loads((parts["language"] / "config.json").read_text())["vocab_size"]
    config = MixtralConfig(**text | {"vocab_size": vocabulary, "num_local_experts": 4})
    MixtralForCausalLM(config).save_pretrained(language)
    for file in parts["language"].glob("token*"):
        (language / file.name).write_bytes(file.read_bytes())
    folder = tmp_path / "adapter"
    trainer = run_training(words(flags | {"model_name_or_path": language, "output_dir": folder}))
    adapted = [
        name for name in load_file(folder / "adapter_model.safetensors") if "experts" in name
    ]
    assert len(adapted) == 2 * 4 * 3 * 2  # layers, experts, matrices, halves
    inputs = inputs_of(trainer.model)
    torch.testing.assert_close(
        logits(load_model(folder), **inputs),
        logits(trainer.model.eval(), **inputs),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"lora_bias": "some"}, "choose one of none, all, lora_only"),
        ({"lora_r": 0}, "give a rank from 1"),
        ({"lora_dropout": 1.0}, "below 1"),
        ({"lora_weight_path": "nowhere"}, "is missing; give the folder of an adapter"),
        ({"tune_mm_mlp_adapter": True}, "leave one of them out"),
        ({"lora_enable": False, "use_dora": True}, "does nothing without --lora_enable"),
        ({"lora_enable": False, "bits": 4}, "with --lora_enable True, or leave it out"),
        ({"bits": 5}, "choose one of 4, 8, 16"),
    ],
)
def test_errors(flags, change, fault, tmp_path):
    with pytest.raises(MGMError, match=fault):
        run_training(words(flags | change | {"output_dir": tmp_path}))


@pytest.mark.heavy
@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_qlora(flags, parts, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    trainer = run_training(
        words(flags | {"bits": bits, "output_dir": tmp_path, "num_train_epochs": 3})
    )
    layer = trainer.model.language_model.model.layers[0].mlp.down_proj
    assert layer.base_layer.weight.dtype in (torch.uint8, torch.int8)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-6:]) < sum(losses[:6])  # the last epoch and the first one
    inputs = inputs_of(trainer.model)
    # With gradients: bitsandbytes' inference kernels for CPUs need wider layers.
    ours = trainer.model.eval()(**inputs).logits.detach()
    whole = logits(load_model(tmp_path), **inputs)  # on the weights before quantisation
    assert (ours - whole).norm() < (0.35 if bits == 4 else 0.05) * whole.norm()


@pytest.fixture(scope="module")
def made(flags, tmp_path_factory):
    """The folder of a LoRA, for copies."""
    folder = tmp_path_factory.mktemp("made")
    run_training(words(flags | {"max_steps": 1, "save_strategy": "no", "output_dir": folder}))
    return folder


@pytest.fixture
def adapter(made, tmp_path):
    return shutil.copytree(made, tmp_path / "adapter")


def refused(flags, adapter, **changes) -> str:
    """The error message of continuing from an adapter."""
    output = adapter.parent / "out"
    more = {"lora_weight_path": adapter, "output_dir": output, "save_strategy": "no"}
    with pytest.raises(MGMError) as caught:
        run_training(words(flags | more | changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("how", ["empty", "half", "foreign"])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "non_lora_trainables.bin"])
def test_damaged_adapter(flags, adapter, name, how):
    file = adapter / name
    content = file.read_bytes()
    spoiled = {"empty": b"", "half": content[: len(content) // 2], "foreign": b"what is this"}
    file.write_bytes(spoiled[how])
    assert refused(flags, adapter).startswith(f"{file}: ")


def test_adapter_in_bin_format(flags, adapter):
    """As older versions of peft wrote them, and published adapters are."""
    weights = load_file(adapter / "adapter_model.safetensors")
    torch.save(weights, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    output, still = adapter.parent / "out", {"learning_rate": 0.0, "max_steps": 1}
    run_training(words(flags | still | {"lora_weight_path": adapter, "output_dir": output}))
    after = load_file(output / "adapter_model.safetensors")
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"lora_alpha": 16}, "--lora_alpha 16: lora_alpha is 8 in "),
        ({"lora_r": 8}, "--lora_r 8: r is 4 in "),
        ({"use_dora": True}, "--use_dora True: use_dora is False in "),
        ({"lora_bias": "all"}, "--lora_bias all: bias is none in "),
    ],
)
def test_conflicting_flags(flags, adapter, changes, fault):
    message = refused(flags, adapter, **changes)
    assert message.startswith(f"{fault}{adapter / 'adapter_config.json'}; repeat the flags")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_rslora", True),
        ("alpha_pattern", {"q_proj": 2}),
        ("rank_pattern", {"q_proj": 2}),
        ("init_lora_weights", "pissa"),
        ("lora_alpha", 32),
    ],
)
def test_unsupported_settings_of_other_adapters(flags, adapter, field, value):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    message = refused(flags, adapter)
    assert f"{file}" in message
    assert f"{field} is " in message


def test_default_settings_of_peft(flags, adapter):
    file = adapter / "adapter_config.json"
    values = json.loads(file.read_text())
    kept = ("peft_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path")
    file.write_text(json.dumps({name: values[name] for name in kept}))
    more = {"lora_weight_path": adapter, "output_dir": adapter.parent / "out", "max_steps": 1}
    run_training(words(flags | more | {"save_strategy": "no", "lora_dropout": 0.5}))


@pytest.mark.parametrize("how", ["missing", "no weights"])
def test_adapter_without_its_non_lora_weights(flags, adapter, how):
    file = adapter / "non_lora_trainables.bin"
    file.unlink()
    if how == "no weights":
        torch.save({}, file)
    fault = f"^{file}: (is missing|has no weights), and the adapter was trained with a mining"
    with pytest.raises(MGMError, match=fault):
        mgm.load(adapter, device="cpu")
    for more in ({}, {"model_name_or_path": adapter, "lora_weight_path": None}):
        message = refused(flags, adapter, pretrain_mm_mlp_adapter=None, **more)
        assert message.startswith(f"{file}: ")


def test_plain_adapter_uses_the_mining_of_its_base(stage2_flags, stage1, tmp_path, caplog):
    """As peft writes it, without our metadata and files."""
    folder = tmp_path / "adapter"
    lora = {"lora_enable": True, "lora_r": 4, "max_steps": 1, "save_strategy": "no"}
    run_training(words(stage2_flags | lora | {"output_dir": folder}))
    caplog.clear()
    load_model(folder)
    assert not caplog.messages
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"})
    (folder / "non_lora_trainables.bin").unlink()
    loaded = load_model(folder)
    (line,) = caplog.messages
    assert line.startswith(f"{folder / 'non_lora_trainables.bin'}: is missing; mining and")
    before = load_model(stage1).projector.state_dict()
    assert all(
        torch.equal(now, before[name]) for name, now in loaded.projector.state_dict().items()
    )
