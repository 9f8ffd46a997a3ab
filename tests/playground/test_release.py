import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mgm.errors import MGMError
from playground.release import release


def test_released_model_is_bfloat16_without_paths(tmp_path):
    trained = tmp_path / "trained"
    trained.mkdir()
    weights = {"weight": torch.randn(3, 2), "count": torch.tensor([7])}
    save_file(weights, trained / "model.safetensors", {"format": "pt"})
    config = {"dtype": "float32", "text_config": {"_name_or_path": "/home/me", "dtype": "float32"}}
    (trained / "config.json").write_text(json.dumps(config))
    (trained / "trainer_state.json").write_text("{}")
    (trained / "training_args.bin").write_bytes(b"")
    (trained / "tokenizer.json").write_text('{"dtype": "float32"}')
    card = tmp_path / "card.md"
    card.write_text("# A model")
    release(trained, tmp_path / "out", card)
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {"model.safetensors", "config.json", "tokenizer.json", "README.md"}
    shipped = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(shipped["weight"], weights["weight"].bfloat16())
    assert torch.equal(shipped["count"], weights["count"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {"dtype": "bfloat16", "text_config": {"dtype": "bfloat16"}}
    assert (tmp_path / "out" / "tokenizer.json").read_text() == '{"dtype": "float32"}'


def test_folder_without_weights(tmp_path):
    with pytest.raises(MGMError, match=r"no \.safetensors"):
        release(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unreadable_weights(tmp_path):
    trained = tmp_path / "trained"
    trained.mkdir()
    save_file({"weight": torch.zeros(2)}, trained / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.md"):
        release(trained, tmp_path / "out", tmp_path / "none.md")
    (trained / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(MGMError, match=r"trained/model\.safetensors: is damaged"):
        release(trained, tmp_path / "out")
    assert not (tmp_path / "out").exists()
