"""Receipts: a shop's name, items with prices, and the total."""

from dataclasses import dataclass
from random import Random

from playground.backgrounds import choose_surroundings
from playground.canvas import Canvas
from playground.colors import Color, dark, ink_on, pale
from playground.faces import Face
from playground.fonts import choose_face
from playground.image_sizes import choose_size
from playground.sample import Split
from playground.scenes.qa import QAPair, yes_no_question
from playground.style import SHIPPED, Style
from playground.words import choose_words, is_held_out

TRAIN_LAYOUTS = ("plain", "dotted", "ruled")
HELD_OUT_LAYOUTS = ("framed",)
PRICE_COLUMNS = 7  # characters between an item and the end of its price
LONGEST_CHEAP = 6  # characters; if names may not be longer, prices are at most 9.99
SHOPS = ("Shop", "Cafe", "Market", "Store", "Deli", "Bar")


@dataclass(frozen=True)
class Spec:
    """Content of a receipt; prices and total as printed, all different.

    Attributes:
        absent: an item that is not on the receipt.
    """

    shop: str
    items: tuple[str, ...]
    prices: tuple[str, ...]
    total: str
    absent: str
    layout: str


def choose_spec(rng: Random, split: Split, style: Style = SHIPPED) -> Spec:
    """Sample the spec of a receipt: shop, items, prices, layout."""
    caps = style.caps
    count = rng.randint(2, max(2, min(5, caps.lines - 2)))
    longest = caps.columns - PRICE_COLUMNS
    *items, absent = choose_words(rng, split, count + 1, "food", longest)
    sign = rng.choice(("", "", "$"))
    cents = _prices(rng, split, count, 2999 if longest > LONGEST_CHEAP else 999)
    theme = rng.choice(("names", "places"))
    (name,) = choose_words(rng, split, 1, theme, longest)
    shop = f"{name} {rng.choice(SHOPS)}"
    held_out = split == "held_out" and rng.random() < 0.3
    layout = rng.choice(HELD_OUT_LAYOUTS if held_out else TRAIN_LAYOUTS)
    prices = tuple(f"{sign}{price / 100:.2f}" for price in cents)
    return Spec(shop, tuple(items), prices, f"{sign}{sum(cents) / 100:.2f}", absent, layout)


def _prices(rng: Random, split: Split, count: int, highest: int) -> list[int]:
    """Sample prices; half of the held-out receipts have a held-out price or total."""
    wants_held_out = split == "held_out" and rng.random() < 0.5
    max_cents = 999 if rng.random() < 0.7 else highest
    while True:
        cents = rng.sample(range(40, max_cents), count)
        if rng.random() < 0.7:
            cents = [price - price % 5 for price in cents]
        printed = [f"{price / 100:.2f}" for price in (*cents, sum(cents))]
        if len(set(printed)) == count + 1 and any(map(is_held_out, printed)) == wants_held_out:
            return cents


def sentences(spec: Spec) -> list[str]:
    """Describe the spec in sentences, for the caption."""
    listed = ", ".join(f"{item} {price}" for item, price in _rows(spec))
    return [
        f"A receipt of {spec.shop}.",
        f"The items are {listed}.",
        f"The total is {spec.total}.",
    ]


def qa_pairs(spec: Spec, rng: Random) -> list[QAPair]:
    """List the questions about the receipt, with answers."""
    count = len(spec.items)
    result = [
        QAPair(
            "total",
            (
                "What is the total?",
                "How much is the total?",
                "What is the total price?",
                "What is the total amount?",
            ),
            spec.total,
            f"The total is {spec.total}.",
            ("total",),
        ),
        QAPair(
            "shop",
            ("What is the name of the shop?", "Which shop is the receipt from?"),
            spec.shop,
            f"The shop is {spec.shop}.",
            ("shop",),
        ),
        QAPair(
            "items",
            ("How many items are on the receipt?", "How many items were bought?"),
            str(count),
            f"There are {count} items on the receipt.",
        ),
    ]
    for index, (item, price) in enumerate(_rows(spec)):
        keys = (f"row {index}",)
        result.append(
            QAPair(
                "price",
                (
                    f"How much is the {item}?",
                    f"What is the price of {item}?",
                    f"How much does the {item} cost?",
                    f"What does the {item} cost?",
                ),
                price,
                f"The price of {item} is {price}.",
                keys,
            )
        )
        result.append(
            QAPair(
                "item",
                (f"Which item costs {price}?", f"What costs {price}?"),
                item,
                f"The item that costs {price} is {item}.",
                keys,
            )
        )
    claim = rng.choice((spec.absent, rng.choice(spec.items)))
    result.append(
        yes_no_question(
            "check",
            (f"Is {claim} on the receipt?",),
            claim in spec.items,
            f"Yes, {claim} is on the receipt.",
            f"No, {claim} is not on the receipt.",
            ("row 0",),
        )
    )
    return result


def _rows(spec: Spec) -> list[tuple[str, str]]:
    return list(zip(spec.items, spec.prices, strict=True))


def draw(
    spec: Spec,
    rng: Random,
    split: Split,
    size: tuple[int, int] | None = None,
    style: Style = SHIPPED,
) -> Canvas:
    """Render the receipt."""
    size = size or choose_size(rng, "tall", style.caps)
    around = dark(rng) if rng.random() < 0.5 else pale(rng)
    image = choose_surroundings(size, around, rng, split, 40, style.photos)
    canvas = Canvas(size, image, caps=style.caps)
    rows = len(spec.items) + 2
    cap = canvas.choose_cap(rng, 16, (canvas.height - 24) / (rows + 1) / 1.6)
    face = choose_face(rng, split, cap)
    longest = max((item + "   " + price for item, price in _rows(spec)), key=len)
    cap = canvas.fitting_cap(
        [longest, spec.shop, f"Total   {spec.total}"], face, cap, canvas.width - 36
    )
    natural = max(canvas.text_width(text, face, cap) for text in (longest, spec.shop))
    pitch = canvas.fitting_pitch(cap * rng.uniform(1.7, 2.2), (canvas.height - 16) / (rows + 0.6))
    width = min(canvas.width - 10, natural + rng.uniform(20, 70))
    height = min(canvas.height - 6, pitch * (rows + 0.6) + 8)
    left = rng.uniform(4, canvas.width - width - 4)
    top = rng.uniform(2, canvas.height - height - 2)
    paper = pale(rng)
    ink = ink_on(paper, rng, 6)
    canvas.box(
        left,
        top,
        left + width,
        top + height,
        fill=paper,
        outline=ink if spec.layout == "framed" else (150, 150, 150),
        line=1,
    )
    _draw_rows(
        canvas, spec, (left + 8, left + width - 8), top + 4 + pitch * 0.6, pitch, face, cap, ink
    )
    return canvas


def _draw_rows(
    canvas: Canvas,
    spec: Spec,
    sides: tuple[float, float],
    y: float,
    pitch: float,
    face: Face,
    cap: float,
    ink: Color,
) -> None:
    left, right = sides
    canvas.text(spec.shop, (left + right) / 2, y, face, cap, ink, "middle", "shop")
    y += pitch * 1.1
    for index, (item, price) in enumerate(_rows(spec)):
        canvas.text(item, left, y, face, cap, ink, "left", f"row {index}")
        canvas.text(price, right, y, face, cap, ink, "right")
        if spec.layout == "dotted":
            start = left + canvas.text_width(item + " ", face, cap)
            end = right - canvas.text_width(" " + price, face, cap)
            while start < end:
                canvas.line([(start, y + cap / 2), (start + 0.6, y + cap / 2)], ink, 0.8)
                start += 4
        y += pitch
    if spec.layout != "plain":
        canvas.line([(left, y - pitch * 0.45), (right, y - pitch * 0.45)], ink, 0.8)
    y += pitch * 0.1
    canvas.text("Total", left, y, face, cap, ink, "left", "total")
    canvas.text(spec.total, right, y, face, cap, ink, "right")
