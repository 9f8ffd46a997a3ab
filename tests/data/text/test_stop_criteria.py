from transformers import GenerationConfig

from mgm.data.text.stop_criteria import stop_criteria_of, sync_generation_config
from mgm.data.text.templates import get_template
from mgm.data.text.tokenizer import load_tokenizer
from tests.golden_files import golden


def test_stop_string_that_is_a_token():
    llama3 = load_tokenizer(golden("tokenizers/llama3"))
    stops = stop_criteria_of(llama3, get_template("llama_3"), [699, 700])
    assert stops.token_ids == {699, 700, 701, 706}
    assert not stops.strings
    vicuna = load_tokenizer(golden("tokenizers/vicuna"))
    stops = stop_criteria_of(vicuna, get_template("llava_v0"), None)
    assert (stops.token_ids, stops.strings) == ({2}, ("###",))


def test_generation_config_has_the_stop_tokens():
    generation = GenerationConfig(eos_token_id=701)
    llama3 = load_tokenizer(golden("tokenizers/llama3"))
    sync_generation_config(generation, llama3, get_template("llama_3"))
    assert generation.eos_token_id == [701, 706]
    assert (generation.bos_token_id, generation.pad_token_id) == (700, 701)
