"""The page: what is on it, and which action belongs to what."""

from pathlib import Path
from typing import Any

import gradio as gr

from mgm.serve.web.attribution_panel import AttributionPanel
from mgm.serve.web.handlers import ChatPane, ChatState, Handlers

TITLE = "Mini-Gemini"
HOUR = 3600  # seconds for which uploads and conversations of a page that was left are kept
KINDS = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"]
BUTTONS = {"clear": "Clear", "export": "Export", "link": "Link to this model"}
OUTCOMES = {
    "left": "← Left is better",
    "right": "Right is better →",
    "tie": "Both are good",
    "neither": "Both are bad",
}
EXAMPLES = (
    ("sign.png", "What does the top line say?"),
    ("receipt.png", "What is the total?"),
    ("receipt.png", "Which item costs $6.90?"),
    ("shapes.png", "How many red circles are there?"),
)
NOTICE = (
    "Answers may be wrong or offensive; what you say and show is sent to the server that runs the "
    "model. Votes are kept with the conversation they are about."
)
# Fonts of the reader's machine: a page behind a firewall waits for no others.
FONTS = ["system-ui", "sans-serif"]
MONO = ["ui-monospace", "monospace"]
CSS = """
#conversations { min-height: 45vh; }
#conversations button[title="Share"] { display: none; }
#mined_window img { image-rendering: pixelated; }
@media (max-width: 640px) { #conversations { flex-direction: column; } }
"""
# Where the address bar shows it, it can be copied even if the browser forbids that to pages.
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
        actions: what happens there.
        examples: folder of example images; None: there are none.
        embed: whether the page is part of another, and shows no title.
    """

    def __init__(
        self, actions: Handlers, examples: Path | None = None, embed: bool = False
    ) -> None:
        self.actions, self.examples, self.embed = actions, examples, embed

    def serve(self, host: str, port: int, concurrency: int, share: bool, upload: int) -> None:
        """Serve until the program is ended.

        Args:
            host: interface to listen at.
            port: of it.
            concurrency: answers that are shown at once.
            share: whether Gradio's servers give it a public address.
            upload: MiB of a file.

        Raises:
            OSError: the address is taken.
        """
        self.build(concurrency).launch(
            server_name=host, server_port=port, share=share, **launch_options(upload)
        )

    def build(self, concurrency: int) -> gr.Blocks:
        """The page, which is not served yet."""
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(HOUR, HOUR)) as blocks:
            if not self.embed:
                gr.Markdown(f"# {TITLE}\nAsk about images, and see where the model looked.")
            self._fill(blocks, concurrency)
            if not self.embed:
                gr.Markdown(NOTICE)
        return blocks.queue(default_concurrency_limit=concurrency, api_open=False)

    def _fill(self, blocks: gr.Blocks, concurrency: int) -> None:
        actions = self.actions
        talk = gr.State(ChatState(), time_to_live=HOUR)
        names = list(actions.models or ())
        with gr.Row():
            model = gr.Dropdown(names, label="Model", elem_id="model")
            other = gr.Dropdown(names, label="Other model", elem_id="other", visible=False)
        with gr.Row():
            compare = gr.Checkbox(label="Compare two models", elem_id="compare", min_width=200)
            reload = gr.Button("Reload models", elem_id="reload", size="sm", min_width=120)
        with gr.Row(elem_id="conversations"):
            chats = [_chat("left", True), _chat("right", False)]
        with gr.Row(visible=False, elem_id="outcome") as outcome:
            verdicts = {name: gr.Button(label, size="sm") for name, label in OUTCOMES.items()}
        box = gr.MultimodalTextbox(
            placeholder="Ask; drop, paste or upload images",
            show_label=False,
            sources=["upload"],
            file_types=KINDS,
            file_count="multiple",
            elem_id="box",
            autofocus=True,
        )
        if self.examples is not None:
            asked = [
                [{"text": question, "files": [str(self.examples / name)]}]
                for name, question in EXAMPLES
            ]
            gr.Examples(asked, box, elem_id="examples")
        settings = _settings()
        with gr.Row():
            clear, export, link = (
                gr.Button(label, elem_id=name, size="sm", min_width=100)
                for name, label in BUTTONS.items()
            )
        address = gr.Textbox(label="Link", visible=False, elem_id="address", buttons=["copy"])
        AttributionPanel(actions.client).build(talk)

        shown = [box, *chats, talk]
        inputs = [box, talk, compare, model, other, *settings]
        limit: dict[str, Any] = {"concurrency_limit": concurrency, "show_progress": "hidden"}
        # What is asked in the moment in which an answer ends is not lost.
        limit["trigger_mode"] = "multiple"
        box.submit(actions.ask, inputs, shown, **limit)
        for number, (chat, chosen) in enumerate(zip(chats, (model, other), strict=True)):
            side = ChatPane(actions, number)
            chat.retry(side.retry, [talk, chosen, *settings], shown, **limit)
            chat.edit(side.edit, [talk, chosen, *settings], shown, **limit)
            chat.undo(side.undo, talk, shown)
            chat.clear(actions.clear, talk, shown)
            chat.like(side.vote, talk, None)
        box.stop(actions.stop, talk, None)
        clear.click(actions.clear, talk, shown)
        for name, button in verdicts.items():
            button.click(_Verdict(actions, name).told, [talk, model, other], None)
        compare.change(
            lambda two: [gr.update(visible=two)] * 3, compare, [other, chats[1], outcome]
        )
        written = gr.Textbox(visible=False)
        export.click(lambda said: said.sides[0].exported(), talk, written).then(
            None, written, None, js=DOWNLOAD
        )
        link.click(lambda: gr.update(visible=True), None, address).then(
            None, [model, compare, other], address, js=LINK
        )
        blocks.load(actions.opened, None, [model, other, compare])
        reload.click(actions.reload, [model, other], [model, other])


class _Verdict:
    """A button that says which of two answers is better."""

    def __init__(self, actions: Handlers, outcome: str) -> None:
        self.actions, self.outcome = actions, outcome

    def told(self, request: gr.Request, talk: ChatState, model: str, other: str) -> None:
        self.actions.judge(self.outcome, request, talk, model, other)


def launch_options(upload: int = 20) -> dict[str, Any]:
    """How Gradio serves the page.

    Args:
        upload: MiB of a file.
    """
    return {
        "max_file_size": upload * 2**20,
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


def _chat(name: str, visible: bool) -> gr.Chatbot:
    return gr.Chatbot(
        elem_id=f"chat_{name}",
        show_label=False,
        visible=visible,
        height="55vh",
        editable="user",
        feedback_options=["Like", "Dislike", "Flag"],
        buttons=["copy", "copy_all"],
        placeholder="Nothing was asked yet.",
        group_consecutive_messages=False,
    )
