"""A chat session in the terminal: conversation, images, slash commands, OCR, image generation."""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mgm.atomic import atomic_file
from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.core.request import Request
from mgm.errors import MGMError
from mgm.serve.terminal.chat import Chat
from mgm.serve.tools.image_generation import GEN_SUFFIX, ImageGenerator, image_prompt, save_image
from mgm.serve.tools.ocr import OCREngine, ocr_prompt

if TYPE_CHECKING:
    from mgm.engine.engine import Engine

CHAT_COMMANDS = """\
/image FILES   start a new conversation about other images
/reset         start a new conversation about the same images
/save FILE     save the conversation in the format of training data
/help          show this list"""


@dataclass
class Session:
    """A conversation, and the slash commands that reset or save it.

    Attributes:
        engine: generates the answers.
        settings: a request with the sampling settings.
        report: shows a message to the user.
        open_images: opens the images of `/image`.
        images: images of the conversation.
        image_names: their paths and URLs, separated by commas, for `/save`.
        ocr: recognises the texts in the images for the prompt; None: off.
        generator: generates the images that answers ask for; None: off.
        output: file of generated images.
        seed: seed of generated images.
    """

    engine: "Engine"
    settings: Request
    report: Callable[[str], None]
    open_images: Callable[[str], list[Image.Image]]
    images: list[Image.Image] = field(default_factory=list)
    image_names: str | None = None
    ocr: OCREngine | None = None
    generator: ImageGenerator | None = None
    output: Path = Path("generate.png")
    seed: int | None = None

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new conversation."""
        suffix = self._recognize_text()
        if self.generator is not None:
            suffix += GEN_SUFFIX
        self.chat = Chat(self.engine, self.images, self.settings, self.report, suffix)

    def ask(self, question: str) -> Generator[str, None, None]:
        """Stream the answer; then generate the image that it asks for, if it does.

        Raises:
            MGMError: the question is invalid, or generation fails, also while streaming.
        """
        texts = self.chat.ask(question)
        return texts if self.generator is None else self._with_image(texts, self.generator)

    def command(self, line: str) -> str | None:
        """Execute a slash command; returns its output, or None if the line is a question.

        Raises:
            MGMError: the command does not exist, or fails.
        """
        if not line.startswith("/"):
            return None
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        if name == "/help":
            return CHAT_COMMANDS
        if name == "/reset":
            self.reset()
            return "new conversation"
        if name == "/image":
            images = self.open_images(argument)
            self.images, self.image_names = images, argument
            self.reset()
            return f"new conversation about {len(images)} image{'s' * (len(images) != 1)}"
        if name == "/save":
            if not argument:
                raise MGMError("/save: give a file name")
            self._save(Path(argument))
            return f"saved {argument}"
        raise MGMError(f"{name:.40} is not a command; commands are\n{CHAT_COMMANDS}")

    def _recognize_text(self) -> str:
        if self.ocr is None or not self.images:
            return ""
        texts = [text for image in self.images for text in self.ocr(image)]
        if texts:
            self.report(f"OCR Token: {', '.join(texts)}")
        return ocr_prompt(texts)

    def _with_image(
        self, texts: Generator[str, None, None], generator: ImageGenerator
    ) -> Generator[str, None, None]:
        answer = ""
        try:
            for text in texts:
                answer += text
                yield text
        finally:
            texts.close()
        prompt = image_prompt(answer)
        if prompt is not None:
            save_image(generator.generate(prompt, self.seed), self.output)
            self.report(f"generated {prompt!r}: {self.output}")

    def _save(self, path: Path) -> None:
        messages = []
        for index, (question, answer) in enumerate(self.chat.history):
            needs_markers = index == 0 and IMAGE_MARKER not in question
            markers = f"{IMAGE_MARKER}\n" * len(self.images) if needs_markers else ""
            messages.append({"from": "human", "value": markers + question})
            messages.append({"from": "gpt", "value": answer})
        sample: dict[str, object] = {"conversations": messages}
        if self.images:
            sample["image"] = (self.image_names or "").split(",")
        with atomic_file(path) as part:
            part.write_text(json.dumps([sample], indent=2, ensure_ascii=False), encoding="utf-8")
