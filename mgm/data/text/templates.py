"""Definitions of all conversation templates: strings around system prompt, questions and answers.

`TEMPLATES` has the published templates, `nano`, and those of later language models.
`mgm.data.text.conversation` applies them.
"""

import re
from dataclasses import dataclass, replace

from mgm.data.text.system_prompts import ENERGY, HUMAN, LLAMA_2, MPT, TAGGED, USER, VISION
from mgm.errors import MGMError

IMAGE_MARKER = "<image>"
_TOKEN = re.compile(r"<\|[^|<>\s]+\|>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos)>")


@dataclass(frozen=True)
class Layout:
    """The strings around the parts of a conversation, in their order in the text.

    Attributes:
        system: text around the system prompt, which replaces `{}`; omitted if that is empty.
        system_in_question: whether the system prompt comes after the first `question[0]`, not
            before it.
        first_question: replaces `question[0]` in the first turn; None: does not.
        question: text before and after a question.
        answer_open: the generation prompt, at the end of a prompt.
        answer: text before and after an answer. Both are supervised: the first is between
            `answer_open` and the answer, the second ends the turn.
        closing: text after the last turn.
        turn_separator: text after an answer, supervised as the end of the answer.
        image: replaces an image marker.
        drops_questions: whether only the image markers of a question are kept.
        any_order: whether each message has its role, so that messages, also system messages, may
            be in any order.
    """

    system: str = ""
    system_in_question: bool = False
    first_question: str | None = None
    question: tuple[str, str] = ("", "")
    answer_open: str = ""
    answer: tuple[str, str] = ("", "")
    closing: str = ""
    turn_separator: str = ""
    image: str = IMAGE_MARKER
    drops_questions: bool = False
    any_order: bool = False


@dataclass(frozen=True)
class ConversationTemplate:
    """A conversation template, as the published `conv_templates`.

    Attributes:
        layout: layout of prompts.
        system: the default system prompt.
        stop: stop string of an answer.
        examples: few-shot (question, answer) pairs before the user's conversation.
        image_exchange: a (question, answer) pair that introduces the image; None: no such pair.
        training: layout of training texts; None: `layout`.
        keeps_initial_assistant_message: whether an assistant message before the first question
            is part of the training text.
        numbers_images: whether `Image k:` precedes each marker if there are two or more.
    """

    layout: Layout
    system: str = ""
    stop: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    image_exchange: tuple[str, str] | None = None
    training: Layout | None = None
    keeps_initial_assistant_message: bool = False
    numbers_images: bool = True

    @property
    def tokens(self) -> list[str]:
        """Special tokens, such as `<|im_end|>`, in the order of the training text."""
        layout = self.training or self.layout
        texts = (
            *(layout.system, layout.first_question or "", *layout.question, layout.answer_open),
            *(*layout.answer, layout.closing, layout.turn_separator),
        )
        return list(dict.fromkeys(_TOKEN.findall("".join(texts))))


def get_template(name: str, wrap_images: bool = False) -> ConversationTemplate:
    """Look up a template by name.

    Args:
        name: one of `TEMPLATES`.
        wrap_images: whether to put image markers between `<im_start>` and `<im_end>`, as for
            checkpoints whose config sets `mm_use_im_start_end`.

    Raises:
        MGMError: unknown template; the message lists the names.
    """
    if name not in list(TEMPLATES):  # a name from a file may be of any type
        raise MGMError(f"no template is called {name!r}; choose one of {', '.join(TEMPLATES)}")
    template = TEMPLATES[name]
    if not wrap_images:
        return template
    training = template.training and _wrap(template.training)
    return replace(template, layout=_wrap(template.layout), training=training)


def _wrap(layout: Layout) -> Layout:
    wrapped = f"<im_start>{IMAGE_MARKER}<im_end>"
    return replace(layout, image=layout.image.replace(IMAGE_MARKER, wrapped))


def version_template(version: str) -> str:
    """The name of the template for a value of the published training flag `--version`."""
    # Compat: published training uses the vicuna template for v0, v0.5 and unknown names; unknown
    # names are errors here.
    if version in ("v0", "v0.5"):
        return "vicuna_v1"
    get_template(version)
    return version


_EXCHANGE = ("<Image><image></Image>", "Received.")


def _colon(user: str, assistant: str, between: str, end: str) -> Layout:
    return Layout(
        system="{}" + between,
        question=(f"{user}: ", between),
        answer_open=f"{assistant}:",
        answer=(" ", end),
    )


def _headed(user: str, assistant: str, end: str, system: str) -> Layout:
    return Layout(
        system=system,
        question=(user, end),
        answer_open=assistant,
        answer=("", end),
        any_order=True,
    )


def _separated(user: str, assistant: str) -> Layout:
    # Compat: separators of published training for templates without code of their own.
    return Layout(
        system="{}\n\n",
        question=(f"### {user}: ", "\n"),
        answer_open=f"### {assistant}:",
        answer=(" ", "\n"),
        closing="### ",
        turn_separator="###",
    )


_BRACKETS = Layout(
    system="<<SYS>>\n{}\n<</SYS>>\n\n",
    system_in_question=True,
    # Compat: the published prompt lacks "<s>" before its first question; the tokenizer adds it.
    first_question="[INST] ",
    question=("<s>[INST] ", " [/INST]"),
    answer=(" ", " </s>"),
)
_VICUNA = _colon("USER", "ASSISTANT", " ", "</s>")
_HASHES = _colon("Human", "Assistant", "###", "###")
_SEPARATED = _separated("Human", "Assistant")
_CHATML = _headed(
    "<|im_start|>user\n",
    "<|im_start|>assistant\n",
    "<|im_end|>",
    "<|im_start|>system\n{}<|im_end|>",
)
_CAPTION = ConversationTemplate(
    Layout(question=("", "\n"), answer=("", "\n")),
    stop="\n",
    training=Layout(answer=("", "\n"), drops_questions=True),
)
_HUMAN_HASHES = ConversationTemplate(
    _HASHES, HUMAN, stop="###", training=_SEPARATED, keeps_initial_assistant_message=True
)
_VICUNA_V1 = ConversationTemplate(_VICUNA, USER, stop="</s>")
_TAGS = "<Image><image></Image>"

TEMPLATES: dict[str, ConversationTemplate] = {
    "default": replace(_HUMAN_HASHES, examples=(ENERGY,)),
    "v0": replace(_HUMAN_HASHES, examples=(ENERGY,)),
    "v1": _VICUNA_V1,
    "vicuna_v1": _VICUNA_V1,
    "phi_2": ConversationTemplate(
        _colon("USER", "ASSISTANT", " ", "<|endoftext|>"),
        USER,
        stop="<|endoftext|>",
        training=_separated("USER", "ASSISTANT"),
        keeps_initial_assistant_message=True,
    ),
    "gemma": ConversationTemplate(
        Layout(
            question=("<start_of_turn>user\n", "<end_of_turn>\n"),
            answer_open="<start_of_turn>model\n",
            answer=("", "<end_of_turn>\n<eos>"),
        ),
        stop="<end_of_turn>",
    ),
    "llama_2": ConversationTemplate(_BRACKETS, LLAMA_2, stop="</s>"),
    "llama_3": ConversationTemplate(
        _headed(
            "<|start_header_id|>user<|end_header_id|>\n\n",
            # Compat: the published checkpoint answers after the system header.
            "<|start_header_id|>system<|end_header_id|>\n\n",
            "<|eot_id|>",
            "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        ),
        VISION,
        stop="<|eot_id|>",
    ),
    "imgsp_v1": replace(
        _VICUNA_V1, training=_separated("USER", "ASSISTANT"), keeps_initial_assistant_message=True
    ),
    "mistral_instruct": ConversationTemplate(_BRACKETS, stop="</s>"),
    "chatml_direct": ConversationTemplate(_CHATML, "Answer the questions.", stop="<|im_end|>"),
    "mistral_direct": ConversationTemplate(_CHATML, "Answer the questions.", stop="<|im_end|>"),
    "plain": _CAPTION,
    "v0_plain": _CAPTION,
    "llava_v0": _HUMAN_HASHES,
    "v0_mmtag": ConversationTemplate(
        _HASHES,
        TAGGED,
        stop="###",
        image_exchange=_EXCHANGE,
        training=replace(_SEPARATED, image=_TAGS),
        keeps_initial_assistant_message=True,
    ),
    "llava_v1": ConversationTemplate(_VICUNA, HUMAN, stop="</s>"),
    "v1_mmtag": ConversationTemplate(
        _VICUNA,
        TAGGED,
        stop="</s>",
        image_exchange=_EXCHANGE,
        training=replace(_VICUNA, image=_TAGS),
    ),
    "llava_llama_2": ConversationTemplate(_BRACKETS, VISION, stop="</s>"),
    "mpt": ConversationTemplate(
        _CHATML,
        MPT,
        stop="<|im_end|>",
    ),
    "nano": ConversationTemplate(
        Layout(
            first_question="<s><|user|>",
            question=("<|user|>", "<|end|>"),
            answer_open="<|assistant|>",
            answer=("", "<|end|>"),
        ),
        stop="<|end|>",
        numbers_images=False,  # its training questions refer to "the first image"
    ),
    "qwen_3": ConversationTemplate(
        _headed(
            "<|im_start|>user\n",
            "<|im_start|>assistant\n",
            "<|im_end|>\n",
            "<|im_start|>system\n{}<|im_end|>\n",
        ),
        stop="<|im_end|>",
    ),
    # The format of Phi-2's model card. Compat: prompts of "phi_2" differ from its training text.
    "phi": ConversationTemplate(
        Layout(
            question=("Instruct: ", "\n"),
            answer_open="Output:",
            answer=(" ", "<|endoftext|>"),
        ),
        stop="<|endoftext|>",
    ),
    "phi_3": ConversationTemplate(
        _headed("<|user|>\n", "<|assistant|>\n", "<|end|>\n", "<|system|>\n{}<|end|>\n"),
        stop="<|end|>",
    ),
}
