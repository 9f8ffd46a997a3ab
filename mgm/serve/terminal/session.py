"""What a person at a terminal has: images, a conversation about them, and commands."""

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from mgm.atomic import atomic_file
from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.core.request import Request
from mgm.engine.engine import Engine
from mgm.errors import MGMError
from mgm.serve.terminal.chat import Chat
from mgm.serve.tools.image_generation import GEN_SUFFIX, ImageGenerator, image_prompt, save_image
from mgm.serve.tools.ocr import Reader, reference

HELP = """\
/image FILES   talk about other images, from the beginning
/reset         forget the conversation
/save FILE     write the conversation, as training data is written
/help          show this"""


@dataclass
class Session:
    """A conversation, which commands may begin anew.

    Attributes:
        engine: answers.
        settings: a request that says how to answer.
        report: is told what the user should know besides the answers.
        open_images: opens what `/image` names.
        images: what it is about.
        names: of the images, for `/save`.
        reader: reads texts in the images, as help; None: nobody does.
        drawer: draws what an answer asks for; None: nobody does.
        output: where drawn images go.
        seed: of drawn images.
    """

    engine: Engine
    settings: Request
    report: Callable[[str], None]
    open_images: Callable[[str], list[Image.Image]]
    images: list[Image.Image] = field(default_factory=list)
    names: str | None = None
    reader: Reader | None = None
    drawer: ImageGenerator | None = None
    output: Path = Path("generate.png")
    seed: int | None = None

    def __post_init__(self) -> None:
        self._read: dict[int, str] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the conversation."""
        suffix = self._seen_texts()
        if self.drawer is not None:
            suffix += GEN_SUFFIX
        self.chat = Chat(self.engine, self.images, self.settings, self.report, suffix)

    def ask(self, question: str) -> Generator[str, None, None]:
        """The answer, piece by piece; what it asks to draw is drawn behind it.

        Raises:
            MGMError: it cannot be answered, or not drawn. Pieces raise it, too.
        """
        pieces = self.chat.ask(question)
        return pieces if self.drawer is None else self._drawing(pieces, self.drawer)

    def command(self, line: str) -> str | None:
        """What a line that begins with / does, in words; None: it is a question.

        Raises:
            MGMError: it is no command, or cannot be done.
        """
        if not line.startswith("/"):
            return None
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name == "/help":
            return HELP
        if name == "/reset":
            self.reset()
            return "the conversation begins anew"
        if name == "/image":
            images = self.open_images(rest)
            self.images, self.names = images, rest
            self.reset()
            return f"about {len(images)} image{'s' * (len(images) != 1)}, from the beginning"
        if name == "/save":
            if not rest:
                raise MGMError("/save: name a file")
            self._save(Path(rest))
            return f"saved {rest}"
        raise MGMError(f"{name:.40} is no command; there are\n{HELP}")

    def _seen_texts(self) -> str:
        if self.reader is None or not self.images:
            return ""
        texts = [text for image in self.images for text in self.reader(image)]
        if texts:
            self.report(f"OCR Token: {', '.join(texts)}")
        return reference(texts)

    def _drawing(
        self, pieces: Generator[str, None, None], drawer: ImageGenerator
    ) -> Generator[str, None, None]:
        answer = ""
        try:
            for piece in pieces:
                answer += piece
                yield piece
        finally:
            pieces.close()
        text = image_prompt(answer)
        if text is not None:
            save_image(drawer.draw(text, self.seed), self.output)
            self.report(f"drew {text!r}: {self.output}")

    def _save(self, path: Path) -> None:
        turns: Sequence[tuple[str, str]] = self.chat.history
        messages = []
        for number, (question, answer) in enumerate(turns):
            marks = f"{IMAGE_MARKER}\n" * len(self.images) if number == 0 else ""
            if IMAGE_MARKER in question:
                marks = ""
            messages.append({"from": "human", "value": marks + question})
            messages.append({"from": "gpt", "value": answer})
        sample: dict[str, object] = {"conversations": messages}
        if self.images:
            sample["image"] = (self.names or "").split(",")
        with atomic_file(path) as part:
            part.write_text(json.dumps([sample], indent=2, ensure_ascii=False), encoding="utf-8")
