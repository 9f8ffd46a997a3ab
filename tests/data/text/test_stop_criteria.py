from transformers import GenerationConfig

from mgm.data.text.stop_criteria import align_generation, stops_of
from mgm.data.text.templates import get_template
from mgm.data.text.tokenizer import load_tokenizer
from tests.golden_files import golden


def test_a_stop_text_is_a_token_where_there_is_one():
    llama3 = load_tokenizer(golden("tokenizers/llama3"))
    stops = stops_of(llama3, get_template("llama_3"), [699, 700])
    assert stops.ids == {699, 700, 701, 706}
    assert not stops.texts
    vicuna = load_tokenizer(golden("tokenizers/vicuna"))
    stops = stops_of(vicuna, get_template("llava_v0"), None)
    assert (stops.ids, stops.texts) == ({2}, ("###",))


def test_generation_alone_stops_there_too():
    generation = GenerationConfig(eos_token_id=701)
    llama3 = load_tokenizer(golden("tokenizers/llama3"))
    align_generation(generation, llama3, get_template("llama_3"))
    assert generation.eos_token_id == [701, 706]
    assert (generation.bos_token_id, generation.pad_token_id) == (700, 701)
