"""Typefaces of scenes: font files, and the Debian packages that contain them.

Run as a program, it prints the packages to install, for `scripts/environment.sh`; its imports are
fast.
"""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/usr/share/fonts")
EMOJI_FILE = "truetype/noto/NotoColorEmoji.ttf"
PACKAGES = (
    "fonts-dejavu-core",
    "fonts-liberation",
    "fonts-freefont-ttf",
    "fonts-lato",
    "fonts-open-sans",
    "fonts-roboto-unhinted",
    "fonts-crosextra-carlito",
    "fonts-crosextra-caladea",
    "fonts-cantarell",
    "fonts-quicksand",
    "fonts-inconsolata",
    "fonts-linuxlibertine",
    "fonts-noto-color-emoji",
)


@dataclass(frozen=True)
class Face:
    """A font file below `FOLDER`.

    Attributes:
        plain: legible in small text (upright, not light, not condensed).
        tiny: legible even with capitals 6 image pixels high.
        held_out: never used in training images.
    """

    file: str
    plain: bool = True
    tiny: bool = False
    held_out: bool = False


FACES = (
    Face("truetype/dejavu/DejaVuSans.ttf", tiny=True),
    Face("truetype/dejavu/DejaVuSans-Bold.ttf"),
    Face("truetype/dejavu/DejaVuSansMono.ttf", tiny=True),
    Face("truetype/dejavu/DejaVuSansMono-Bold.ttf"),
    Face("truetype/dejavu/DejaVuSerif.ttf", tiny=True),
    Face("truetype/dejavu/DejaVuSerif-Bold.ttf", tiny=True, held_out=True),
    Face("truetype/liberation/LiberationSans-Regular.ttf", tiny=True),
    Face("truetype/liberation/LiberationSans-Bold.ttf"),
    Face("truetype/liberation/LiberationSans-Italic.ttf", plain=False),
    Face("truetype/liberation/LiberationSansNarrow-Bold.ttf", plain=False),
    Face("truetype/liberation/LiberationSerif-Regular.ttf"),
    Face("truetype/liberation/LiberationSerif-Bold.ttf"),
    Face("truetype/liberation/LiberationSerif-Italic.ttf", plain=False),
    Face("truetype/liberation/LiberationMono-Regular.ttf", tiny=True),
    Face("truetype/liberation/LiberationMono-Bold.ttf"),
    Face("truetype/freefont/FreeSans.ttf"),
    Face("truetype/freefont/FreeSansBold.ttf"),
    Face("truetype/freefont/FreeSerif.ttf", plain=False),
    Face("truetype/freefont/FreeSerifBold.ttf"),
    Face("truetype/freefont/FreeSerifBoldItalic.ttf", plain=False),
    Face("truetype/freefont/FreeMonoBold.ttf"),
    Face("truetype/lato/Lato-Regular.ttf"),
    Face("truetype/lato/Lato-Bold.ttf"),
    Face("truetype/lato/Lato-Black.ttf", plain=False),
    Face("truetype/lato/Lato-BoldItalic.ttf", plain=False, held_out=True),
    Face("truetype/open-sans/OpenSans-Regular.ttf", tiny=True),
    Face("truetype/open-sans/OpenSans-Semibold.ttf"),
    Face("truetype/open-sans/OpenSans-ExtraBold.ttf", plain=False),
    Face("truetype/open-sans/OpenSans-Italic.ttf", plain=False),
    Face("truetype/roboto/unhinted/RobotoTTF/Roboto-Regular.ttf"),
    Face("truetype/roboto/unhinted/RobotoTTF/Roboto-Medium.ttf"),
    Face("truetype/roboto/unhinted/RobotoTTF/Roboto-Black.ttf", plain=False),
    Face("truetype/roboto/unhinted/RobotoCondensed-Bold.ttf", plain=False),
    Face("truetype/crosextra/Carlito-Regular.ttf", tiny=True),
    Face("truetype/crosextra/Carlito-Bold.ttf"),
    Face("truetype/crosextra/Caladea-Regular.ttf"),
    Face("truetype/crosextra/Caladea-Bold.ttf"),
    Face("truetype/crosextra/Caladea-Italic.ttf", plain=False),
    Face("opentype/cantarell/Cantarell-Regular.otf", tiny=True, held_out=True),
    Face("opentype/cantarell/Cantarell-ExtraBold.otf", plain=False),
    Face("truetype/quicksand/Quicksand-Bold.ttf"),
    Face("truetype/quicksand/Quicksand-Medium.ttf", plain=False),
    Face("truetype/inconsolata/Inconsolata.otf"),
    Face("opentype/linux-libertine/LinBiolinum_RB.otf"),
    Face("opentype/linux-libertine/LinLibertine_RB.otf", held_out=True),
    Face("opentype/linux-libertine/LinLibertine_R.otf"),
    Face("opentype/linux-libertine/LinLibertine_DR.otf", plain=False),
)


def missing_packages() -> list[str]:
    """Debian packages to install if a font file is missing, else an empty list."""
    files = [*(face.file for face in FACES), EMOJI_FILE]
    return list(PACKAGES) if any(not (FOLDER / file).is_file() for file in files) else []


if __name__ == "__main__":
    print(" ".join(missing_packages()))
