"""The language model's config: any causal language model of transformers."""

from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mgm.errors import MGMError
from mgm.model.config_checks.rules import check_text_config
from mgm.model.files.json_fields import shown


def text_config_from(given: dict[str, Any] | PretrainedConfig | None) -> PretrainedConfig:
    """Build the language model's config from a dictionary.

    Raises:
        MGMError: transformers knows no such `model_type`.
    """
    if isinstance(given, PretrainedConfig):
        return given
    values: dict[str, Any] = dict(given or {"model_type": "llama"})
    check_text_config(values, "text_config.")
    model_type = values.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise MGMError(
            f"config: text_config.model_type is {shown(model_type)}, which transformers does not "
            "know; valid: a causal one such as llama, gemma, mixtral, mistral, qwen3 or phi3"
        )
    # Compat: transformers turns Gemma's exact gelu into the tanh approximation, but the published
    # Gemma models were trained and evaluated with the exact one. So it is set afterwards.
    activation = values.pop("hidden_act", None)
    config = CONFIG_MAPPING[model_type](**values)
    if activation is not None:
        config.hidden_act = activation
    return config
