"""Features, logits, losses and answers of published checkpoints equal published ones."""

from functools import lru_cache
from typing import Any

import pytest
import torch

from benchmarks.reference_mining import concatenated_map
from mgm.model.loading import load_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from tests.golden_files import golden, golden_json
from tests.model.inputs import Case, difference, expanded, pixels, prompt

TOLERANCE = 1e-5
SURE_MARGIN = 1e-3

MANIFEST = golden_json("models/manifest.json")
CASES = [(model, case) for model, entry in MANIFEST.items() for case in entry["cases"]]
SINGLE = [model for model, case in CASES if case == "single"]
GENERATED = [
    (model, case) for model, case in CASES if "gen_prompt" in MANIFEST[model]["cases"][case]
]


@lru_cache(maxsize=1)
def loaded(model: str) -> MGMForConditionalGeneration:
    return load_model(golden(MANIFEST[model]["checkpoint"]))


def images_of(case: Case, model: MGMForConditionalGeneration) -> dict[str, torch.Tensor]:
    # The published code also encodes a dummy image for text-only samples.
    names = [name for name in case.entry["images"] or [] if name]
    return pixels(names, model.config) if names else {}


def stored_rows_difference(case: Case, name: str, ours: torch.Tensor) -> float:
    """Relative difference over all stored rows."""
    actual, expected = [], []
    for row in range(ours.shape[0]):
        if f"{name}_{row}" in case.figures:
            actual.append(ours[row, case.tensor(f"rows_{row}").long()])
            expected.append(case.tensor(f"{name}_{row}"))
    assert actual, f"nothing is stored of {name}"
    return difference(torch.cat(actual), torch.cat(expected))


@pytest.mark.parametrize("name", SINGLE)
@torch.no_grad()
def test_features_of_every_stage(name: str) -> None:
    model = loaded(name)
    case = Case.read(MANIFEST, name, "single")
    stride = case.entry["stage_row_stride"]
    images = images_of(case, model)
    tokens = model.low_resolution_tokens(images["pixel_values"])
    stages = model.high_resolution_stages(images["pixel_values_aux"])
    mined = model.mined_tokens(tokens, stages)
    # Ours are cells, then the global view; the published order is the reverse.
    cells = model.config.image_grid**2
    ordered = torch.cat([tokens[0, cells:], tokens[0, :cells]])
    of_mining = torch.cat([mined[0, cells:], mined[0, :cells]])

    clip = tokens.flatten(0, 1)[:, ::stride]
    assert difference(clip, case.tensor("lr_feat")) < TOLERANCE
    full = concatenated_map(stages)
    if "hr_feat_strided" in case.figures:
        step = full.shape[-1] // 24
        strided = full[..., step // 2 :: step, step // 2 :: step]
        assert difference(strided, case.tensor("hr_feat_strided")) < TOLERANCE
    assert difference(full.mean((0, 2, 3)), case.tensor("hr_feat_chan_mean")) < TOLERANCE
    for index, stage in enumerate(stages):
        if f"hr_stage{index}_strided" in case.figures:
            step = stage.shape[-1] // 24
            strided = stage[..., ::step, ::step]
            assert difference(strided, case.tensor(f"hr_stage{index}_strided")) < TOLERANCE
    views = [mined[:, -1:], mined[0, :-1]] if model.config.image_global else [mined[0]]
    for index, view in enumerate(views):
        expected = case.tensor(f"mine{index}_out")
        assert difference(view.reshape(-1, *mined.shape[2:])[:, ::stride], expected) < TOLERANCE
    before = (ordered + of_mining).flatten(0, 1).unsqueeze(0)[:, ::stride]
    assert difference(before, case.tensor("pre_proj")) < TOLERANCE
    features = model.get_image_features(**images)
    assert difference(features[:, ::stride], case.tensor("proj")) < TOLERANCE


@pytest.mark.parametrize(("name", "case_name"), CASES)
@torch.no_grad()
def test_embeddings_logits_and_loss(name: str, case_name: str) -> None:
    model = loaded(name)
    case = Case.read(MANIFEST, name, case_name)
    batch = expanded(case, model.config, left=case_name.endswith("leftpad"))
    if "merged_labels" in case.figures:
        assert torch.equal(batch["labels"], case.tensor("merged_labels"))
        assert torch.equal(
            batch["attention_mask"].bool(), case.tensor("merged_attention_mask").bool()
        )
    seen: dict[str, Any] = {}
    hook = model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    output = model(**batch, **images_of(case, model))
    hook.remove()

    # The published values are those before Gemma scales them.
    embeds = seen["inputs_embeds"] / getattr(model.get_input_embeddings(), "embed_scale", 1)
    if "embeds_0" in case.figures:
        assert stored_rows_difference(case, "embeds", embeds) < TOLERANCE
    if "inputs_embeds" in case.figures:
        assert difference(embeds, case.tensor("inputs_embeds")) < TOLERANCE
    assert stored_rows_difference(case, "logits", output.logits) < TOLERANCE
    assert output.loss.item() == pytest.approx(float(case.figures["loss"]), rel=TOLERANCE)
    valid = batch["attention_mask"].bool()
    top = output.logits.topk(2, dim=-1)
    sure = valid & (top.values[..., 0] - top.values[..., 1] > SURE_MARGIN)
    assert torch.equal(top.indices[..., 0][sure], case.tensor("argmax").long()[sure])


@pytest.mark.parametrize(("name", "case_name"), GENERATED)
@torch.no_grad()
def test_generated_tokens(name: str, case_name: str) -> None:
    model = loaded(name)
    case = Case.read(MANIFEST, name, case_name)
    ids = prompt(case, model.config)
    images = images_of(case, model)
    if images:
        images = {"image_features": model.get_image_features(**images)}
    unsure = (case.figures["gen_margin"] <= SURE_MARGIN).nonzero()[0]
    sure = int(unsure[0]) if len(unsure) else len(case.figures["gen_margin"])
    for figure, eos in (
        ("gen_output_ids", model.generation_config.eos_token_id),
        ("gen_output_ids_noeos", None),
    ):
        answer = model.generate(
            input_ids=ids,
            **images,
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=0,
        )[:, ids.shape[1] :]
        expected = case.tensor(figure)
        assert answer[:, :sure].tolist() == expected[:, :sure].tolist()
