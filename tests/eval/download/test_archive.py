"""Archives: extraction of required files, and one-line errors for unusual ones."""

import gzip
import io
import shutil
import stat
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from mgm.errors import MGMError
from mgm.eval.download import archive
from mgm.eval.download.archive import unpack_archive
from tests.eval.full_disk import full_after


def zipped(path: Path, *files: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files:
            made.writestr(name, content)
    return path


def tarred(
    path: Path, *files: tuple[str, bytes], mode: str = "w", kind: bytes | None = None
) -> Path:
    with tarfile.open(path, mode) as made:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if kind is not None:
                info.type, info.linkname, info.size = kind, "/etc/passwd", 0
            made.addfile(info, io.BytesIO(content))
    return path


def test_required_files_are_extracted(tmp_path):
    """And no others; they may be in subfolders of the archive, or have only the file name."""
    made = zipped(
        tmp_path / "a.part",
        ("mm-vet/mm-vet.json", b"{}"), ("mm-vet/images/1.png", b"1"),
        ("mm-vet/images/more/2.png", b"2"), ("mm-vet/README", b"no"), ("__MACOSX/._x", b""),
    )  # fmt: skip
    unpack_archive(made, "mm-vet.zip", tmp_path / "to", ["mm-vet.json", "images", "other.jsonl"])
    extracted = {str(file.relative_to(tmp_path / "to")) for file in (tmp_path / "to").rglob("*.*")}
    assert extracted == {"mm-vet.json", "images/1.png", "images/more/2.png"}
    made = zipped(tmp_path / "b.part", ("images/1.jpg", b"1"), ("x/questions.json", b"[]"))
    unpack_archive(made, "b.zip", tmp_path / "gqa", ["data/images"])
    assert (tmp_path / "gqa" / "data" / "images" / "1.jpg").read_bytes() == b"1"
    unpack_archive(made, "b.zip", tmp_path / "gqa", ["data/questions.json"])
    assert (tmp_path / "gqa" / "data" / "questions.json").read_bytes() == b"[]"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_tar(tmp_path, mode):
    made = tarred(tmp_path / "a.part", ("images/1.jpg", b"one"), ("./images/2.jpg", b""), mode=mode)
    unpack_archive(made, "images.tar", tmp_path / "to", ["images"])
    assert (tmp_path / "to" / "images" / "1.jpg").read_bytes() == b"one"
    assert (tmp_path / "to" / "images" / "2.jpg").read_bytes() == b""


def test_macos_metadata_is_ignored(tmp_path):
    made = zipped(tmp_path / "a.part", ("d/__MACOSX/images/._1", b"x"), ("d/images/1", b"one"))
    unpack_archive(made, "a.zip", tmp_path / "to", ["images"])
    assert [file.name for file in (tmp_path / "to" / "images").iterdir()] == ["1"]


@pytest.mark.parametrize("method", [1, 9, 93, 65535])  # shrink, deflate64, zstd
def test_unsupported_zip_compression(tmp_path, method):
    made = zipped(tmp_path / "a.part", GOOD)
    content = bytearray(made.read_bytes())
    central = content.find(b"PK\x01\x02")
    content[8:10] = content[central + 10 : central + 12] = method.to_bytes(2, "little")
    made.write_bytes(content)
    with pytest.raises(MGMError, match=rf"\(zip method {method}\); unpack it by hand"):
        unpack_archive(made, "a.zip", tmp_path / "to", ["images"])


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_compressed_tar_with_damage_in_the_middle(tmp_path, mode, share):
    """Its checksum is at the end, after all members."""
    noise = Random(0)
    files = [(f"images/{n}", noise.randbytes(50_000)) for n in range(2)]
    made = tarred(tmp_path / "a.part", *files, mode=mode)
    content = bytearray(made.read_bytes())
    start = int(share * len(content))
    content[start : start + 100] = bytes(100)
    made.write_bytes(content)
    with pytest.raises(MGMError, match="damaged archive"):
        unpack_archive(made, "a.tar", tmp_path / "to", ["images"])
    assert not (tmp_path / "to" / "images").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_truncated_tar(tmp_path, mode):
    """At any byte, also between two members, which `tarfile` takes for the end."""
    files = [(f"images/{n}", b"x" * 1000) for n in range(4)]
    full = tarred(tmp_path / "full", *files, mode="w").read_bytes()
    made = tmp_path / "a.part"
    for cut in range(0, 4 * 1536 + 1, 256):
        made.write_bytes(full[:cut] if mode == "w" else gzip.compress(full[:cut]))
        with pytest.raises(MGMError, match="damaged archive"):
            unpack_archive(made, "a.tar", tmp_path / "to", ["images"])
    made.write_bytes(full[:1536] + b"no header" * 100 + full[2436:])
    with pytest.raises(MGMError, match="damaged archive"):
        unpack_archive(made, "a.tar", tmp_path / "to", ["images"])
    assert not (tmp_path / "to" / "images").exists()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


GOOD = ("images/1.jpg", b"one")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([GOOD, ("../evil", b"x")], "would write '../evil', outside its folder"),
        ([GOOD, ("images/../../evil", b"x")], "outside its folder"),
        ([GOOD, ("/etc/evil", b"x")], "would write '/etc/evil', outside its folder"),
        ([GOOD, ("C:\\evil", b"x")], "not a portable file name"),
        ([GOOD, ("images\\..\\evil", b"x")], "not a portable file name"),
        ([GOOD, (link("images/2.jpg"), b"/etc/passwd")], "contains a link or device"),
        ([GOOD, ("images/./1.jpg", b"two")], r"contains images/1\.jpg twice"),
        ([GOOD, ("images", b"a file")], r"contains images/1\.jpg below a file"),
        ([("other/1.jpg", b"one")], "contains no images; put it to .*images by hand"),
        (
            [("a/images/1.jpg", b"one"), ("b/images/1.jpg", b"one")],
            r"contains several images \(a/images, b/images\); put it to .* by hand",
        ),
        ([GOOD, (f"images/{'a' * 256}", b"x")], "contains a path that is too long"),
        ([GOOD, ("a/" * 3000 + "b", b"x")], "contains a path that is too long"),
        ([], "contains no images"),
    ],
)
def test_unusual_archives_are_one_line(tmp_path, files, says):
    made = zipped(tmp_path / "a.part", *files)
    to = tmp_path / "to"
    with pytest.raises(MGMError, match=rf"a\.part: .*{says}"):
        unpack_archive(made, "a.zip", to, ["images"])
    assert list(to.iterdir()) == []
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_unusual_tars(tmp_path, kind):
    made = tarred(tmp_path / "a.part", ("images/1.jpg", b""), kind=kind)
    with pytest.raises(MGMError, match=r"contains a link or device, images/1\.jpg"):
        unpack_archive(made, "a.tar", tmp_path / "to", ["images"])
    for name in ("../evil", "/evil"):
        made = tarred(tmp_path / "a.part", GOOD, (name, b"x"))
        with pytest.raises(MGMError, match="outside its folder"):
            unpack_archive(made, "a.tar", tmp_path / "to", ["images"])
    made = tarred(tmp_path / "a.part", GOOD, GOOD)
    with pytest.raises(MGMError, match=r"contains images/1\.jpg twice"):
        unpack_archive(made, "a.tar", tmp_path / "to", ["images"])


def test_encrypted(tmp_path):
    made = zipped(tmp_path / "a.part", GOOD)
    content = bytearray(made.read_bytes())
    for head, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(head) + flags] |= 1
    made.write_bytes(content)
    with pytest.raises(MGMError, match=r"a\.part: encrypted; unpack it by hand"):
        unpack_archive(made, "a.zip", tmp_path / "to", ["images"])


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_archive_bombs(tmp_path, monkeypatch, form):
    """Limited by the size of the archive, and by free disk space."""
    monkeypatch.setattr(archive, "MIN_BOUND", 2**16)
    make = zipped if form == "zip" else lambda path, *files: tarred(path, *files, mode="w:gz")
    made = make(tmp_path / "a.part", ("images/1.jpg", b"\0" * 2**22))
    with pytest.raises(MGMError, match="unpack it by hand if you trust it"):
        unpack_archive(made, f"a.{form}", tmp_path / "to", ["images"])
    monkeypatch.setattr(archive, "MIN_BOUND", 2**30)
    with full_after(2**20), pytest.raises(MGMError, match="to: could not be written"):
        unpack_archive(made, f"a.{form}", tmp_path / "to", ["images"])
    assert list((tmp_path / "to").iterdir()) == []
    usage = archive.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(MGMError, match="not enough disk space to unpack it"):
        unpack_archive(made, f"a.{form}", tmp_path / "to", ["images"])


def test_zip_in_a_tar(tmp_path):
    inner = zipped(tmp_path / "inner.zip", ("a.txt", b"a")).read_bytes()
    made = tarred(tmp_path / "a.part", ("images/1.jpg", b"one"), ("images/more.zip", inner))
    unpack_archive(made, "a.tar", tmp_path / "to", ["images"])
    assert (tmp_path / "to" / "images" / "1.jpg").read_bytes() == b"one"
    assert (tmp_path / "to" / "images" / "more.zip").read_bytes() == inner


def test_type_is_detected_by_content(tmp_path):
    made = tarred(tmp_path / "a.part", ("images/1.jpg", b"one"), mode="w:gz")
    unpack_archive(made, "a.zip", tmp_path / "to", ["images"])
    assert (tmp_path / "to" / "images" / "1.jpg").read_bytes() == b"one"
    made = zipped(tmp_path / "b.part", ("images/1.jpg", b"one"))
    unpack_archive(made, "b.tar", tmp_path / "too", ["images"])
    assert (tmp_path / "too" / "images" / "1.jpg").read_bytes() == b"one"
    for content in (made.read_bytes()[:-10], b"<html>", b""):
        made.write_bytes(content)
        with pytest.raises(MGMError, match=r"damaged archive \(File is not a zip file\)"):
            unpack_archive(made, "b.zip", tmp_path / "to", ["images"])


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tar.xz"])
def test_damaged_archives(tmp_path, form):
    """Truncated or changed at any byte: a one-line error, or equal content."""
    body = bytes(range(256)) * 40
    path = tmp_path / "a.part"
    if form == "zip":
        zipped(path, ("images/1.jpg", body))
    else:
        tarred(path, ("images/1.jpg", body), mode=f"w:{form.partition('.')[2]}")
    whole = path.read_bytes()
    to = tmp_path / "to"
    for step in range(12):
        offset = len(whole) * step // 12
        for content in (whole[:offset], whole[:offset] + b"\xff\x00\xff" + whole[offset + 3 :]):
            path.write_bytes(content)
            with suppress(MGMError):  # and nothing else
                unpack_archive(path, f"a.{form}", to, ["images"])
            for file in to.iterdir():
                assert file.name == "images"
                assert (file / "1.jpg").stat().st_size == len(body)
                shutil.rmtree(file)


def test_types_to_extract_by_hand(tmp_path):
    (tmp_path / "a.part").write_bytes(b"Rar!\x1a\x07")
    with pytest.raises(MGMError, match="have to be unpacked by hand"):
        unpack_archive(tmp_path / "a.part", "a.rar", tmp_path, ["images"])
    with pytest.raises(MGMError, match="damaged archive"):
        unpack_archive(tmp_path / "a.part", "a.zip", tmp_path, ["images"])


def test_partial_extraction_is_repeated(tmp_path):
    made = zipped(tmp_path / "a.part", ("images/1.jpg", b"one"), ("list.json", b"{}"))
    left = tmp_path / "to" / ".a.zip.unpacking" / "images"
    left.mkdir(parents=True)
    (left / "1.jpg").write_bytes(b"o")
    (tmp_path / "to" / "list.json").write_bytes(b"before")  # already renamed
    unpack_archive(made, "a.zip", tmp_path / "to", ["images", "list.json"])
    assert (tmp_path / "to" / "images" / "1.jpg").read_bytes() == b"one"
    assert (tmp_path / "to" / "list.json").read_bytes() == b"before"
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["images", "list.json"]
