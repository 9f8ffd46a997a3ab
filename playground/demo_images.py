"""Draw the example images of the README: python -m playground.demo_images --out images."""

from pathlib import Path
from random import Random

from PIL import Image
from tqdm import tqdm

from mgm.atomic import atomic_file
from mgm.errors import Parser, run_command
from playground.scenes import (
    SCENES,
    bar_chart,
    comparison,
    emoji,
    line_chart,
    receipt,
    shapes,
    sign,
    table,
)

SIDE = 640  # pixels
OVERSAMPLING = 2
Item = shapes.Item

# By file name: kind of scene, spec, width and height in units of SIDE, first seed to try.
EXAMPLES: dict[str, tuple[str, object, tuple[float, float], int]] = {
    "sign": (
        "sign",
        sign.Spec(
            "headline",
            False,
            ("Garden Hotel", "Fresh Coffee"),
            ("green",),
            "white",
            1,
            "Corner Hotel",
            False,
        ),
        (1.0, 0.8),
        8,
    ),
    "receipt": (
        "receipt",
        receipt.Spec(
            "Harbor Market",
            ("Coffee", "Croissant", "Honey", "Apple", "Cheese"),
            ("$3.40", "$2.75", "$6.90", "$0.85", "$4.60"),
            "$18.50",
            "Milk",
            "dotted",
        ),
        (0.8, 1.0),
        10,
    ),
    "table": (
        "table",
        table.Spec(
            "Animal",
            ("Weight", "Speed"),
            ("Lion", "Camel", "Ostrich", "Wolf"),
            ((190, 80), (480, 65), (115, 70), (45, 60)),
        ),
        (1.0, 0.75),
        8,
    ),
    "bar_chart": (
        "bar_chart",
        bar_chart.Spec(
            "Harvest",
            ("Apple", "Pear", "Plum", "Kiwi", "Fig"),
            (84, 52, 37, 61, 24),
            ("red", "green", "purple", "pink", "orange"),
            False,
            False,
        ),
        (1.0, 0.8),
        9,
    ),
    "line_chart": (
        "line_chart",
        line_chart.Spec(
            "Visitors",
            "month",
            ("Apr", "May", "Jun", "Jul", "Aug"),
            (184, 236, 198, 305, 281),
            "blue",
            "circle",
        ),
        (1.0, 0.75),
        9,
    ),
    "shapes": (
        "shapes",
        shapes.Spec(
            (2, 3),
            (
                Item("circle", "red", 0, 0),
                Item("star", "blue", 0, 1),
                Item("square", "green", 0, 2),
                Item("heart", "pink", 1, 0),
                Item("circle", "red", 1, 1),
                Item("triangle", "orange", 1, 2),
            ),
            "green triangle",
        ),
        (1.0, 0.75),
        10,
    ),
    "emoji": (
        "emoji",
        emoji.Spec("corners", ("cat", "rocket", "strawberry", "cat"), (0, 1, 2, 3), "dog"),
        (0.8, 0.68),
        6,
    ),
    "pair": (
        "comparison",
        comparison.Spec("numbers", ("27", "64"), ("blue", "yellow")),
        (0.8, 0.8),
        12,
    ),
}


def draw_example(name: str) -> list[Image.Image]:
    """Draw the images of one example, antialiased by oversampling."""
    kind, spec, (wide, high), seed = EXAMPLES[name]
    size = (round(SIDE * wide) * OVERSAMPLING, round(SIDE * high) * OVERSAMPLING)
    while True:
        drawn = SCENES[kind].draw(spec, Random(seed), "train", size)
        canvases = drawn if isinstance(drawn, list) else [drawn]
        if all(canvas.is_sound() for canvas in canvases):
            return [canvas.image.reduce(OVERSAMPLING) for canvas in canvases]
        seed += 1


def main() -> None:
    """Draw all examples."""
    parser = Parser(prog="python -m playground.demo_images", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("images"), help="folder to write to")
    out = parser.parse_args().out
    for name in tqdm(EXAMPLES, desc="drawing", unit="image"):
        images = draw_example(name)
        for image, letter in zip(images, ("_a", "_b") if len(images) > 1 else ("",), strict=True):
            with atomic_file(out / f"{name}{letter}.png") as path:
                image.save(path, optimize=True)


if __name__ == "__main__":
    run_command(main)
