"""Download the photographs used in scenes: python -m playground.photos --out DIR.

They come from a Debian package and a Python package under free licences (listed in
playground/README.md) and are not part of this repository. Requires apt-get and dpkg-deb (Debian,
Ubuntu) and pip with their configured mirrors, but no root.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from mgm.atomic import atomic_folder
from mgm.errors import MGMError, Parser, run_command
from playground.photo_library import INDEX_FILE, Photo, listed_photos

STAMPS_PACKAGE = "tuxpaint-stamps-default"
STAMPS_FOLDER = Path("usr/share/tuxpaint/stamps")
SAMPLES_PACKAGE = "scikit-image==0.26.0"
SAMPLES = (  # photographs in skimage/data, used as backgrounds
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "rocket.jpg",
)
LARGEST_CUTOUT = 320  # maximum pixels per side
LARGEST_BACKGROUND = 720  # maximum pixels per side


def fetch(out: Path) -> None:
    """Download all photographs to the folder `out` and write their index, unless it exists.

    Raises:
        MGMError: a package cannot be downloaded, or lacks a file.
    """
    if (out / INDEX_FILE).is_file():
        return
    with atomic_folder(out) as part, tempfile.TemporaryDirectory() as temporary:
        stamps, samples = _fetch_stamps(Path(temporary)), _fetch_samples(Path(temporary))
        cutouts, backgrounds = [], []
        for kind, name, stem in tqdm(list(listed_photos()), desc="cut-outs", unit="photo"):
            photo = Photo(f"cutouts/{stem}.png", name, kind)
            _convert(stamps / f"{stem}.png", part / photo.file, LARGEST_CUTOUT, "RGBA")
            cutouts.append(photo)
        for name in tqdm(SAMPLES, desc="backgrounds", unit="photo"):
            photo = Photo(f"backgrounds/{Path(name).stem}.png")
            _convert(samples / name, part / photo.file, LARGEST_BACKGROUND, "RGB")
            backgrounds.append(photo)
        index = {
            "cutouts": [asdict(photo) for photo in cutouts],
            "backgrounds": [asdict(photo) for photo in backgrounds],
        }
        (part / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _fetch_stamps(temporary: Path) -> Path:
    """Find the folder of Tux Paint's stamps: installed, or downloaded and unpacked."""
    installed = Path("/") / STAMPS_FOLDER
    if installed.is_dir():
        return installed
    _run(["apt-get", "download", "-qq", STAMPS_PACKAGE], temporary, "apt-get update")
    (package,) = temporary.glob("*.deb")
    _run(["dpkg-deb", "--extract", package.name, "stamps"], temporary, "")
    return temporary / "stamps" / STAMPS_FOLDER


def _fetch_samples(temporary: Path) -> Path:
    """Download scikit-image's wheel and unpack its folder of sample images."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    _run([*pip, "--only-binary", ":all:", SAMPLES_PACKAGE], temporary, "")
    (wheel,) = temporary.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(
            temporary, [n for n in archive.namelist() if n.startswith("skimage/data/")]
        )
    return temporary / "skimage" / "data"


def _run(command: list[str], folder: Path, advice: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise MGMError(f"{command[0]}: not found; photographs need a Debian system") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
        tried = f"; run {advice} first" if advice else ""
        raise MGMError(f"{' '.join(command)}: {lines[-1]}{tried}") from error


def _convert(source: Path, target: Path, largest: int, mode: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Image.open(source) as opened:
            image = opened.convert(mode)
    except OSError as error:
        raise MGMError(f"{source}: cannot be read ({error})") from error
    if mode == "RGBA":
        image = image.crop(image.getchannel("A").getbbox())
    image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    image.save(target)


def main() -> None:
    """Download the photographs to the folder of the command line."""
    parser = Parser(prog="python -m playground.photos", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    out = parser.parse_args().out
    fetch(out)
    print(out)


if __name__ == "__main__":
    run_command(main)
