"""Every flag has a policy for resumed runs."""

from collections import Counter
from dataclasses import fields

from mgm.train.args.arguments import DataArguments, ModelArguments, TrainingArguments
from mgm.train.args.validation import UNSUPPORTED_FLAGS
from mgm.train.checkpointing import flag_policy
from mgm.train.checkpointing.flag_policy import CONFIG_FLAGS, FLAG_POLICIES, Policy

FLAGS = {
    entry.name
    for kind in (ModelArguments, DataArguments, TrainingArguments)
    for entry in fields(kind)
}


def test_every_flag_has_a_policy():
    assert FLAGS - FLAG_POLICIES.keys() == set()


def test_no_flag_has_two_policies():
    lists = (flag_policy._REFUSE, flag_policy._CONTENT, flag_policy._LENGTH, flag_policy._LOG)
    names = [name for text in (*lists, flag_policy._IGNORE) for name in text.split()]
    assert {
        name
        for name, count in Counter([*names, *UNSUPPORTED_FLAGS, *CONFIG_FLAGS]).items()
        if count > 1
    } == set()


def test_flags_that_affect_weights_cannot_change():
    for name in ("learning_rate", "lr_scheduler_type", "weight_decay", "bf16", "lora_r", "seed"):
        assert FLAG_POLICIES[name] is Policy.REFUSE
