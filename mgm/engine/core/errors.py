"""Errors of requests: invalid field, prompt too long, engine busy, generation failed."""

from mgm.errors import MGMError


class RequestError(MGMError):
    """A field of a request has an invalid value.

    Attributes:
        field: name of the field in `Request`.
    """

    def __init__(self, message: object, field: str) -> None:
        super().__init__(message)
        self.field = field


class ContextLengthError(MGMError):
    """A prompt is longer than the model's context length."""


class EngineBusyError(MGMError):
    """Other requests keep the engine busy; servers answer HTTP 503, and clients may retry."""


class GenerationError(MGMError):
    """Generation failed, and not because of the request; servers answer HTTP 500."""
