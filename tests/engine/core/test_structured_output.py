import pytest

from mgm import MGMError, Request
from mgm.engine.core.structured_output import StructuredOutput


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({}, "give one of json, json_object, regex, choice, grammar; got none"),
        ({"regex": "a", "choice": ["b"]}, "got regex and choice"),
        ({"json": "{"}, "json is not a JSON schema"),
        ({"json": [1]}, "json is .1.; give a JSON schema"),
        ({"json": {"enum": [float("nan")]}}, "json is not a JSON schema"),
        ({"json": {"a": {1, 2}}}, "json is not a JSON schema"),
        ({"regex": 3}, "regex is 3; give a non-empty string"),
        ({"grammar": ""}, "grammar is ''; give a non-empty string"),
        ({"choice": []}, "choice is"),
        ({"choice": "ab"}, "choice is 'ab'; give a list"),
        ({"choice": ["a", ""]}, "choice is"),
        ({"json_object": 1}, "json_object is 1; give True or False"),
        ({"regex": "a" * 70000}, "regex has 70000 characters"),
        ({"regex": "\ud800"}, "regex has a lone surrogate"),
    ],
)
def test_invalid_definitions(form, message):
    with pytest.raises(MGMError, match=message) as caught:
        StructuredOutput(**form)
    assert "\n" not in str(caught.value)


def test_equal_schemas_have_equal_keys():
    schema = {"type": "integer"}
    assert StructuredOutput(json=schema).key == StructuredOutput(json='{"type": "integer"}').key
    assert StructuredOutput(json=schema).key != StructuredOutput(regex="a").key
    assert StructuredOutput(json=schema).kind == "json"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"structured_output": "json"}, "structured_output is 'json'; give a StructuredOutput"),
        ({"presence_penalty": 2.1}, "presence_penalty is 2.1; give from -2 to 2"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty is nan"),
        ({"logit_bias": [1]}, "logit_bias is .1.; give biases by token id"),
        ({"logit_bias": {"1": 2}}, "logit_bias is {'1': 2}; give token ids"),
        ({"logit_bias": {1: 101}}, "logit_bias is {1: 101}; give token ids, and biases from"),
        ({"num_beams": 2, "presence_penalty": 1.0}, "leave presence_penalty out"),
        ({"num_beams": 2, "logit_bias": {1: 1}, "logprobs": 0}, "leave logit_bias and logprobs"),
        (
            {"num_beams": 2, "structured_output": StructuredOutput(regex="a")},
            "leave structured_output out",
        ),
    ],
)
def test_invalid_requests(wrong, message):
    with pytest.raises(MGMError, match=message):
        Request("hi", **wrong)
