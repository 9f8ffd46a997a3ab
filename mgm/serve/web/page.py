"""Layout of the Gradio page: components, and the handlers of their events."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from mgm.serve.web.attribution_panel import AttributionPanel
from mgm.serve.web.handlers import ChatPane, Handlers
from mgm.serve.web.state import ChatState

TITLE = "Mini-Gemini"
HOUR = 3600  # seconds that uploads and conversations are kept after the page is closed
IMAGE_SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"]
BUTTONS = {"clear": "Clear", "export": "Export", "link": "Link to this model"}
OUTCOMES = {
    "left": "← Left is better",
    "right": "Right is better →",
    "tie": "Both are good",
    "neither": "Both are bad",
}
EXAMPLE_QUESTIONS = (
    ("sign.png", "What does the top line say?"),
    ("receipt.png", "What is the total?"),
    ("receipt.png", "Which item costs $6.90?"),
    ("shapes.png", "How many red circles are there?"),
)
NOTICE = (
    "Answers may be wrong or offensive. Questions and images are sent to the server that runs the "
    "model; votes are stored with their conversation."
)
# System fonts, since web fonts do not load behind a firewall.
FONTS = ["system-ui", "sans-serif"]
MONO = ["ui-monospace", "monospace"]
CSS = """
#conversations { min-height: 45vh; }
#conversations button[title="Share"] { display: none; }
#mined_window img { image-rendering: pixelated; }
@media (max-width: 640px) { #conversations { flex-direction: column; } }
"""
# Also in the address bar, for browsers that do not let pages write to the clipboard.
LINK = """(model, compare, other) => {
    const link = new URL(window.location.href);
    link.search = "";
    link.searchParams.set("model", model);
    if (compare) link.searchParams.set("compare", other);
    window.history.replaceState(null, "", link);
    navigator.clipboard?.writeText(link.href).catch(() => {});
    return link.href;
}"""
DOWNLOAD = """(text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
    link.download = "conversation.json";
    link.click();
    URL.revokeObjectURL(link.href);
}"""


class Page:
    """A page to chat with one model, or with two side by side.

    Args:
        handlers: event handlers of the page.
        examples: folder of example images; None: no examples.
        embed: whether the page is embedded in another one, without title and examples.
    """

    def __init__(
        self, handlers: Handlers, examples: Path | None = None, embed: bool = False
    ) -> None:
        self.handlers, self.examples, self.embed = handlers, examples, embed

    def serve(self, host: str, port: int, concurrency: int, share: bool, max_upload: int) -> None:
        """Serve until the program is stopped.

        Args:
            host: interface to listen on.
            port: port to listen on.
            concurrency: maximum answers that are streamed at the same time.
            share: whether the page gets a public URL from Gradio's servers.
            max_upload: MiB per file.

        Raises:
            OSError: the address is in use.
        """
        self.build(concurrency).launch(
            server_name=host, server_port=port, share=share, **launch_options(max_upload)
        )

    def build(self, concurrency: int) -> gr.Blocks:
        """Build the page as Gradio blocks, without serving it."""
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(HOUR, HOUR)) as blocks:
            if not self.embed:
                gr.Markdown(f"# {TITLE}\nAsk about images, and see where the model looked.")
            components = self._add_components()
            AttributionPanel(self.handlers.client).build(components.state)
            self._bind_chats(components, concurrency)
            self._bind_buttons(components)
            blocks.load(
                self.handlers.load_page,
                None,
                [components.model, components.other_model, components.compare],
            )
            if not self.embed:
                gr.Markdown(NOTICE)
        return blocks.queue(default_concurrency_limit=concurrency, api_open=False)

    def _add_components(self) -> "_Components":
        """Put the components on the page, from top to bottom."""
        state = gr.State(ChatState(), time_to_live=HOUR)
        names = list(self.handlers.models or ())
        with gr.Row():
            model = gr.Dropdown(names, label="Model", elem_id="model")
            other_model = gr.Dropdown(names, label="Other model", elem_id="other", visible=False)
        with gr.Row():
            compare = gr.Checkbox(label="Compare two models", elem_id="compare", min_width=200)
            reload = gr.Button("Reload models", elem_id="reload", size="sm", min_width=120)
        with gr.Row(elem_id="conversations"):
            chats = (_chatbot("left", True), _chatbot("right", False))
        with gr.Row(visible=False, elem_id="outcome") as outcome_row:
            outcomes = {name: gr.Button(label, size="sm") for name, label in OUTCOMES.items()}
        box = gr.MultimodalTextbox(
            placeholder="Ask; drop, paste or upload images",
            show_label=False,
            sources=["upload"],
            file_types=IMAGE_SUFFIXES,
            file_count="multiple",
            elem_id="box",
            autofocus=True,
        )
        if self.examples is not None:
            examples = [
                [{"text": question, "files": [str(self.examples / name)]}]
                for name, question in EXAMPLE_QUESTIONS
            ]
            gr.Examples(examples, box, elem_id="examples")
        settings = _settings()
        with gr.Row():
            buttons = {
                name: gr.Button(label, elem_id=name, size="sm", min_width=100)
                for name, label in BUTTONS.items()
            }
        link = gr.Textbox(label="Link", visible=False, elem_id="address", buttons=["copy"])
        return _Components(
            state, model, other_model, compare, reload, chats, outcome_row, outcomes, box,
            settings, buttons, link,
        )  # fmt: skip

    def _bind_chats(self, page: "_Components", concurrency: int) -> None:
        """Bind the events of the input box and of both chats."""
        handlers = self.handlers
        outputs = [page.box, *page.chats, page.state]
        models = (page.model, page.other_model)
        inputs = [page.box, page.state, page.compare, *models, *page.settings]
        streaming: dict[str, Any] = {"concurrency_limit": concurrency, "show_progress": "hidden"}
        # A question sent just as an answer ends is not dropped.
        streaming["trigger_mode"] = "multiple"
        page.box.submit(handlers.submit, inputs, outputs, **streaming)
        page.box.stop(handlers.stop, page.state, None)
        for index, (chat, model) in enumerate(zip(page.chats, models, strict=True)):
            pane = ChatPane(handlers, index)
            chat.retry(pane.retry, [page.state, model, *page.settings], outputs, **streaming)
            chat.edit(pane.edit, [page.state, model, *page.settings], outputs, **streaming)
            chat.undo(pane.undo, page.state, outputs)
            chat.clear(handlers.clear, page.state, outputs)
            chat.like(pane.vote, page.state, None)
        page.buttons["clear"].click(handlers.clear, page.state, outputs)

    def _bind_buttons(self, page: "_Components") -> None:
        """Bind the events of comparison, export, link and model list."""
        handlers, models = self.handlers, [page.model, page.other_model]
        for name, button in page.outcomes.items():
            button.click(_OutcomeButton(handlers, name).click, [page.state, *models], None)
        page.compare.change(
            lambda compare: [gr.update(visible=compare)] * 3,
            page.compare,
            [page.other_model, page.chats[1], page.outcome_row],
        )
        exported = gr.Textbox(visible=False)
        page.buttons["export"].click(
            lambda state: state.histories[0].to_json(), page.state, exported
        ).then(None, exported, None, js=DOWNLOAD)
        page.buttons["link"].click(lambda: gr.update(visible=True), None, page.link).then(
            None, [page.model, page.compare, page.other_model], page.link, js=LINK
        )
        page.reload.click(handlers.reload_models, models, models)


@dataclass
class _Components:
    """Components of the page that have events or values."""

    state: gr.State
    model: gr.Dropdown
    other_model: gr.Dropdown
    compare: gr.Checkbox
    reload: gr.Button
    chats: tuple[gr.Chatbot, gr.Chatbot]
    outcome_row: gr.Row
    outcomes: dict[str, gr.Button]
    box: gr.MultimodalTextbox
    settings: list[gr.components.Component]
    buttons: dict[str, gr.Button]
    link: gr.Textbox


class _OutcomeButton:
    """A button that says which of two answers is better."""

    def __init__(self, handlers: Handlers, outcome: str) -> None:
        self.handlers, self.outcome = handlers, outcome

    def click(self, request: gr.Request, state: ChatState, model: str, other: str) -> None:
        """Log the outcome of a comparison."""
        self.handlers.vote_comparison(self.outcome, request, state, model, other)


def launch_options(max_upload: int = 20) -> dict[str, Any]:
    """Options of `gradio.Blocks.launch`.

    Args:
        max_upload: MiB per file.
    """
    return {
        "max_file_size": max_upload * 2**20,
        "theme": gr.themes.Default(font=FONTS, font_mono=MONO),
        "css": CSS,
        "footer_links": [],
        "ssr_mode": False,
        "show_error": True,
    }


def _settings() -> list[gr.components.Component]:
    """Sliders and boxes in the order of `GenerationSettings`; ranges as on the published page."""
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        with gr.Row():
            gen = gr.Checkbox(label="Generate image", elem_id="gen_image")
            ocr = gr.Checkbox(label="Use OCR", elem_id="use_ocr")
        with gr.Row():
            sliders = [
                gr.Slider(0, 1, 0.2, step=0.1, label="Temperature", elem_id="temperature"),
                gr.Slider(0, 1, 0.7, step=0.1, label="Top P", elem_id="top_p"),
                gr.Slider(1, 1024, 512, step=1, label="Max output tokens", elem_id="tokens"),
            ]
    return [*sliders, gen, ocr]


def _chatbot(name: str, visible: bool) -> gr.Chatbot:
    return gr.Chatbot(
        elem_id=f"chat_{name}",
        show_label=False,
        visible=visible,
        height="55vh",
        editable="user",
        feedback_options=["Like", "Dislike", "Flag"],
        buttons=["copy", "copy_all"],
        placeholder="No messages yet.",
        group_consecutive_messages=False,
    )
