import json
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from mgm.errors import MGMError
from mgm.model.files.lazy_tensor import lazy_tensors
from mgm.model.files.safetensors_writer import write_shards
from mgm.model.files.weight_files import read_folder

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
    tensors = lazy_tensors(file)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.shape == tuple(expected[name].shape)
        assert tensor.dtype == expected[name].dtype
        assert equal(tensor.read(), expected[name]), name
        assert equal(tensor[...], expected[name])


def test_safetensors_equal_the_library(tmp_path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"format": "pt"})
    check(tmp_path / "a.safetensors", TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_equal_torch(tmp_path, zipped) -> None:
    base = torch.randn(6, 4)
    expected = {name: value for name, value in TENSORS.items() if zipped or name != "small"}
    weights = expected | {"rows": base[2:4], "transposed": base.t(), "base": base, "same": base}
    torch.save(weights, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    check(tmp_path / "a.bin", weights)
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "a.bin")
    check(tmp_path / "a.bin", weights)


def test_tensors_are_read_lazily(tmp_path) -> None:
    file = tmp_path / "a.bin"
    torch.save({"a": torch.ones(100)}, file)
    (tensor,) = lazy_tensors(file).values()
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(MGMError, match="cut short while it was read"):
        tensor.read()


def test_pickled_code_is_not_run(tmp_path) -> None:
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


def test_files_without_tensors(tmp_path) -> None:
    torch.save({"step": 3, "state_dict": {"rate": 0.1}}, tmp_path / "a.bin")
    with pytest.raises(MGMError, match=r"a\.bin: has no tensors; copy it again"):
        lazy_tensors(tmp_path / "a.bin")


def test_contradictory_header(tmp_path) -> None:
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
def test_written_files_load_with_the_library(tmp_path, limit) -> None:
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
    read = {name: value for file in files for name, value in load_file(file).items()}
    assert read.keys() == TENSORS.keys()
    assert all(equal(read[name], TENSORS[name]) for name in read)
    assert sum(counts) == sum(tensor.nbytes for tensor in TENSORS.values())


def rewritten(source, target, name: str, content: bytes, compression=zipfile.ZIP_STORED) -> None:
    """A PyTorch file with one record replaced."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            here = info.filename.endswith(name)
            new.writestr(info.filename, content if here else old.read(info.filename))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "contains a list instead of tensors by name"),
        (torch.ones(2), r"contains a \w*Tensor instead"),
        (None, "contains a NoneType instead"),
        ({"state_dict": [torch.ones(2)]}, "contains a list instead"),
        ({1: torch.ones(2)}, "1 is not a tensor name"),
        ({"\ud800": torch.ones(2)}, "is not a tensor name"),
        ({"a": {"b": torch.ones(2)}}, "has no tensors"),
        ({"a": torch.ones(1).expand(10**9)}, "takes 4000000000 bytes, the whole file has"),
        ({"a": torch.eye(3).to_sparse()}, "cannot be read as weights|a is sparse"),
        ({"a": torch.ones(3, device="meta")}, r"takes 12 bytes|without values"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_without_tensors(tmp_path, content, message, zipped) -> None:
    file = tmp_path / "a.bin"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(MGMError, match=rf"a\.bin: .*{message}"):
        lazy_tensors(file)


@pytest.mark.parametrize("record", [bytes(8), bytes(400)])
def test_torch_files_with_records_of_another_size(tmp_path, record) -> None:
    torch.save({"a": torch.ones(12)}, tmp_path / "good.bin")
    rewritten(tmp_path / "good.bin", tmp_path / "a.bin", "data/0", record)
    with pytest.raises(MGMError, match=r"a\.bin: a takes 48 bytes, and the file has "):
        lazy_tensors(tmp_path / "a.bin")


def test_compressed_torch_files(tmp_path) -> None:
    torch.save({"a": torch.ones(12)}, tmp_path / "good.bin")
    packed = zipfile.ZIP_DEFLATED
    rewritten(tmp_path / "good.bin", tmp_path / "a.bin", "nothing", b"", packed)
    with pytest.raises(MGMError, match=r"a\.bin: cannot be read as weights"):
        lazy_tensors(tmp_path / "a.bin")


def test_torch_files_with_wrong_shapes(tmp_path) -> None:
    torch.save({"a": torch.ones(3, 4)}, tmp_path / "good.bin")
    with zipfile.ZipFile(tmp_path / "good.bin") as archive:
        pickled = archive.read("good/data.pkl")
    lie = pickled.replace(b"K\x03K\x04", b"K\x06K\x04")
    assert lie != pickled
    rewritten(tmp_path / "good.bin", tmp_path / "a.bin", "data.pkl", lie)
    with pytest.raises(MGMError, match=r"a\.bin: "):
        lazy_tensors(tmp_path / "a.bin")


@pytest.mark.parametrize("size", [0, 1, 10, 100, 0.5, 0.99])
def test_truncated_torch_files(tmp_path, size) -> None:
    file = tmp_path / "a.bin"
    torch.save({"a": torch.ones(12)}, file)
    content = file.read_bytes()
    file.write_bytes(content[: size if isinstance(size, int) else int(size * len(content))])
    with pytest.raises(MGMError, match=r"a\.bin: cannot be read as weights"):
        lazy_tensors(file)


@pytest.mark.parametrize(
    "weight_map",
    [
        *({}, [], None, {"a": 1}, {"a": None}, {"a": ["model.safetensors"]}, {"a": ""}),
        *({"a": "../model.safetensors"}, {"a": "/etc/passwd"}, {"a": "sub/model.safetensors"}),
        *({"a": "."}, {"a": ".."}, {"a": "config.json"}, {"a": "x\0.bin"}, {"a": "..\\x.bin"}),
    ],
)
def test_index_paths_outside_the_folder(tmp_path, weight_map) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "f").mkdir()
    index = tmp_path / "f/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(MGMError, match=r"model\.safetensors\.index\.json: "):
        read_folder(tmp_path / "f")


def test_index_with_swapped_files(tmp_path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "1.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "2.safetensors", "b": "1.safetensors"}}))
    with pytest.raises(MGMError, match=r"1\.safetensors: has a, which the index says is in 2"):
        read_folder(tmp_path)
