import pytest

from mgm.errors import MGMError
from playground import faces, fonts


@pytest.mark.parametrize("face", faces.FACES, ids=lambda face: face.file.rpartition("/")[2])
def test_cap_height(face):
    sized = fonts.font_with_cap(face, 30)
    _, top, _, bottom = sized.ink("H")
    assert abs((bottom - top) - 30) <= 1


@pytest.mark.parametrize("face", faces.FACES[::5], ids=lambda face: face.file.rpartition("/")[2])
def test_width_of_a_line(face):
    sized = fonts.font_with_cap(face, 20)
    assert sized.width("Total $12.95 AVATAR") == pytest.approx(
        sized.font.getlength("Total $12.95 AVATAR"), abs=0.5
    )


def test_missing_font_names_the_packages():
    with pytest.raises(MGMError, match=r"apt-get install .*fonts-lato"):
        fonts.load_font(faces.Face("truetype/nothing/Nothing.ttf"), 40)
