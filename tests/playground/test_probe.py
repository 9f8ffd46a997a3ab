import json

import pytest
import torch

from mgm.model.vision.image_views import blurred
from playground import probe
from playground.cap_heights import FRAME
from playground.pretraining.targets import CHARACTER_ID


@pytest.fixture(scope="module")
def readers():
    torch.manual_seed(0)
    return probe.build_readers().eval()


def test_readers_differ_by_their_images_only(readers):
    images = probe.CharacterImages(5).draw(5)["image"][None]
    sharp, blurry = readers["sharp"].features(images), readers["blurred"].features(images)
    assert sharp.shape == blurry.shape == (1, 24, 24, probe.DIMS[-1])
    assert not torch.allclose(sharp, blurry, atol=1e-3)
    # The blur is that of `FusionConfig.blur_high_resolution`: of normalised pixels.
    reader = readers["sharp"]
    pixels = images.permute(0, 3, 1, 2).float().div(255).sub(reader.mean).div(reader.std)
    expected = reader.tower(blurred(pixels, 168))[-1].permute(0, 2, 3, 1)
    torch.testing.assert_close(blurry, expected, atol=1e-4, rtol=1e-4)


def test_positions_hold_their_characters():
    for number in range(6):
        sample, index = probe.held_out_sample(number)
        characters = probe._tensors(sample, index)["characters"]
        results = probe.positions(sample, index)
        assert len(results) == int((characters > 0).sum())
        drawn = {CHARACTER_ID[glyph.char] for glyph in sample.glyphs[index]}
        assert {int(characters[row, column, slot]) for row, column, slot, _ in results} == drawn
        assert all(3.9 < cap < FRAME for *_, cap in results)


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
