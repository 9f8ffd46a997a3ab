"""`MGMProcessor`: tokenizer, image processor, conversation template and image token expansion."""

import os
from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from mgm.data.image_processing_mgm import MGMImageProcessor, check_tensor_kind
from mgm.data.images.loading import ImageSource
from mgm.data.processor_inputs import (
    check_image_counts,
    check_max_length,
    flatten_options,
    group_images,
    image_count_error,
    padded_length,
)
from mgm.data.processor_loading import read_processor
from mgm.data.text.conversation import Segment, Turn, build_prompt, number_images
from mgm.data.text.encoding import encode
from mgm.data.text.jinja import chat_template as jinja_source
from mgm.data.text.padding import attention_mask, check_side, pad_rows
from mgm.data.text.templates import IMAGE_MARKER, get_template
from mgm.data.text.tokenizer import add_image_token, image_token_id_of
from mgm.errors import MGMError


class MGMProcessor(ProcessorMixin):
    """transformers processor of one model: tokenizer, image processor and conversation template.

    Args:
        image_processor: preprocesses images.
        tokenizer: tokenizer from `load_tokenizer`; the token `<image>` is added if missing.
        conversation: name of the conversation template, see `mgm.data.text.templates`.
        image_token_id: the token id at image positions; default: that of `<image>`.
        patch_size: pixels per side of an image position: of a ViT patch, or of several where
            `FusionConfig.token_pooling` makes one token of them.
        wrap_images: whether prompts have `<im_start>` and `<im_end>` around images.
        chat_template: Jinja source of the chat template; default: generated from the conversation
            template.
        padding_side: side on which calls pad shorter texts: "left", as generation needs, or
            "right". It sets the tokenizer's `padding_side`, which may be changed later.

    Raises:
        MGMError: unknown template, or invalid patch size.
    """

    def __init__(
        self,
        image_processor: MGMImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        conversation: str = "vicuna_v1",
        image_token_id: int | None = None,
        patch_size: int = 14,
        wrap_images: bool = False,
        chat_template: str | None = None,
        padding_side: str = "left",
    ) -> None:
        if type(patch_size) is not int or patch_size < 1:
            raise MGMError(f"patch_size is {patch_size!r}; give a whole number from 1")
        check_side(padding_side)
        tokenizer.padding_side = padding_side
        add_image_token(tokenizer)
        if image_token_id is None:
            image_token_id = image_token_id_of(tokenizer)
        self.conversation = conversation
        self.image_token_id = image_token_id
        self.patch_size = patch_size
        self.wrap_images = wrap_images
        self.template = get_template(conversation, wrap_images)
        if chat_template is None:
            chat_template = jinja_source(self.template)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_pretrained(  # ty: ignore[incompatible-method-override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> "MGMProcessor":
        """The processor of a model folder, native or in the published layout.

        Args:
            pretrained_model_name_or_path: a folder, or a name on the Hugging Face hub.
            **kwargs: arguments of the class, which override those of the folder; `base`, the base
                model of a stage-1 or LoRA folder; and options of hub downloads (`revision`,
                `cache_dir`, `token`, `local_files_only`).

        Raises:
            MGMError: the folder does not exist, or a file in it is missing or broken.
        """
        return cls(**read_processor(pretrained_model_name_or_path, kwargs))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Write tokenizer, settings and chat template into a folder."""
        written = super().save_pretrained(save_directory, push_to_hub, **kwargs)
        # transformers saves the image settings in processor_config.json; servers read this file.
        return [*written, *self.image_processor.save_pretrained(save_directory)]

    @property
    def image_token(self) -> str:
        """The marker of an image in a prompt."""
        return IMAGE_MARKER

    @property
    def image_tokens_per_image(self) -> int:
        """Number of image tokens that an image marker is expanded to."""
        return (
            self.image_processor.image_size // self.patch_size
        ) ** 2 * self.image_processor.crops

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call returns."""
        return ["input_ids", "attention_mask", "pixel_values", "pixel_values_aux"]

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | Sequence[Sequence[ImageSource]] | None = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = "pt",
        padding: bool | str = True,
        padding_side: str | None = None,
        max_length: int | None = None,
        truncation: bool | str | None = False,
        add_special_tokens: bool = True,
        do_normalize: bool | None = None,
        videos: None = None,
        audio: None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Preprocess a batch of texts and images.

        Args:
            images: the images in the order of their markers, in one list or in a list per text.
            text: prompts with the conversation template applied, with `<image>` markers.
            return_tensors: "pt" for torch tensors, "np" for arrays, None for lists of token ids
                (images are tensors).
            padding: True or "longest": shorter texts are padded to the longest; "max_length": all
                texts to `max_length`; False or "do_not_pad": none.
            padding_side: "left" or "right"; None: the tokenizer's.
            max_length: length of all rows with padding="max_length"; the maximum with truncation.
            truncation: not supported, since images must stay whole: if True, a text longer than
                `max_length` is an error.
            add_special_tokens: whether to prepend the tokenizer's beginning-of-sequence token.
            do_normalize: as for the image processor; False: images stay in uint8.
            videos: must be None; the model has no video input.
            audio: must be None; the model has no audio input.
            **kwargs: the same options in transformers' groups: `text_kwargs`, `images_kwargs`,
                `common_kwargs`.

        Returns:
            `input_ids` and `attention_mask` (batch, length) with every marker expanded to
            `image_tokens_per_image` positions; with images also the image processor's tensors:
            `pixel_values` (images, crops, 3, S, S) and `pixel_values_aux` (images, 3, A, A).

        Raises:
            MGMError: the numbers of markers and images differ, an image cannot be opened, or an
                option is not supported.
        """
        if videos is not None or audio is not None:
            raise MGMError("the model takes text and images, no videos or audio")
        if kwargs:
            options: dict[str, Any] = {
                "return_tensors": return_tensors,
                "padding": padding,
                "padding_side": padding_side,
                "max_length": max_length,
                "truncation": truncation,
                "add_special_tokens": add_special_tokens,
                "do_normalize": do_normalize,
            }
            return self(images, text, **(options | flatten_options(kwargs, options)))
        check_tensor_kind(return_tensors)
        groups = group_images(images)
        features = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            check_image_counts(texts, groups)
            rows = [self.encode(one, add_special_tokens) for one in texts]
            if truncation not in (False, None, "do_not_truncate"):
                check_max_length(rows, max_length)
                max_length = max_length if padding == "max_length" else None
            length = padded_length(rows, padding, max_length)
            side = padding_side or self.tokenizer.padding_side
            features = self._pad(rows, return_tensors, length, side)
        if flat := [image for group in groups for image in group]:
            features |= self.image_processor(
                flat, return_tensors=return_tensors, do_normalize=do_normalize
            )
        return BatchFeature(features)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of one prompt, with image token expansion."""
        return self.encode_segments([Segment(text)], add_special_tokens)[0]

    def encode_segments(
        self, segments: Sequence[Segment], add_special_tokens: bool = True
    ) -> tuple[list[int], list[int]]:
        """Token ids and labels of a sample's segments, with image token expansion."""
        return encode(
            segments,
            self.tokenizer,
            self.image_token_id,
            self.image_tokens_per_image,
            add_special_tokens,
        )

    def prompt(
        self,
        question: str,
        history: Sequence[tuple[str, str]] = (),
        images: int | None = None,
        system: str | None = None,
        conversation: str | None = None,
    ) -> str:
        """The prompt for `question`, with the conversation template applied.

        Image markers in `history` and `question` keep their positions; without any, all images
        precede the first question, on one line each. Two or more images are numbered if the
        template numbers images.

        Args:
            question: the user's last message.
            history: earlier questions with their answers.
            images: number of images; None: the number of markers.
            system: replaces the template's system prompt.
            conversation: name of another conversation template to use.

        Raises:
            MGMError: the numbers of markers and images differ.
        """
        turns: list[Turn] = [*history, (question, None)]
        markers = sum(text.count(IMAGE_MARKER) for text, _ in turns)
        if images and not markers:
            (first, answer), *rest = turns
            turns = [(f"{IMAGE_MARKER}\n" * images + first, answer), *rest]
        elif images is not None and images != markers:
            raise image_count_error("the conversation", markers, images)
        template = self.template
        if conversation is not None:
            template = get_template(conversation, self.wrap_images)
        text = build_prompt(template, [*template.examples, *turns], system)
        return number_images(text) if template.numbers_images else text

    def _pad(
        self, rows: list[list[int]], return_tensors: str | None, length: int, side: str
    ) -> dict[str, Any]:
        """`input_ids` and `attention_mask` of rows of token ids; length 0: no padding."""
        lengths = [len(row) for row in rows]
        if not length and return_tensors is None:
            return {"input_ids": rows, "attention_mask": [[1] * count for count in lengths]}
        if not length and len(set(lengths)) > 1:
            raise MGMError(
                f"texts of {min(lengths)} to {max(lengths)} tokens do not fit in one tensor; "
                "set padding=True"
            )
        ids = pad_rows(rows, self.tokenizer.pad_token_id or 0, side, length)
        mask = attention_mask(lengths, side, length)
        if return_tensors is None:
            return {"input_ids": ids.tolist(), "attention_mask": mask.tolist()}
        if return_tensors == "np":
            return {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        return {"input_ids": ids, "attention_mask": mask}
