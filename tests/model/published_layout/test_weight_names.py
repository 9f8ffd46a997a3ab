import json

import pytest

from mgm.data.text.templates import get_template
from mgm.model.families import FAMILIES, family_of
from mgm.model.published_layout.weight_names import to_native_key, to_published
from tests.golden_files import golden_json
from tests.model.tiny import tiny_model


@pytest.mark.parametrize("name", ["mgm_llama", "mgm_gemma", "mgm_mixtral"])
def test_names_round_trip(name: str) -> None:
    for published in golden_json(f"models/{name}_state_dict.json"):
        native = to_native_key(published)
        assert not native.startswith(("model.", "lm_head."))
        assert to_published(native) == published


def test_every_weight_has_a_published_name() -> None:
    published = golden_json("models/mgm_llama_state_dict.json").keys()
    names = [to_published(name) for name in tiny_model().state_dict()]
    assert len(set(names)) == len(names)
    # The tiny model has fewer layers; apart from numbers every name is a published one.
    kinds = {"".join(filter(lambda letter: not letter.isdigit(), name)) for name in published}
    for name in names:
        assert "".join(filter(lambda letter: not letter.isdigit(), name)) in kinds, name


def test_other_names_are_unchanged() -> None:
    assert to_native_key("language_model.model.norm.weight") == "language_model.model.norm.weight"
    assert to_published("something.else") == "something.else"


def test_family_by_model_type_and_tokens() -> None:
    assert [family_of(kind).name for kind in ("gemma", "mixtral", "mistral")] == [
        "gemma",
        "mixtral",
        "mistral",
    ]
    assert family_of("llama").name == "vicuna"
    assert family_of("llama", {"<|eot_id|>", "a"}).name == "llama3"
    assert family_of("llama", {"<|im_end|>"}).name == "yi"
    assert family_of("qwen2") is None
    assert [family_of(kind).name for kind in ("qwen3", "phi")] == ["qwen", "phi"]
    later = [family.conversation for family in FAMILIES if family.published_model_type is None]
    # Where training and prompts use the same layout, unlike in some published templates.
    assert all(get_template(name).training is None for name in later)
    assert family_of("phi3", {"<|end|>"}).conversation == "phi_3"
    assert family_of("qwen2", {"<|im_end|>"}).conversation == "qwen_3"
    assert family_of("gemma", {"<|im_end|>"}).name == "gemma"
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("size", ["MGM-2B", "MGM-7B", "MGM-13B", "MGM-8B", "MGM-8x7B", "MGM-34B"])
def test_names_of_the_released_models(size: str) -> None:
    keys = json.dumps(list(golden_json("released_layout.json")[size]["keys"]))
    for published in json.loads(keys):
        assert to_published(to_native_key(published)) == published
        assert to_native_key(published) != published
