"""Greedy answers equal those of the published implementation."""

import numpy as np
import pytest

import mgm
from tests.golden_files import golden, golden_json

CLEAR = 1e-3  # logit margin of the two best tokens below which builds may differ


@pytest.mark.parametrize("name", ["mgm_llama", "mgm_llama_hd", "mgm_gemma", "mgm_mixtral"])
def test_published_answers(name):
    model = golden_json("models/manifest.json").get(name)
    if model is None:
        pytest.skip(f"{name} is not among the golden models")
    engine = mgm.load(golden(model["checkpoint"]), device="cpu")
    cases = [case for case in model["cases"].values() if "gen_text" in case]
    assert cases
    requests = []
    for case in cases:
        images = [golden(f"images/{image}.png") for image in case["images"] or []]
        question = case["conversations"][0][0]["value"]
        requests.append(mgm.Request(question, images=images, max_new_tokens=16))
        assert engine.prompt(requests[-1]) == case["gen_prompt"]
    for case, answer in zip(cases, engine.answer(requests), strict=True):
        record = np.load(golden(f"models/{case['file']}"))
        ids, margins = record["gen_output_ids"].ravel().tolist(), record["gen_margin"].ravel()
        clear = int((margins > CLEAR).argmin()) if (margins <= CLEAR).any() else len(ids)
        assert clear > 0
        assert list(answer.tokens)[:clear] == ids[:clear]
        if clear == len(ids):
            assert answer.text == case["gen_text"]
