import json
from pathlib import Path

import pytest
import torch

from mgm.model.vision.convnext import load_convnext_tower
from mgm.model.vision.image_views import blurred
from playground import probe
from playground.cap_heights import FRAME
from playground.pretraining import character_readers
from playground.pretraining.targets import CHARACTER_ID


@pytest.fixture(scope="module")
def readers():
    torch.manual_seed(0)
    return character_readers.build_readers().eval()


def test_readers_start_alike_and_see_the_same_parts(readers):
    part = character_readers.CharacterImages(5).draw(5)
    assert part["sharp"].shape == part["blurred"].shape == (3, 256, 256)
    assert part["characters"].shape == (16, 16, 8)
    assert part["characters"].any()
    first, second = (reader.features(part["sharp"][None]) for reader in readers.by_view().values())
    assert first.shape == (1, 16, 16, character_readers.DIMS[-1])
    torch.testing.assert_close(first, second)
    assert not torch.allclose(part["sharp"], part["blurred"], atol=0.1)


def test_blur_is_that_of_the_fusion_config():
    sample, index = probe.held_out_sample(0)
    seen = character_readers.views(character_readers.character_grids(sample, index)[0])
    torch.testing.assert_close(seen["blurred"], blurred(seen["sharp"][None], 168)[0])


def test_readers_start_from_a_nano_convnext():
    folder = Path("playground/model_zoo/convnext-nano-384")
    state = load_convnext_tower(folder).state_dict()
    for reader in character_readers.build_readers(folder).by_view().values():
        for name, tensor in reader.tower.state_dict().items():
            assert torch.equal(tensor, state[name].float())


def test_positions_hold_their_characters():
    for number in range(6):
        sample, index = probe.held_out_sample(number)
        _, ids, caps = character_readers.character_grids(sample, index)
        drawn = {CHARACTER_ID[glyph.char] for glyph in sample.glyphs[index]}
        assert {*ids[ids > 0].tolist()} == drawn
        heights = caps[ids > 0]
        assert heights.min() > 3.9
        assert heights.max() < FRAME
        assert not caps[ids == 0].any()


def test_accuracy_is_counted_in_its_bin():
    rows = [
        {"image": str(image), "cap": cap, "right": {"sharp": True, "blurred": cap > 6}}
        for image in range(20)
        for cap in (5.0, 7.0)
    ]
    small = probe.accuracies(rows, 4, 6)
    assert (small["characters"], small["images"]) == (20, 20)
    assert (small["sharp"]["accuracy"], small["blurred"]["accuracy"]) == (1.0, 0.0)
    assert probe.accuracies(rows, 20, 28) == {"characters": 0, "images": 0}
    bins = {"4-6": small, "6-8": probe.accuracies(rows, 6, 8)}
    assert probe.gate_holds(bins) is True
    assert probe.gate_holds({"4-6": bins["6-8"]}) is False
    assert probe.gate_holds({"4-6": probe.accuracies(rows[:2], 4, 6)}) is None


@pytest.mark.slow
def test_probe_runs(tmp_path, monkeypatch, capsys):
    out = tmp_path / "result.json"
    flags = ["--weights", str(tmp_path / "weights"), "--out", str(out), "--workers", "1"]
    sizes = ["--steps", "2", "--batch-size", "2", "--images", "12"]
    monkeypatch.setattr("sys.argv", ["probe", *flags, *sizes])
    probe.main()
    result = json.loads(out.read_text())
    assert result["gate_holds"] in (True, False, None)
    assert sum(results["characters"] for results in result["bins"].values()) > 100
    assert result["settings"]["steps"] == 2
    capsys.readouterr()
