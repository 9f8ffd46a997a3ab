import pytest
import torch
from safetensors.torch import save_file

from mgm.errors import MGMError
from mgm.model.vision.convnext import load_convnext_tower
from mgm.model.vision.vit import load_vision_tower
from mgm.train.estimate.vision_cost import vision_cost
from playground.colors import COLORS
from playground.pretraining.cell_code import CODE_FILE, CellCode
from playground.pretraining.drawn_images import DrawnImages
from playground.pretraining.encoder_heads import EncoderPretraining
from playground.pretraining.encoder_networks import build_encoder
from playground.pretraining.encoder_sets import (
    CONVNEXT,
    ENCODER_SETS,
    FINE_VIT,
    VIT,
    VitSpec,
    encoder_set,
    model_config,
    table,
)
from playground.pretraining.encoders import main
from playground.pretraining.targets import CHARACTERS, FRAME, SIDE, THINGS
from playground.tokenizer import build_tokenizer

ENCODERS = list(dict.fromkeys(spec for encoders in ENCODER_SETS for spec in encoders.encoders))


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["What", "does", "the", "sign", "say"])


@pytest.fixture(scope="module")
def code():
    torch.manual_seed(0)
    tables = [torch.randn(len(table), 192) for table in (CHARACTERS, THINGS, COLORS)]
    return CellCode(*tables).requires_grad_(False)


@pytest.fixture(scope="module")
def batch(tokenizer):
    images = DrawnImages(0, 0.5, tokenizer)
    samples = [images.draw(seed) for seed in range(3)]
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


@pytest.mark.parametrize("spec", ENCODERS, ids=lambda spec: spec.name)
def test_every_encoder_learns_and_loads_as_a_tower(spec, tokenizer, code, batch, tmp_path):
    torch.manual_seed(0)
    encoder = build_encoder(spec)
    model = EncoderPretraining(encoder, len(tokenizer), code)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        torch.manual_seed(0)  # the same cells are looked at
        loss, figures = model(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert {"cell_characters", "cell_things", "code"} <= set(figures)
    assert ("fine_characters" in figures) == (spec not in (VIT, ENCODER_SETS[1].vit))
    folder = tmp_path / spec.name
    encoder.save(folder)
    images = torch.randn(1, 3, FRAME, FRAME)
    grid = encoder.eval()(images).grids[SIDE]
    if isinstance(spec, VitSpec):
        small = torch.nn.functional.interpolate(images, size=spec.image_size, mode="bilinear")
        tokens = load_vision_tower(folder).eval()(small).unflatten(1, (spec.tokens_per_side,) * 2)
        pooled = torch.nn.functional.avg_pool2d(tokens.permute(0, 3, 1, 2), spec.pooling)
        torch.testing.assert_close(pooled.permute(0, 2, 3, 1), grid, rtol=1e-3, atol=1e-4)
    else:
        torch.testing.assert_close(load_convnext_tower(folder)(images)[3].permute(0, 2, 3, 1), grid)
    again = build_encoder(spec)
    again.load(folder)
    torch.testing.assert_close(again.state_dict(), encoder.state_dict())


def test_an_encoder_learns_without_any_other(tokenizer, code, batch):
    """No parameter of a ViT's pre-training is a ConvNeXt's or a mining's, and the other way."""
    for spec in (VIT, CONVNEXT):
        model = EncoderPretraining(build_encoder(spec), len(tokenizer), code)
        parts = {name for name, _ in model.named_children()}
        assert parts == {
            "encoder", "code", "heads", "code_head", "caption_head", "caption_encoder"
        }  # fmt: skip
        model(batch)[0].backward()
        unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not unused


def test_rivals_cost_as_many_flops():
    costs = {encoders.name: vision_cost(model_config(encoders)) for encoders in ENCODER_SETS}
    for rival in ("large-vit", "fine-vit"):
        assert costs[rival].flops == pytest.approx(costs["base"].flops, rel=0.03)
    convnexts = {
        name: cost.parts["vision_tower_aux"].flops
        for name, cost in costs.items()
        if "vision_tower_aux" in cost.parts
    }
    assert convnexts["half-convnext"] == pytest.approx(convnexts["base"] / 2, rel=0.03)
    assert convnexts["double-convnext"] == pytest.approx(2 * convnexts["base"], rel=0.03)
    assert all(encoders.name in table() for encoders in ENCODER_SETS)


def test_all_sets_give_144_image_tokens():
    for encoders in ENCODER_SETS:
        assert encoders.vit.tokens_per_side == SIDE * encoders.vit.pooling
    assert FINE_VIT.pooling == 2


def test_error_for_an_unknown_set():
    with pytest.raises(MGMError, match=r"'large' is no encoder set; choose among base, large-vit"):
        encoder_set("large")


def test_the_command_trains_each_encoder_of_a_set_once(tokenizer, code, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)  # compiling takes longer than two steps
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "code").mkdir()
    save_file(code.state_dict(), tmp_path / "code" / CODE_FILE)
    command = ["encoders", "--tokenizer", str(tmp_path / "tokenizer"), "--steps", "2"]
    command += ["--batch-size", "2", "--out", str(tmp_path / "first")]
    monkeypatch.setattr("sys.argv", command)
    main()
    assert {path.name for path in (tmp_path / "first").iterdir()} == {VIT.name, CONVNEXT.name}
    command[-1] = str(tmp_path / "second")
    command += ["--init-from", str(tmp_path / "first"), "--language-model", str(tmp_path / "code")]
    command += ["--tower", "convnext"]
    main()
    [folder] = (tmp_path / "second").iterdir()
    assert folder.name == CONVNEXT.name
    before = (folder / "open_clip_model.safetensors").stat().st_mtime_ns
    main()
    assert (folder / "open_clip_model.safetensors").stat().st_mtime_ns == before
