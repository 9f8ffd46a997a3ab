"""Structured output: answers match their grammar, and do not affect other requests."""

import json
import random
import re
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import mgm
from mgm import MGMError, Request
from mgm.engine.core.errors import EngineBusyError, GenerationError, RequestError
from mgm.engine.core.structured_output import MAX_WHITESPACE, StructuredOutput
from mgm.engine.core.token_bytes import TokenBytes
from mgm.engine.engine import Engine
from mgm.engine.grammar.compiler import (
    _JSON_LIMITS,
    MAX_COMPILED,
    MAX_COMPILED_LENGTH,
    Grammar,
    GrammarCompiler,
)
from tests.tiny_model import build, byte_tokenizer

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
NAME = {"type": "string", "maxLength": 6}
SCHEMAS = [
    {"type": "object", "properties": {"a": NAME}, "required": ["a"], "additionalProperties": False},
    {"type": "integer", "minimum": -3, "maximum": 120},
    {"type": "boolean"},
    {"type": "null"},
    {"enum": ["red", "grün", 3, None, ["x"]]},
    {"const": {"a": [1, 2]}},
    {"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 3},
    {"type": "array", "prefixItems": [NAME, {"type": "null"}], "items": False, "minItems": 2},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "minLength": 3, "maxLength": 5},
    {"type": "string", "enum": ["é漢😀", '"quoted"']},
    {"anyOf": [{"type": "boolean"}, {"type": "integer", "maximum": 9, "minimum": 0}]},
    {"type": ["null", "boolean"]},
    {"type": "number", "minimum": 0, "maximum": 1, "enum": [0.5, 0.25]},
    {"$ref": "#/$defs/b", "$defs": {"b": {"type": "array", "items": DIGIT, "maxItems": 4}}},
    {
        "type": "object",
        "properties": {"x": {"type": "boolean"}, "y": {"enum": [1, 2]}},
        "required": ["x", "y"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"box": {"type": "array", "items": DIGIT, "minItems": 4, "maxItems": 4}},
        "required": ["box"],
        "additionalProperties": False,
    },
    {"type": "object", "properties": {}, "additionalProperties": False},
    {"allOf": [{"type": "integer"}, {"minimum": 5}, {"maximum": 7}]},
]


STOPS, SIZE = frozenset({4}), 261


@pytest.fixture
def compiler():
    """A compiler for a vocabulary of bytes and special tokens."""
    return GrammarCompiler(TokenBytes(byte_tokenizer()), SIZE)


def tokens_of(mask: bytes) -> list[int]:
    """The tokens that a mask allows."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
    return np.flatnonzero(bits).tolist()


@cache
def nano():
    return mgm.load("playground/mgm-nano", device="cpu")


def request(form: StructuredOutput, **settings) -> Request:
    return Request("hi", structured_output=form, **{"temperature": 1.0, "seed": 1} | settings)


@pytest.mark.parametrize("part", range(4))
def test_json_schema(part):
    """With random sampling of the nano model."""
    schemas = SCHEMAS[part::4]
    forms = [StructuredOutput(json=schema, disable_any_whitespace=True) for schema in schemas]
    requests = [request(form, seed=seed, max_new_tokens=90) for form in forms for seed in range(3)]
    for one, answer in zip(requests, nano().answer(requests), strict=True):
        schema = json.loads(one.structured_output.json)
        assert answer.finish_reason == "stop", (schema, answer.text)
        jsonschema.validate(json.loads(answer.text), schema)


@pytest.mark.parametrize("seed", range(3))
def test_choice_regex_and_grammar(seed):
    choices = ["Yes", "No", " maybe\n so", "Ünï ☃ 😀"]
    forms = {
        StructuredOutput(regex=r"\d{3}-[A-Z]{2}(x|é){4}"): r"\d{3}-[A-Z]{2}(x|é){4}",
        StructuredOutput(choice=choices): "|".join(map(re.escape, choices)),
        StructuredOutput(grammar='start: "a" b~1..4 "."\nb: "x" | "y" "z"'): r"a(x|yz){1,4}\.",
        StructuredOutput(grammar='root ::= "hi " name\nname ::= "bob" | "eve"'): "hi (bob|eve)",
    }
    requests = [request(form, seed=seed, max_new_tokens=120) for form in forms]
    for pattern, answer in zip(forms.values(), nano().answer(requests), strict=True):
        assert re.fullmatch(pattern, answer.text), answer.text
        assert answer.finish_reason == "stop"


@pytest.mark.parametrize("compact", [True, False])
def test_whitespace_between_json_tokens(engine, compact):
    """With a random model that can only write these characters."""
    form = StructuredOutput(json_object=True, disable_any_whitespace=compact)
    (brace, end, blank) = (engine.processor.encode(letter)[-1] for letter in "{} ")
    bias = dict.fromkeys(range(engine._preparer._num_tokens), -100) | {brace: 0, end: 0, blank: 20}
    bias |= dict.fromkeys(engine._preparer.prompts.stop_criteria.token_ids, 0)
    (answer,) = engine.answer([request(form, max_new_tokens=60, logit_bias=bias)])
    assert answer.text == ("{}" if compact else "{" + " " * MAX_WHITESPACE + "}")


def test_truncated_answers_have_finish_reason_length(engine):
    (answer,) = engine.answer([request(StructuredOutput(regex="x{40}"), max_new_tokens=9)])
    assert (answer.text, answer.finish_reason) == ("x" * 9, "length")


def test_constrained_and_free_requests_in_a_batch(engine):
    forms = [
        StructuredOutput(regex="[ab]{12}"),
        None,
        StructuredOutput(choice=["one", "two", "three"]),
        StructuredOutput(json={"type": "array", "items": {"type": "boolean"}, "maxItems": 3}),
    ]
    requests = [request(form, seed=seed, max_new_tokens=20) for seed, form in enumerate(forms * 2)]
    requests[1] = replace(requests[1], temperature=0.0, logprobs=3)
    requests[5] = replace(requests[5], frequency_penalty=0.5)
    alone = [Engine(engine.model, engine.processor).answer([one])[0] for one in requests]
    assert engine.answer(requests) == alone
    drafting = Engine(engine.model, engine.processor, num_speculative_tokens=8)
    for _ in range(2):  # the second time with drafts of earlier outputs
        assert drafting.answer(requests) == alone


def test_logprobs_equal_the_model(engine):
    form = StructuredOutput(choice=["Yes"])
    free = engine.answer([Request("hi", max_new_tokens=1, logprobs=20)])[0].sampled_tokens[0]
    (bound,) = engine.answer([Request("hi", structured_output=form, logprobs=20)])
    for one, other in zip(bound.sampled_tokens[0].top_logprobs, free.top_logprobs, strict=True):
        assert (one.token, one.logprob) == (other.token, pytest.approx(other.logprob, abs=1e-4))
    assert bound.text == "".join(choice.text for choice in bound.sampled_tokens) == "Yes"
    assert bound.sampled_tokens[0].logprob < free.logprob


def test_failing_grammar_ends_one_request(engine, monkeypatch):
    requests = [request(StructuredOutput(regex="[ab]{9}"), seed=seed) for seed in range(3)]
    expected = engine.answer(requests)
    streams = [engine.stream(one) for one in requests]
    engine.scheduler.step()
    engine.scheduler.running[1].sampler.mask._matcher.consume_token(7)
    while engine.scheduler.busy:
        engine.scheduler.step()
    assert [streams[number].answer for number in (0, 2)] == [expected[0], expected[2]]
    with pytest.raises(MGMError, match="the grammar cannot continue"):
        list(streams[1])


def test_bans_and_grammar_without_allowed_tokens(engine):
    a = engine.processor.encode("a")[-1]
    with pytest.raises(MGMError, match="logit_bias bans every token") as caught:
        engine.answer([request(StructuredOutput(regex="xa"), logit_bias={a: -100})])
    assert not isinstance(caught.value, GenerationError)  # a client error


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"regex": "("}, "structured_output.regex cannot be used .*unclosed group"),
        ({"regex": "[a&&b]"}, "structured_output.regex cannot be used .nothing matches it"),
        ({"json": {"type": "nosuch"}}, "structured_output.json cannot be used .Invalid type"),
        ({"json": "false"}, "Unsatisfiable schema"),
        ({"json": {"$ref": "file:///etc/passwd"}}, "structured_output.json cannot be used"),
        ({"grammar": "start: x"}, 'structured_output.grammar cannot be used .*unknown name: "x"'),
        ({"grammar": "start: start"}, "nothing matches it"),
        (
            {"grammar": "start: " + " ".join(f'"a{number}"~0..900' for number in range(2500))},
            "cannot be used .*too big",
        ),
        ({"whitespace_pattern": "(", "json_object": True}, "json_object cannot be used"),
        ({"whitespace_pattern": "\\", "json_object": True}, "ends in a lone backslash"),
        ({"regex": "a\\\\\\"}, "regex cannot be used .* ends in a lone backslash"),
        ({"json": {"anyOf": [{"pattern": "\\"}]}}, "ends in a lone backslash"),
        ({"json": {"patternProperties": {"\\": {}}}}, "ends in a lone backslash"),
        (
            {"json": {"properties": {f"p{number}": {} for number in range(2000)}}},
            "2000 optional properties, and at most 1000",
        ),
    ],
)
def test_grammars_that_do_not_compile(engine, form, message):
    with pytest.raises(MGMError, match=message) as caught:
        engine.stream(request(StructuredOutput(**form)))
    assert "\n" not in str(caught.value)


def test_deep_recursion_of_rules_does_not_crash(engine):
    rules = "\n".join(f"a{number}: a{number + 1}" for number in range(4000))
    with pytest.raises(MGMError, match="nested too deeply"):
        engine.stream(request(StructuredOutput(grammar=f'start: a0\n{rules}\na4000: "x"')))


def test_compile_timeout(engine, monkeypatch):
    monkeypatch.setattr("mgm.engine.grammar.compiler.MAX_COMPILE_SECONDS", 0.2)
    schema = {"type": "integer", "multipleOf": 1000003}  # would take about 20 s
    with pytest.raises(MGMError, match=r"takes more than 0\.2 seconds to compile"):
        engine.stream(request(StructuredOutput(json=schema)))


@pytest.mark.parametrize(
    "form",
    [
        {"regex": "a{100000}"},
        {"regex": "(a{1000}){1000}b"},
        {"json": {"const": "a" * 60000}},
        {"choice": ["a" * 32000]},
        {"grammar": f'start: "{"a" * 60000}"'},
        {"grammar": f'%llguidance {{"no_forcing": false}}\nstart: "{"a" * 60000}"'},
    ],
    ids=["repeat", "repeats", "const", "choice", "literal", "option"],
)
def test_long_literals_are_fast(compiler, form):
    grammar = compiler.compile(StructuredOutput(**form), STOPS)
    accepted, slowest = [], 0.0
    for _ in range(50):
        start_time = time.thread_time()
        (token, *_) = tokens_of(grammar.bitmask())
        grammar.accept(token)
        slowest = max(slowest, time.thread_time() - start_time)
        accepted.append(token)
    assert slowest < 0.05
    assert b"".join(map(compiler._vocabulary.of, accepted)).lstrip(b'"').strip(b"a") == b""


@pytest.mark.parametrize(
    "grammar",
    [
        'start: s\ns: s s s | s s | "a"',
        'start: x*\nx: y*\ny: z*\nz: "a"*',
    ],
)
def test_ambiguous_grammars_are_limited(compiler, grammar):
    matcher = compiler.compile(StructuredOutput(grammar=grammar), STOPS)
    (a,) = compiler._vocabulary.tokenizer("a").input_ids
    slowest = 0.0

    def write(count: int) -> None:
        nonlocal slowest
        for _ in range(count):
            start_time = time.thread_time()
            matcher.bitmask()
            matcher.accept(a)
            slowest = max(slowest, time.thread_time() - start_time)

    with pytest.raises(MGMError, match=r"the grammar cannot continue .*items"):
        write(700)
    assert slowest < 0.25


@pytest.mark.parametrize("text", ["<|user|>", "<s>", "a</s>", "<|end|>"])
@pytest.mark.parametrize("kind", ["choice", "regex", "grammar", "json"])
def test_special_tokens_are_not_text(compiler, text, kind):
    pattern = "".join(f"[{letter}]" if letter in "|/" else letter for letter in text)
    forms = {"choice": [text], "regex": pattern, "grammar": f'start: "{text}"'}
    form = StructuredOutput(**{kind: forms.get(kind, {"const": text})})
    grammar = compiler.compile(form, STOPS)
    special = {token for token in range(SIZE) if compiler._vocabulary.is_special(token)}
    written = b""
    while not grammar.complete:
        (token, *others) = tokens_of(grammar.bitmask())
        assert not special & {token, *others}
        grammar.accept(token)
        written += compiler._vocabulary.of(token)
    assert written.decode() == (f'"{text}"' if kind == "json" else text)


@pytest.mark.parametrize("form", ["choice", "enum", "properties"])
def test_many_choices_are_fast(compiler, form):
    texts = [f"c{number}" for number in range(10_000)]
    schema = {f"p{number}": {"type": "string"} for number in range(500)}
    forms = {
        "choice": {"choice": texts},
        "enum": {"json": {"enum": texts[:5000]}},
        "properties": {"json": {"type": "object", "properties": schema}},
    }
    grammar = compiler.compile(StructuredOutput(**forms[form]), STOPS)
    text = {"choice": "c9999", "enum": '"c4999"', "properties": '{"p499":"x"}'}[form]
    start_time = time.thread_time()
    for token in compiler._vocabulary.tokenizer(text).input_ids:
        assert token in tokens_of(grammar.bitmask())
        grammar.accept(token)
    assert time.thread_time() - start_time < 0.5
    assert grammar.complete or 4 in tokens_of(grammar.bitmask())


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 99991},
        {"type": "integer", "allOf": [{"multipleOf": 997}, {"multipleOf": 991}]},
    ],
)
def test_grammar_with_too_many_states(compiler, schema):
    """Each would take 50 MB or more."""
    with pytest.raises(RequestError, match=r"needs too much memory|seconds to compile"):
        compiler.compile(StructuredOutput(json=schema), STOPS)


@pytest.mark.parametrize("number", [1, 5, 100, 250, 1024, 65536, 10**9, 0.01, 0.37])
def test_multiple_of(compiler, number):
    compiler.compile(StructuredOutput(json={"type": "number", "multipleOf": number}), STOPS)


@pytest.mark.parametrize("schema", [True, "true", {}])
def test_any_json_value(compiler, schema):
    grammar = compiler.compile(StructuredOutput(json=schema), STOPS)
    begins = compiler._vocabulary.tokenizer('{["1tfn').input_ids
    assert set(begins) <= set(tokens_of(grammar.bitmask()))


def test_choice_that_is_a_prefix_of_another(compiler):
    matcher = compiler.compile(StructuredOutput(choice=["a", "ab"]), STOPS)
    a, b = compiler._vocabulary.tokenizer("ab").input_ids
    assert tokens_of(matcher.bitmask()) == [a]
    matcher.accept(a)
    assert sorted(tokens_of(matcher.bitmask())) == sorted([b, *STOPS])


def test_grammars_are_compiled_one_at_a_time(compiler, monkeypatch):
    monkeypatch.setattr("mgm.engine.grammar.compiler.MAX_COMPILE_WAIT", 0.05)
    compiler.compile(StructuredOutput(regex="ab"), STOPS)
    with compiler._compiling:
        compiler.compile(StructuredOutput(regex="ab"), STOPS)  # a cached grammar
        compiler.compile(StructuredOutput(choice=["a", "b"]), STOPS)  # a fast compilation
        with pytest.raises(EngineBusyError, match="others were still being compiled"):
            compiler.compile(StructuredOutput(regex="ac"), STOPS)
    compiler.compile(StructuredOutput(regex="ac"), STOPS)


def test_failed_grammar_is_compiled_again(compiler, monkeypatch):
    """Requests with the same grammar share its lexer state."""
    monkeypatch.setitem(_JSON_LIMITS, "max_lexer_states", 100)
    form = StructuredOutput(regex="[ab]*a[ab]{20}c")
    text = "".join(random.Random(0).choices("ab", k=400))
    tokens = compiler._vocabulary.tokenizer(text).input_ids

    def write(grammar: Grammar, count: int) -> None:
        for token in tokens[:count]:
            grammar.bitmask()
            grammar.accept(token)

    first, second = (compiler.compile(form, STOPS) for _ in range(2))
    write(first, 4)
    with pytest.raises(MGMError, match="too many states"):
        write(second, 400)
    assert not compiler._compiled
    write(compiler.compile(form, STOPS), 4)
    assert len(compiler._compiled) == 1


def test_large_grammars_are_evicted_first(compiler):
    for number in range(9):
        compiler.compile(StructuredOutput(choice=[f"{number}" * 60_000]), STOPS)
    kept = [form for form, _ in compiler._compiled]
    assert len(kept) == MAX_COMPILED_LENGTH // 60_000
    assert '"888' in kept[-1]


def test_grammars_are_cached():
    compiler = GrammarCompiler(TokenBytes(byte_tokenizer()), 261)
    stops = frozenset({4})
    first = compiler.compile(StructuredOutput(choice=["ab", "ac"]), stops)
    assert len(compiler._compiled) == 1
    a = byte_tokenizer().convert_tokens_to_ids("a")
    first.accept(a)
    again = compiler.compile(StructuredOutput(choice=["ab", "ac"]), stops)
    assert len(compiler._compiled) == 1
    assert again.bitmask() != first.bitmask()  # it starts from its initial state
    for number in range(MAX_COMPILED + 3):
        compiler.compile(StructuredOutput(choice=[f"{number}"]), stops)
    assert len(compiler._compiled) == MAX_COMPILED


def test_missing_package(engine, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(MGMError, match=r"pip install 'mgm\[structured\]'"):
        engine.stream(request(StructuredOutput(choice=["a"])))


def test_additional_properties_are_forbidden(engine):
    form = StructuredOutput(
        json={"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]},
        disable_additional_properties=True,
        disable_any_whitespace=True,
    )
    assert engine.answer([request(form)])[0].text == '{"a":1}'


def test_sentencepiece_blanks():
    form = StructuredOutput(choice=[" Yes", " No"])
    assert nano().answer([request(form)])[0].text in (" Yes", " No")


@pytest.mark.parametrize("stops", ["none", "several"])
def test_stop_token_where_the_grammar_can_end(tmp_path, stops):
    """Also for vocabularies without a stop token."""
    engine = mgm.load(build(tmp_path / "model", endless=True), device="cpu")
    ids = frozenset() if stops == "none" else frozenset({4, 2})
    engine._preparer.prompts.stop_criteria = replace(
        engine._preparer.prompts.stop_criteria, token_ids=ids
    )
    requests = [request(StructuredOutput(regex="a{2,5}"), seed=seed) for seed in range(4)]
    for answer in engine.answer(requests):
        assert re.fullmatch("a{2,5}", answer.text)
        assert answer.finish_reason == "stop"
