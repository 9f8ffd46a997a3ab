"""Panel of the page with an answer's attribution: heat map, and the window of one visual token."""

from typing import Any

import gradio as gr
from PIL import Image

from mgm.engine.attribution.mining_attribution import MiningAttribution
from mgm.errors import MGMError
from mgm.serve.web.attribution_plots import (
    describe_token,
    draw_overview,
    draw_window,
    grid_side,
    has_global,
    heat_map,
    token_at,
    token_position,
)
from mgm.serve.web.client import PageClient
from mgm.serve.web.state import ChatState

CROPS, GLOBAL = "Crops", "Whole image"
PANEL_HELP = (
    "Bright pixels contributed to the last answer: its attention to each visual token, times the "
    "attention of that token to the pixels of its window. Click on the image, or move the sliders, "
    "to see the window of one token."
)
Details = list[MiningAttribution]


class AttributionPanel:
    """Shows which pixels the last answer is attributed to.

    Args:
        client: client of the controller.
    """

    def __init__(self, client: PageClient) -> None:
        self.client = client

    def build(self, state: gr.State) -> None:
        """Add the panel to the page that is being built."""
        with gr.Accordion("See what was mined", open=False, elem_id="mined"):
            gr.Markdown(PANEL_HELP)
            details = gr.State([], time_to_live=3600)
            with gr.Row(equal_height=True):
                show = gr.Button("Show the last answer", elem_id="mined_show", size="sm")
                number = gr.Dropdown([1], value=1, label="Image", visible=False)
                level = gr.Radio([CROPS, GLOBAL], value=CROPS, label="Tokens of", visible=False)
            with gr.Row():
                overview = _image("What the answer drew on", "overview")
                window = _image("What the token drew on", "window")
            description = gr.Markdown(elem_id="mined_description")
            with gr.Row():
                row, column = (
                    gr.Slider(0, 1, 0, step=1, label=label, elem_id=f"mined_{label.lower()}")
                    for label in ("Row", "Column")
                )
        selection = [details, number, level, row, column]
        plots = [overview, window, description]
        show.click(self.fetch, state, selection).then(draw_plots, selection, plots)
        for choice in (number, level):
            choice.input(select_brightest, selection[:3], [row, column]).then(
                draw_plots, selection, plots
            )
        for slider in (row, column):
            slider.input(draw_plots, selection, plots, show_progress="hidden")
        overview.select(select_clicked, selection[:3], [row, column], show_progress="hidden").then(
            draw_plots, selection, plots, show_progress="hidden"
        )

    async def fetch(self, state: ChatState) -> tuple[Any, ...]:
        """Request the attribution; selects the last image and its brightest token."""
        history = state.histories[0]
        turn = history.last_with_images
        if turn is None:
            gr.Warning("Ask about an image first.")
            return (gr.skip(),) * 5
        try:
            details = await self.client.attribution(history.until(turn), turn.model)
        except MGMError as error:
            gr.Warning(str(error))
            return (gr.skip(),) * 5
        numbers = list(range(1, len(details) + 1))
        number = gr.update(choices=numbers, value=numbers[-1], visible=len(numbers) > 1)
        level = gr.update(value=CROPS, visible=has_global(details[0]))
        return details, number, level, *select_brightest(details, numbers[-1], CROPS)


def select_brightest(details: Details, number: int, level: str) -> tuple[Any, Any]:
    """Row and column of the token with the brightest pixel."""
    if not details:
        return gr.skip(), gr.skip()
    detail, of_global = details[number - 1], level == GLOBAL
    count = grid_side(detail, of_global)
    values = heat_map(detail)
    top, left = divmod(int(values.argmax()), values.shape[1])
    row, column = token_position(detail, left, top, of_global)
    last = count - 1
    return gr.update(maximum=last, value=row), gr.update(maximum=last, value=column)


def select_clicked(
    data: gr.SelectData, details: Details, number: int, level: str
) -> tuple[Any, Any]:
    """Row and column of the token at the pixel that was clicked."""
    if not details:
        return gr.skip(), gr.skip()
    return token_position(details[number - 1], *data.index, level == GLOBAL)


def draw_plots(
    details: Details, number: int, level: str, row: int, column: int
) -> tuple[Image.Image | None, Image.Image | None, str]:
    """Heat map with the box of a token, the token's window, and its description."""
    if not details:
        return None, None, ""
    detail = details[number - 1]
    token = token_at(detail, int(row), int(column), level == GLOBAL)
    return draw_overview(detail, token), draw_window(detail, token), describe_token(detail, token)


def _image(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label,
        interactive=False,
        format="png",
        height=420,
        elem_id=f"mined_{name}",
        buttons=["fullscreen"],
    )
