import pytest

from playground.demo_images import EXAMPLES, draw_example


@pytest.mark.parametrize("name", ["sign", "pair"])
def test_example_images_are_reproducible(name):
    first, second = draw_example(name), draw_example(name)
    assert [image.tobytes() for image in first] == [image.tobytes() for image in second]
    assert all(512 <= max(image.size) <= 768 for image in first)
    assert len(first) == (2 if EXAMPLES[name][0] == "comparison" else 1)
