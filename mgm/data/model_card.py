"""Model card: the README.md of a model folder for the hub."""

import json

from mgm.data.processing_mgm import MGMProcessor
from mgm.model.configuration_mgm import MGMConfig

_CARD = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [mini-gemini, mgm, vision-language]
---
# {name}

A Mini-Gemini ([paper](https://arxiv.org/abs/2403.18814)): a low-resolution ViT whose tokens mine a
high-resolution ConvNeXt map, in front of a language model.

| part | what |
|---|---|
| language model | {text} |
| low-resolution tower | {vision} |
| high-resolution tower | {aux} |
| fusion of both | {fusion} |
| image tokens | {tokens} for each image |
| conversation template | `{conversation}` |
| saved in | {dtype} |

```python
import mgm

engine = mgm.load("{name}")
print(engine.answer([mgm.Request("What is this?", images=["picture.png"])])[0].text)
```

With transformers alone, after `import mgm`:

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{name}")
processor = AutoProcessor.from_pretrained("{name}")
```
"""


def model_card(name: str, config: MGMConfig, processor: MGMProcessor) -> str:
    """A model card in Markdown.

    Args:
        name: name of the folder or repository.
        config: config of the model.
        processor: processor of the model.
    """
    text, vision, aux = config.text_config, config.vision_config, config.vision_aux_config
    layout = f", {config.crops} views of each image" if config.crops > 1 else ""
    return _CARD.format(
        name=name,
        text=f"{text.model_type}, {text.num_hidden_layers} layers of width {text.hidden_size}",
        vision=f"{vision.num_hidden_layers} layers of width {vision.hidden_size}, patches of "
        f"{vision.patch_size} in {config.image_size} pixels{layout}",
        aux="none"
        if aux is None
        else f"ConvNeXt of widths {aux.dims} at {config.image_size_aux} pixels",
        fusion=_fusion(config),
        tokens=config.image_tokens_per_image,
        conversation=processor.conversation,
        dtype=str(config.dtype).removeprefix("torch."),
    )


def _fusion(config: MGMConfig) -> str:
    changed = config.fusion.to_json()
    if changed:
        return f"`{json.dumps(changed)}`"
    return "none" if config.vision_aux_config is None else "patch info mining"
