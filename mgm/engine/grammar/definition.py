"""Structured output to grammar definitions of llguidance."""

import json
from typing import Any

from mgm.engine.core.structured_output import MAX_WHITESPACE, StructuredOutput
from mgm.engine.grammar.json_schema import check_pattern, normalize_schema

# llguidance would tokenize text that the grammar forces again at every step: seconds for a long
# one. If any grammar of a definition has this option all have it, and the first one is used.
_NO_FORCING = {"lark_grammar": '%llguidance {"no_forcing": true}\nstart: "-"'}


def definition_of(constraint: StructuredOutput) -> str:
    """Convert a constraint to llguidance's grammar definition in JSON.

    Raises:
        ValueError: the constraint is malformed.
        RecursionError: the constraint is nested too deeply.
    """
    return json.dumps({"grammars": [_grammar(constraint), _NO_FORCING]})


def _grammar(constraint: StructuredOutput) -> dict[str, Any]:
    from llguidance import LLMatcher, grammar_from

    if constraint.regex is not None:
        check_pattern(constraint.regex)
        return _only_grammar(LLMatcher.grammar_from_regex(constraint.regex))
    if constraint.choice is not None:
        # One terminal: its lexer state is small however many choices there are.
        texts = " | ".join(map(json.dumps, constraint.choice))
        return {"lark_grammar": f"start: CHOICE\nCHOICE: {texts}"}
    if constraint.grammar is not None:
        return {"lark_grammar": grammar_from("grammar", constraint.grammar)}
    schema = {"type": "object"} if constraint.json is None else json.loads(str(constraint.json))
    if isinstance(schema, bool):  # llguidance applies options to objects alone
        schema = {} if schema else {"enum": []}
    schema = normalize_schema(schema, constraint.disable_additional_properties)
    text = json.dumps(schema)
    return _only_grammar(
        LLMatcher.grammar_from_json_schema(text, overrides=_whitespace_options(constraint))
    )


def _whitespace_options(constraint: StructuredOutput) -> Any:
    """Options of llguidance for whitespace between the tokens of JSON."""
    if constraint.disable_any_whitespace:
        return {"whitespace_flexible": False}
    check_pattern(constraint.whitespace_pattern)
    pattern = rf"[\x20\x0A\x0D\x09]{{1,{MAX_WHITESPACE}}}"
    return {"whitespace_pattern": constraint.whitespace_pattern or pattern}


def _only_grammar(definition: str) -> dict[str, Any]:
    (grammar,) = json.loads(definition)["grammars"]
    return grammar
