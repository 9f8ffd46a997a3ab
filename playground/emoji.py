"""Emoji that are easy to tell apart, with their names and bitmaps."""

from functools import lru_cache

from PIL import Image, ImageDraw

from playground.canvas import Canvas
from playground.fonts import emoji_font

EMOJI = {
    "cat": "🐱",
    "dog": "🐶",
    "pig": "🐷",
    "frog": "🐸",
    "lion": "🦁",
    "panda": "🐼",
    "monkey": "🐵",
    "rabbit": "🐰",
    "fox": "🦊",
    "cow": "🐮",
    "elephant": "🐘",
    "fish": "🐟",
    "octopus": "🐙",
    "turtle": "🐢",
    "penguin": "🐧",
    "owl": "🦉",
    "butterfly": "🦋",
    "bee": "🐝",
    "snail": "🐌",
    "crab": "🦀",
    "apple": "🍎",
    "banana": "🍌",
    "strawberry": "🍓",
    "pineapple": "🍍",
    "watermelon": "🍉",
    "carrot": "🥕",
    "pizza": "🍕",
    "burger": "🍔",
    "cake": "🎂",
    "donut": "🍩",
    "cookie": "🍪",
    "cheese": "🧀",
    "tree": "🌳",
    "cactus": "🌵",
    "sunflower": "🌻",
    "mushroom": "🍄",
    "sun": "🌞",
    "moon": "🌙",
    "rainbow": "🌈",
    "snowman": "⛄",
    "umbrella": "☔",
    "fire": "🔥",
    "car": "🚗",
    "bus": "🚌",
    "bicycle": "🚲",
    "airplane": "✈",
    "rocket": "🚀",
    "sailboat": "⛵",
    "house": "🏠",
    "clock": "⏰",
    "guitar": "🎸",
    "drum": "🥁",
    "balloon": "🎈",
    "gift": "🎁",
    "key": "🔑",
    "book": "📖",
    "crown": "👑",
    "ball": "⚽",
    "robot": "🤖",
    "ghost": "👻",
}


def plural(name: str) -> str:
    """Plural of the name of an emoji or a shape."""
    irregular = {
        "fish": "fish",
        "butterfly": "butterflies",
        "snowman": "snowmen",
        "strawberry": "strawberries",
    }
    if name in irregular:
        return irregular[name]
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


def article(phrase: str) -> str:
    """Add the indefinite article to a phrase."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def draw_emoji(canvas: Canvas, name: str, x: float, y: float, size: float) -> None:
    """Draw an emoji centred on (x, y), its longer side `size` units, and record it."""
    # Sizes are rounded to 3 pixels, so that most bitmaps come from the cache.
    bitmap = _scaled(name, max(9, int(size * canvas.scale) // 3 * 3))
    width, height = bitmap.width / canvas.scale, bitmap.height / canvas.scale
    canvas.stamp(bitmap.getchannel("A"), bitmap.convert("RGB"), x - width / 2, y - height / 2)
    canvas.add_object(name, None, x - width / 2, y - height / 2, x + width / 2, y + height / 2)


@lru_cache(maxsize=2048)
def _scaled(name: str, side: int) -> Image.Image:
    full = _bitmap(name)
    ratio = side / max(full.size)
    return full.resize(
        (max(1, round(full.width * ratio)), max(1, round(full.height * ratio))),
        Image.Resampling.LANCZOS,
    )


@lru_cache
def _bitmap(name: str) -> Image.Image:
    image = Image.new("RGBA", (180, 180))
    ImageDraw.Draw(image).text((20, 20), EMOJI[name], font=emoji_font(), embedded_color=True)
    return image.crop(image.getbbox())
