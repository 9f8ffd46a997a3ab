import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from mgm.errors import MGMError
from mgm.model.files.lazy_tensor import lazy_tensors
from mgm.model.files.safetensors_writer import write_shards

TENSORS = {
    "matrix": torch.randn(3, 5),
    "half": torch.randn(7).half(),
    "bfloat": torch.randn(2, 3, 4).bfloat16(),
    "small": torch.randn(4).to(torch.float8_e4m3fn),
    "whole": torch.arange(6).reshape(2, 3),
    "flag": torch.tensor([True, False]),
    "number": torch.tensor(2.5),
    "nothing": torch.zeros(0, 4),
}


def equal(ours, theirs) -> bool:
    return (
        ours.dtype == theirs.dtype
        and ours.shape == theirs.shape
        and torch.equal(
            ours.contiguous().flatten().view(torch.uint8),
            theirs.contiguous().flatten().view(torch.uint8),
        )
    )


def check(file, expected) -> None:
    found = lazy_tensors(file)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.shape == tuple(expected[name].shape)
        assert tensor.dtype == expected[name].dtype
        assert equal(tensor.read(), expected[name]), name
        assert equal(tensor[...], expected[name])


def test_safetensors_hold_what_the_library_wrote(tmp_path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"format": "pt"})
    check(tmp_path / "a.safetensors", TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_hold_what_torch_wrote(tmp_path, zipped) -> None:
    base = torch.randn(6, 4)
    known = {name: value for name, value in TENSORS.items() if zipped or name != "small"}
    weights = known | {"rows": base[2:4], "transposed": base.t(), "base": base, "same": base}
    torch.save(weights, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    check(tmp_path / "a.bin", weights)
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "a.bin")
    check(tmp_path / "a.bin", weights)


def test_files_are_opened_when_a_tensor_is_read(tmp_path) -> None:
    file = tmp_path / "a.bin"
    torch.save({"a": torch.ones(100)}, file)
    (tensor,) = lazy_tensors(file).values()
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(MGMError, match="cut short while it was read"):
        tensor.read()


def test_code_in_a_file_is_not_run(tmp_path) -> None:
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    (tmp_path / "a.bin").write_bytes(pickle.dumps({"weight": Trap()}))
    with pytest.raises(MGMError, match=r"a\.bin: .* other objects than tensors, whose code is not"):
        lazy_tensors(tmp_path / "a.bin")
    torch.save({"weight": Trap()}, tmp_path / "b.bin")
    with pytest.raises(MGMError, match=r"b\.bin: cannot be read as weights"):
        lazy_tensors(tmp_path / "b.bin")
    assert not (tmp_path / "sprung").exists()


def test_a_file_of_other_things(tmp_path) -> None:
    torch.save({"step": 3, "state_dict": {"rate": 0.1}}, tmp_path / "a.bin")
    with pytest.raises(MGMError, match=r"a\.bin: holds no tensors; copy it again"):
        lazy_tensors(tmp_path / "a.bin")


def test_a_header_that_contradicts_itself(tmp_path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2, 3)}, file)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"[2,3]", b"[2,4]"))
    with pytest.raises(
        MGMError, match=r"a takes 24 bytes, which is not what F32 of shape \(2, 4\)"
    ):
        lazy_tensors(file)
    file.write_bytes(content.replace(b'"F32"', b'"F99"'))
    with pytest.raises(MGMError, match=r"a is of type F99; expected one of F64, F32"):
        lazy_tensors(file)


@pytest.mark.parametrize("limit", [40, 10**9])
def test_the_library_reads_what_is_written(tmp_path, limit) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    (tmp_path / "out").mkdir()
    counts: list[int] = []
    write_shards(tmp_path / "out", lazy_tensors(tmp_path / "a.safetensors"), limit, counts.append)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert (
        (len(files) > 1)
        == (limit == 40)
        == (tmp_path / "out/model.safetensors.index.json").exists()
    )
    found = {name: value for file in files for name, value in load_file(file).items()}
    assert found.keys() == TENSORS.keys()
    assert all(equal(found[name], TENSORS[name]) for name in found)
    assert sum(counts) == sum(tensor.nbytes for tensor in TENSORS.values())
