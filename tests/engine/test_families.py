"""Published checkpoints of every family get their conversation template and stop tokens.

The models have random weights, changed so that they answer with a word and then end tokens.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

import mgm
from mgm.data.text.tokenizer import load_tokenizer
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.families import FAMILIES
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.published_layout.config_fields import FIELDS
from mgm.model.published_layout.weight_names import to_published
from tests.golden_files import golden

TOKENIZER = {"mixtral": "mistral"}  # model types that differ from the family's name
ENDS = {
    "vicuna": {"</s>"},
    "llama3": {"<|eot_id|>", "<|end_of_text|>"},
    "yi": {"<|im_end|>"},
    "gemma": {"<end_of_turn>", "<eos>"},
    "mixtral": {"</s>"},
    "mistral": {"</s>"},
}
ASKS = {  # start and end of a prompt
    "vicuna": ("A chat between a curious user and an artificial ", "USER: Hi ASSISTANT:"),
    "llama3": (
        "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision ",
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>system<|end_header_id|>\n\n",
    ),
    "yi": (
        "<|im_start|>system\nAnswer the questions.<|im_end|>",
        "<|im_start|>user\nHi<|im_end|><|im_start|>assistant\n",
    ),
    "gemma": ("<start_of_turn>user\n", "Hi<end_of_turn>\n<start_of_turn>model\n"),
    "mixtral": ("[INST] ", "Hi [/INST]"),
    "mistral": ("[INST] ", "Hi [/INST]"),
}
CASES = [
    (family, end)
    for family in FAMILIES
    if family.published_model_type is not None
    for end in sorted(ENDS[family.name])
]
WIDTH = 32


def text_config(model_type: str, tokenizer: Any) -> dict[str, Any]:
    config = {
        "model_type": model_type,
        "vocab_size": len(tokenizer) - 1,  # without <image>
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    if model_type == "mixtral":
        config |= {"num_local_experts": 2, "num_experts_per_tok": 1}
    return config


def build(family: Any, end: str, folder: Path) -> Path:
    """A checkpoint in the published layout that answers "<word><end><end>..." to every prompt."""
    source = golden(f"tokenizers/{TOKENIZER.get(family.name, family.name)}")
    tokenizer = load_tokenizer(source)
    torch.manual_seed(0)
    config = MGMConfig(
        text_config=text_config(family.text_model_type, tokenizer),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        vision_aux_config={"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
        image_size_aux=64,
    )
    model = MGMForConditionalGeneration(config)
    last = tokenizer(ASKS[family.name][1]).input_ids[-1]
    word = tokenizer("z", add_special_tokens=False).input_ids[-1]
    give_habit(model, [last, word, tokenizer.convert_tokens_to_ids(end)])
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {to_published(name): value for name, value in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    flat = config.text_config.to_dict() | {
        name: getattr(config, ours) for ours, (name, _) in FIELDS.items()
    }
    flat |= {
        "model_type": family.published_model_type,
        "mm_vision_tower": "model_zoo/OpenAI/clip-vit-large-patch14-336",
        "mm_vision_tower_aux": "model_zoo/OpenAI/openclip-convnext-large-d-320",
    }
    (folder / "config.json").write_text(json.dumps(flat))
    GenerationConfig(eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
    shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    return folder


@torch.no_grad()
def give_habit(model: MGMForConditionalGeneration, tokens: list[int]) -> None:
    """Change the weights so that the second of `tokens` follows the first, and the third the second
    and itself.
    """
    language_model = model.language_model
    for parameter in language_model.parameters():
        if parameter.dim() > 1:
            parameter.zero_()  # no addition to the embedding of the last token
        else:
            parameter.fill_(0.0 if "gemma" in language_model.config.model_type else 1.0)
    axes = torch.eye(WIDTH)
    first, word, end = tokens
    for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        weight[first], weight[word], weight[end] = axes[0], 3 * axes[0] + axes[1], 12 * axes[1]


@pytest.mark.parametrize(("family", "end"), CASES, ids=lambda value: getattr(value, "name", value))
def test_published_checkpoints_of_every_family(family, end, tmp_path):
    engine = mgm.load(build(family, end, tmp_path / "published"), device="cpu")
    tokenizer = engine.processor.tokenizer
    word = tokenizer("z", add_special_tokens=False).input_ids[-1]
    stop = tokenizer.convert_tokens_to_ids(end)

    assert engine.processor.conversation == family.conversation
    begins, ends = ASKS[family.name]
    prompt = engine.prompt(mgm.Request("Hi"))
    assert prompt.startswith(begins)
    assert prompt.endswith(ends)
    assert ask(engine.processor) == prompt

    [answer] = engine.answer([mgm.Request("Hi", max_new_tokens=5)])
    assert (answer.tokens, answer.finish_reason) == ((word,), "stop")

    engine.model.save_pretrained(tmp_path / "native")
    engine.processor.save_pretrained(tmp_path / "native")
    saved = GenerationConfig.from_pretrained(tmp_path / "native")
    assert {*tokenizer.convert_ids_to_tokens(saved.eos_token_id)} == ENDS[family.name]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "native")
    processor = AutoProcessor.from_pretrained(tmp_path / "native")
    assert ask(processor) == prompt
    inputs = processor(text=prompt)
    written = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert written[0, inputs["input_ids"].shape[1] :].tolist() == [word, stop]


def ask(processor: Any) -> str:
    """The prompt by transformers' `apply_chat_template`."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def test_padding_rows_of_the_vocabulary_are_never_sampled(tmp_path):
    """Neither by plain transformers."""
    source = golden("work_dirs/MGM/MGM-7B")
    weights = {k: v for file in source.glob("*.safetensors") for k, v in load_file(file).items()}
    torch.manual_seed(0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], 3 * torch.randn(72, 64)])
    for file in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copy(source / file, tmp_path)
    save_file(weights, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text()) | {"vocab_size": 832}
    (tmp_path / "config.json").write_text(json.dumps(config))
    engine, plain = mgm.load(tmp_path), mgm.load(source)
    request = mgm.Request("What is this?", max_new_tokens=6)
    expected = plain.answer([request])[0]
    assert engine.answer([request])[0] == expected
    engine.save_pretrained(tmp_path / "native")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "native")
    inputs = engine.processor(text=engine.prompt(request))
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0]
    assert ids[inputs["input_ids"].shape[1] :].tolist()[: len(expected.tokens)] == list(
        expected.tokens
    )
