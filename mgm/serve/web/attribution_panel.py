"""The part of the page that shows what was mined: click a place, and see who looked where."""

from typing import Any

import gradio as gr
from PIL import Image

from mgm.engine.attribution.mining_attribution import MiningAttribution
from mgm.errors import MGMError
from mgm.serve.web.attribution_plots import (
    description,
    grid_side,
    has_global,
    heat,
    overview,
    place_of,
    token_at,
    window,
)
from mgm.serve.web.client import PageClient
from mgm.serve.web.handlers import ChatState

CROPS, GLOBAL = "Crops", "Whole image"
HELP = (
    "Bright is what the last answer drew on: the attention that it gave to each visual token, and "
    "that each token gave to the pixels of its window. Click a place, or move the sliders, to see "
    "the window of one token."
)
Details = list[MiningAttribution]


class AttributionPanel:
    """Shows what was mined of the images of the last answer.

    Args:
        client: asks the model's server.
    """

    def __init__(self, client: PageClient) -> None:
        self.client = client

    def build(self, talk: gr.State) -> None:
        """Put it on the page that is being built."""
        with gr.Accordion("See what was mined", open=False, elem_id="mined"):
            gr.Markdown(HELP)
            details = gr.State([], time_to_live=3600)
            with gr.Row(equal_height=True):
                show = gr.Button("Show the last answer", elem_id="mined_show", size="sm")
                number = gr.Dropdown([1], value=1, label="Image", visible=False)
                level = gr.Radio([CROPS, GLOBAL], value=CROPS, label="Tokens of", visible=False)
            with gr.Row():
                whole = _picture("What the answer drew on", "overview")
                piece = _picture("What the token drew on", "window")
            told = gr.Markdown(elem_id="mined_told")
            with gr.Row():
                row, column = (
                    gr.Slider(0, 1, 0, step=1, label=label, elem_id=f"mined_{label.lower()}")
                    for label in ("Row", "Column")
                )
        place = [details, number, level, row, column]
        shown = [whole, piece, told]
        show.click(self.look, talk, [details, number, level, row, column]).then(draw, place, shown)
        for choice in (number, level):
            choice.input(brightest, [details, number, level], [row, column]).then(
                draw, place, shown
            )
        for slider in (row, column):
            slider.input(draw, place, shown, show_progress="hidden")
        whole.select(pointed, [details, number, level], [row, column], show_progress="hidden").then(
            draw, place, shown, show_progress="hidden"
        )

    async def look(self, talk: ChatState) -> tuple[Any, ...]:
        """Ask the server; details, choices, and the place of the token that gave most."""
        conversation = talk.sides[0]
        exchange = conversation.with_images
        if exchange is None:
            gr.Warning("Ask about an image first.")
            return (gr.skip(),) * 5
        try:
            found = await self.client.mined(conversation.until(exchange), exchange.model)
        except MGMError as error:
            gr.Warning(str(error))
            return (gr.skip(),) * 5
        numbers = list(range(1, len(found) + 1))
        number = gr.update(choices=numbers, value=numbers[-1], visible=len(numbers) > 1)
        level = gr.update(value=CROPS, visible=has_global(found[0]))
        return found, number, level, *brightest(found, numbers[-1], CROPS)


def brightest(details: Details, number: int, level: str) -> tuple[Any, Any]:
    """Row and column of the token whose pixels gave most."""
    if not details:
        return gr.skip(), gr.skip()
    detail, of_global = details[number - 1], level == GLOBAL
    count = grid_side(detail, of_global)
    values = heat(detail)
    top, left = divmod(int(values.argmax()), values.shape[1])
    row, column = place_of(detail, left, top, of_global)
    most = count - 1
    return gr.update(maximum=most, value=row), gr.update(maximum=most, value=column)


def pointed(data: gr.SelectData, details: Details, number: int, level: str) -> tuple[Any, Any]:
    """Row and column of the token at a place that was clicked."""
    if not details:
        return gr.skip(), gr.skip()
    return place_of(details[number - 1], *data.index, level == GLOBAL)


def draw(
    details: Details, number: int, level: str, row: int, column: int
) -> tuple[Image.Image | None, Image.Image | None, str]:
    """The view with a token's box, its window, and what there is to say of it."""
    if not details:
        return None, None, ""
    detail = details[number - 1]
    token = token_at(detail, int(row), int(column), level == GLOBAL)
    return overview(detail, token), window(detail, token), description(detail, token)


def _picture(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label,
        interactive=False,
        format="png",
        height=420,
        elem_id=f"mined_{name}",
        buttons=["fullscreen"],
    )
