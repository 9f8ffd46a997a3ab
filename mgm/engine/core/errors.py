"""Why a request gets no answer."""

from mgm.errors import MGMError


class RequestError(MGMError):
    """A field of a request has a value that cannot be used.

    Attributes:
        field: its name, as `Request` has it.
    """

    def __init__(self, message: object, field: str) -> None:
        super().__init__(message)
        self.field = field


class ContextLengthError(MGMError):
    """A prompt has more tokens than the model's context."""


class EngineBusyError(MGMError):
    """Other requests keep this one from being answered: a server's error 503, try again later."""


class GenerationError(MGMError):
    """An answer could not be written, and the request is not to blame: a server's error 500."""
