"""Templates in the form in which transformers and servers read them: Jinja."""

import json
import re
from pathlib import Path

from jinja2 import Environment, TemplateSyntaxError

from mgm.data.text.conversation import prompt
from mgm.data.text.templates import IMAGE_MARKER, Template
from mgm.errors import MGMError, one_line

# `text` gathers the prompt, since only the whole of it tells whether images are numbered.
_BODY = """\
{%- macro write(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content -%}
{%- if part.type in ("image", "image_url") -%}
{%- if not loop.first and loop.previtem.type == "text" -%}{{ "\\n" }}{%- endif -%}
{{ MARKER }}{%- if not loop.last -%}{{ "\\n" }}{%- endif -%}
{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set turns = messages -%}
{%- set system = SYSTEM -%}
{%- if messages[0].role == "system" -%}
{%- if not HAS_SYSTEM -%}
{{ raise_exception("this template has no place for a system text") }}
{%- endif -%}
{%- set turns = messages[1:] -%}
{%- set system = write(messages[0].content) -%}
{%- endif -%}
{%- if system -%}{%- set system = SYSTEM_BEFORE + system + SYSTEM_AFTER -%}{%- endif -%}
{%- set ns = namespace(text=OPENING if SYSTEM_INSIDE else system + OPENING) -%}
{%- for message in turns -%}
{%- set content = write(message.content).replace(MARKER, IMAGE) -%}
{%- if message.role == "user" -%}
{%- if not loop.first -%}{%- set ns.text = ns.text + QUESTION -%}
{%- else -%}{%- set ns.text = ns.text + FIRST_QUESTION + (system if SYSTEM_INSIDE else "") -%}
{%- endif -%}
{%- set ns.text = ns.text + content + QUESTION_END -%}
{%- elif message.role == "assistant" -%}
{%- set ns.text = ns.text + ANSWER_OPEN + ANSWER + content + ANSWER_END -%}
{%- else -%}{{ raise_exception("roles are system, user and assistant") }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{%- set ns.text = ns.text + ANSWER_OPEN -%}{%- endif -%}
{%- set pieces = ns.text.split(MARKER) -%}
{%- if pieces | length < 3 or not NUMBERED -%}{{ ns.text }}{%- else -%}
{%- for piece in pieces -%}
{{ piece }}{%- if not loop.last -%}{{ "Image " ~ loop.index ~ ":" ~ MARKER }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
"""


def chat_template(template: Template) -> str:
    """Jinja source that writes transformers' messages as `mgm.data.text.conversation.prompt` does.

    Contents are text or lists of `{"type": "image"}` and `{"type": "text", "text": ...}`; images
    are set off from text by a line break, and numbered where the template says so and
    there are two or more.
    """
    layout = template.layout
    before, _, after = layout.system.partition("{}")
    first = layout.question[0] if layout.first_question is None else layout.first_question
    values = {
        "MARKER": IMAGE_MARKER,
        "IMAGE": layout.image,
        "HAS_SYSTEM": bool(layout.system),
        "SYSTEM": template.system,
        "SYSTEM_BEFORE": before,
        "SYSTEM_AFTER": after,
        "SYSTEM_INSIDE": layout.system_in_question,
        "OPENING": prompt(template, template.examples, system=""),
        "FIRST_QUESTION": first,
        "QUESTION": layout.question[0],
        "QUESTION_END": layout.question[1],
        "ANSWER_OPEN": layout.answer_open,
        "ANSWER": layout.answer[0],
        "ANSWER_END": layout.answer[1],
        "NUMBERED": template.numbers_images,
    }
    settings = [f"{{%- set {name} = {json.dumps(value)} -%}}\n" for name, value in values.items()]
    return "".join(settings) + _BODY


def check_syntax(source: str, file: Path) -> None:
    """Refuse a template that is no Jinja, which transformers would only notice when it uses it.

    Raises:
        MGMError: names `file`, which holds it, and the line.
    """
    # The tag that transformers adds to Jinja.
    plain = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", source)
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False).parse(plain)
    except (TemplateSyntaxError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise MGMError(
            f"{file}: is no Jinja template ({one_line(error)[:200]}, line {line}); copy it again"
        ) from error
