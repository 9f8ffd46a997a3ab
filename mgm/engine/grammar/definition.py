"""Forms of answers in llguidance's own words."""

import json
from typing import Any

from mgm.engine.core.structured_output import MAX_WHITESPACE, StructuredOutput
from mgm.engine.grammar.json_schema import check_pattern, normalize_schema

# Text that can come in only one way would be turned into tokens anew at every step: seconds, for a
# long one. Where any grammar of a definition has this option all have, and the first is used.
_NO_FORCING = {"lark_grammar": '%llguidance {"no_forcing": true}\nstart: "-"'}


def definition_of(form: StructuredOutput) -> str:
    """A form in llguidance's own words.

    Raises:
        ValueError: it is malformed.
        RecursionError: it is nested too deeply.
    """
    return json.dumps({"grammars": [_grammar(form), _NO_FORCING]})


def _grammar(form: StructuredOutput) -> dict[str, Any]:
    from llguidance import LLMatcher, grammar_from

    if form.regex is not None:
        check_pattern(form.regex)
        return _only_grammar(LLMatcher.grammar_from_regex(form.regex))
    if form.choice is not None:
        # One terminal, whose state is small however many texts there are.
        texts = " | ".join(map(json.dumps, form.choice))
        return {"lark_grammar": f"start: CHOICE\nCHOICE: {texts}"}
    if form.grammar is not None:
        return {"lark_grammar": grammar_from("grammar", form.grammar)}
    schema = {"type": "object"} if form.json is None else json.loads(str(form.json))
    if isinstance(schema, bool):  # llguidance applies options to objects alone
        schema = {} if schema else {"enum": []}
    schema = normalize_schema(schema, form.disable_additional_properties)
    text = json.dumps(schema)
    return _only_grammar(LLMatcher.grammar_from_json_schema(text, overrides=_blanks(form)))


def _blanks(form: StructuredOutput) -> Any:
    """What may be between the tokens of JSON, as options of llguidance."""
    if form.disable_any_whitespace:
        return {"whitespace_flexible": False}
    check_pattern(form.whitespace_pattern)
    blanks = rf"[\x20\x0A\x0D\x09]{{1,{MAX_WHITESPACE}}}"
    return {"whitespace_pattern": form.whitespace_pattern or blanks}


def _only_grammar(definition: str) -> dict[str, Any]:
    (grammar,) = json.loads(definition)["grammars"]
    return grammar
