"""How each language model expects a conversation to be written, as data.

A template is a handful of strings around the questions and the answers; `TEMPLATES` holds those
of the published names and our own `nano`. `mgm.data.conversation` turns turns into text with them.
"""

from dataclasses import dataclass, replace

from mgm.errors import MGMError

IMAGE_MARKER = "<image>"


@dataclass(frozen=True)
class Layout:
    """The strings around the parts of a conversation, in the order in which they are written.

    Attributes:
        system: around the system text, which stands in place of `{}`; left out when that is empty.
        system_in_question: the system part comes after the first `question[0]`, not before it.
        first_question: what stands in place of `question[0]` in the first turn, if it differs.
        question: before and after a question.
        answer_open: the text that makes the model answer; a prompt ends with it.
        answer: before and after an answer. Both are learned with it: the first is what the model
            writes between `answer_open` and the answer, the second ends its turn.
        closing: after the last turn.
        next_signal: text that opens the part after an answer and is learned as the answer's end.
        image: what stands in place of an image marker.
        drops_questions: only the image markers of a question are written.
    """

    system: str = ""
    system_in_question: bool = False
    first_question: str | None = None
    question: tuple[str, str] = ("", "")
    answer_open: str = ""
    answer: tuple[str, str] = ("", "")
    closing: str = ""
    next_signal: str = ""
    image: str = IMAGE_MARKER
    drops_questions: bool = False


@dataclass(frozen=True)
class Template:
    """One way to write conversations.

    Attributes:
        layout: how a prompt is written.
        system: the system text.
        stop: text that ends an answer.
        examples: (question, answer) pairs that come before the user's conversation.
        image_exchange: an exchange that introduces the image, where the template has one.
        training: how a conversation is written for training, where that differs.
        keeps_greeting: whether an answer before the first question stays in the training text.
    """

    layout: Layout
    system: str = ""
    stop: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    image_exchange: tuple[str, str] | None = None
    training: Layout | None = None
    keeps_greeting: bool = False


def get_template(name: str, wrap_images: bool = False) -> Template:
    """The template called `name`.

    Args:
        name: one of `TEMPLATES`.
        wrap_images: whether image markers stand between `<im_start>` and `<im_end>`, as in
            checkpoints whose configuration sets `mm_use_im_start_end`.

    Raises:
        MGMError: there is no such template; the message lists the names.
    """
    if name not in TEMPLATES:
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
    """The name of the template that the published training flag `--version` selects."""
    # Compat: published training knows v0 and v0.5 but trains with the vicuna template, and falls
    # back to it for names that it does not know; a wrong name is an error here.
    if version in ("v0", "v0.5"):
        return "vicuna_v1"
    get_template(version)
    return version


_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_USER = _HUMAN.replace("human", "user")
_VISION = (
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_TAGGED = (
    "A chat between a curious user and an artificial intelligence assistant. "
    + _VISION.replace("You are", "The assistant is")
    + "The visual content will be provided with the following format: <Image>visual content</Image>."
)
_LLAMA_2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe.  Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased "
    "and positive in nature.\n\nIf a question does not make any sense, or is not factually coherent, "
    "explain why instead of answering something not correct. If you don't know the answer to a "
    "question, please don't share false information."
)
_ENERGY = (
    "What are the key differences between renewable and non-renewable energy sources?",
    "Renewable energy sources are those that can be replenished naturally in a relatively short "
    "amount of time, such as solar, wind, hydro, geothermal, and biomass. Non-renewable energy "
    "sources, on the other hand, are finite and will eventually be depleted, such as coal, oil, and "
    "natural gas. Here are some key differences between renewable and non-renewable energy sources:\n"
    "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable "
    "energy sources are finite and will eventually run out.\n"
    "2. Environmental impact: Renewable energy sources have a much lower environmental impact than "
    "non-renewable sources, which can lead to air and water pollution, greenhouse gas emissions, and "
    "other negative effects.\n"
    "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically "
    "have lower operational costs than non-renewable sources.\n"
    "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote "
    "locations than non-renewable sources.\n"
    "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different "
    "situations and needs, while non-renewable sources are more rigid and inflexible.\n"
    "6. Sustainability: Renewable energy sources are more sustainable over the long term, while "
    "non-renewable sources are not, and their depletion can lead to economic and social instability.\n",
)
_EXCHANGE = ("<Image><image></Image>", "Received.")


def _colon(user: str, assistant: str, between: str, end: str) -> Layout:
    return Layout(
        system="{}" + between,
        question=(f"{user}: ", between),
        answer_open=f"{assistant}:",
        answer=(" ", end),
    )


def _headed(user: str, assistant: str, end: str, system: str) -> Layout:
    return Layout(system=system, question=(user, end), answer_open=assistant, answer=("", end))


def _signalled(user: str, assistant: str) -> Layout:
    # Compat: published training writes these signals for templates that it has no code for.
    return Layout(
        system="{}\n\n",
        question=(f"### {user}: ", "\n"),
        answer_open=f"### {assistant}:",
        answer=(" ", "\n"),
        closing="### ",
        next_signal="###",
    )


_BRACKETS = Layout(
    system="<<SYS>>\n{}\n<</SYS>>\n\n",
    system_in_question=True,
    # Compat: the published prompt has lost the "<s>" before its first question; the tokenizer
    # puts one there.
    first_question="[INST] ",
    question=("<s>[INST] ", " [/INST]"),
    answer=(" ", " </s>"),
)
_VICUNA = _colon("USER", "ASSISTANT", " ", "</s>")
_HASHES = _colon("Human", "Assistant", "###", "###")
_SIGNALS = _signalled("Human", "Assistant")
_CHATML = _headed(
    "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>", "<|im_start|>system\n{}<|im_end|>"
)
_CAPTION = Template(
    Layout(question=("", "\n"), answer=("", "\n")),
    stop="\n",
    training=Layout(answer=("", "\n"), drops_questions=True),
)
_HUMAN_HASHES = Template(_HASHES, _HUMAN, stop="###", training=_SIGNALS, keeps_greeting=True)
_VICUNA_V1 = Template(_VICUNA, _USER, stop="</s>")
_TAGS = "<Image><image></Image>"

TEMPLATES: dict[str, Template] = {
    "default": replace(_HUMAN_HASHES, examples=(_ENERGY,)),
    "v0": replace(_HUMAN_HASHES, examples=(_ENERGY,)),
    "v1": _VICUNA_V1,
    "vicuna_v1": _VICUNA_V1,
    "phi_2": Template(
        _colon("USER", "ASSISTANT", " ", "<|endoftext|>"),
        _USER,
        stop="<|endoftext|>",
        training=_signalled("USER", "ASSISTANT"),
        keeps_greeting=True,
    ),
    "gemma": Template(
        Layout(
            question=("<start_of_turn>user\n", "<end_of_turn>\n"),
            answer_open="<start_of_turn>model\n",
            answer=("", "<end_of_turn>\n<eos>"),
        ),
        stop="<end_of_turn>",
    ),
    "llama_2": Template(_BRACKETS, _LLAMA_2, stop="</s>"),
    "llama_3": Template(
        _headed(
            "<|start_header_id|>user<|end_header_id|>\n\n",
            # Compat: the published checkpoint answers under the header of the system.
            "<|start_header_id|>system<|end_header_id|>\n\n",
            "<|eot_id|>",
            "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        ),
        f"You are a helpful language and vision assistant. {_VISION}",
        stop="<|eot_id|>",
    ),
    "imgsp_v1": replace(
        _VICUNA_V1, training=_signalled("USER", "ASSISTANT"), keeps_greeting=True
    ),
    "mistral_instruct": Template(_BRACKETS, stop="</s>"),
    "chatml_direct": Template(_CHATML, "Answer the questions.", stop="<|im_end|>"),
    "mistral_direct": Template(_CHATML, "Answer the questions.", stop="<|im_end|>"),
    "plain": _CAPTION,
    "v0_plain": _CAPTION,
    "llava_v0": _HUMAN_HASHES,
    "v0_mmtag": Template(
        _HASHES,
        _TAGGED,
        stop="###",
        image_exchange=_EXCHANGE,
        training=replace(_SIGNALS, image=_TAGS),
        keeps_greeting=True,
    ),
    "llava_v1": Template(_VICUNA, _HUMAN, stop="</s>"),
    "v1_mmtag": Template(
        _VICUNA,
        _TAGGED,
        stop="</s>",
        image_exchange=_EXCHANGE,
        training=replace(_VICUNA, image=_TAGS),
    ),
    "llava_llama_2": Template(
        _BRACKETS, f"You are a helpful language and vision assistant. {_VISION}", stop="</s>"
    ),
    "mpt": Template(
        _CHATML,
        "A conversation between a user and an LLM-based AI assistant. "
        "The assistant gives helpful and honest answers.",
        stop="<|im_end|>",
    ),
    "nano": Template(
        Layout(
            first_question="<s><|user|>",
            question=("<|user|>", "<|end|>"),
            answer_open="<|assistant|>",
            answer=("", "<|end|>"),
        ),
        stop="<|end|>",
    ),
}
