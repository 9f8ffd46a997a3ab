"""Generates chat templates (Jinja, as in transformers) from conversation templates."""

import json
import re
from pathlib import Path

from jinja2 import Environment, TemplateSyntaxError

from mgm.data.text.conversation import build_prompt
from mgm.data.text.templates import IMAGE_MARKER, ConversationTemplate
from mgm.errors import MGMError, one_line

# `merged` and `text` are namespaces, since variables set in a Jinja loop are local to it.
_BODY = """\
{%- macro write(message) -%}
{%- if message.content is string -%}{{ message.content }}
{%- elif message.content is iterable -%}
{%- for part in message.content -%}
{%- if part.type in ("image", "image_url") -%}
{%- if not loop.first and loop.previtem.type == "text" -%}{{ "\\n" }}{%- endif -%}
{{ MARKER }}{%- if not loop.last -%}{{ "\\n" }}{%- endif -%}
{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- for call in message.tool_calls or [] -%}
{%- set arguments = call.function.arguments -%}
{%- if message.content or not loop.first -%}{{ "\\n" }}{%- endif -%}
{{ '<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' -}}
{{ (arguments if arguments is string else arguments | tojson) ~ '}\\n</tool_call>' }}
{%- endfor -%}
{%- endmacro -%}
{%- set merged = namespace(messages=[], first=true, was_moved=false) -%}
{%- for message in messages -%}
{%- set role, content, moved = message.role, write(message), false -%}
{%- if role in ("tool", "function") -%}
{%- set role, content = "user", "<tool_response>\\n" + content + "\\n</tool_response>" -%}
{%- elif role == "developer" -%}{%- set role = "system" -%}
{%- elif role not in ("system", "user", "assistant") -%}
{{ raise_exception("roles are system, developer, user, assistant and tool") }}
{%- endif -%}
{%- if role == "system" and not (HAS_SYSTEM and (merged.first or ANY_ORDER)) -%}
{%- set role, moved = "user", true -%}
{%- endif -%}
{%- if content or not moved -%}
{%- set last = merged.messages[-1] if merged.messages else {"role": none} -%}
{%- if last.role == role and not ANY_ORDER -%}
{%- set between = "\\n" if moved == merged.was_moved else "\\n\\n" -%}
{%- set content = last.text + between + content -%}
{%- set merged.messages = merged.messages[:-1] -%}
{%- endif -%}
{%- set merged.messages = merged.messages + [{"role": role, "text": content}] -%}
{%- set merged.was_moved = moved -%}
{%- if role != "system" -%}{%- set merged.first = false -%}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- set rest, system = merged.messages, SYSTEM -%}
{%- if rest and rest[0].role == "system" -%}
{%- set rest, system = rest[1:], rest[0].text -%}
{%- endif -%}
{%- if system -%}{%- set system = SYSTEM_BEFORE + system + SYSTEM_AFTER -%}{%- endif -%}
{%- if SYSTEM_INSIDE and not (rest | selectattr("role", "equalto", "user") | list) -%}
{%- set rest = [{"role": "user", "text": ""}] + rest -%}
{%- endif -%}
{%- set ns = namespace(text=OPENING if SYSTEM_INSIDE else system + OPENING, first=true) -%}
{%- for message in rest -%}
{%- set content = message.text.replace(MARKER, IMAGE) -%}
{%- if message.role == "system" -%}
{%- set ns.text = ns.text + SYSTEM_BEFORE + content + SYSTEM_AFTER -%}
{%- elif message.role == "assistant" -%}
{%- set ns.text = ns.text + ANSWER_OPEN + ANSWER + content + ANSWER_END -%}
{%- else -%}
{%- set before = FIRST_QUESTION + (system if SYSTEM_INSIDE else "") if ns.first else QUESTION -%}
{%- set ns.text = ns.text + before + content + QUESTION_END -%}
{%- set ns.first = false -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{%- set ns.text = ns.text + ANSWER_OPEN -%}{%- endif -%}
{%- set parts = ns.text.split(MARKER) -%}
{%- if parts | length < 3 or not NUMBERED -%}{{ ns.text }}{%- else -%}
{%- for part in parts -%}
{{ part }}{%- if not loop.last -%}{{ "Image " ~ loop.index ~ ":" ~ MARKER }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
"""


def chat_template(template: ConversationTemplate) -> str:
    """Jinja source of a chat template, equal to `mgm.data.text.conversation.chat_prompt`.

    Contents are text or lists of `{"type": "image"}` and `{"type": "text", "text": ...}`. A line
    break separates images from text; two or more images are numbered if the template numbers
    images. Roles may be in any order; tool calls and tool results are put between `<tool_call>`
    and `<tool_response>` tags.
    """
    layout = template.layout
    before, _, after = layout.system.partition("{}")
    first = layout.question[0] if layout.first_question is None else layout.first_question
    values = {
        "MARKER": IMAGE_MARKER,
        "IMAGE": layout.image,
        "HAS_SYSTEM": bool(layout.system),
        "ANY_ORDER": layout.any_order,
        "SYSTEM": template.system,
        "SYSTEM_BEFORE": before,
        "SYSTEM_AFTER": after,
        "SYSTEM_INSIDE": layout.system_in_question,
        "OPENING": build_prompt(template, template.examples, system=""),
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
    """Check the syntax of a Jinja template, which transformers checks only at first use.

    Raises:
        MGMError: names `file`, which contains the template, and the line.
    """
    # The tag that transformers adds to Jinja.
    plain = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", source)
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False).parse(plain)
    except (TemplateSyntaxError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise MGMError(
            f"{file}: is not valid Jinja ({one_line(error)[:200]}, line {line}); copy it again"
        ) from error
