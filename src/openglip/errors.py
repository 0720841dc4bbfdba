"""Errors of the public interface; each also derives from the built-in that fits."""


class OpenGLIPError(Exception):
    """Base of every error that openglip raises on purpose."""


class ImageError(OpenGLIPError, ValueError):
    """An image can't be read or is out of bounds; the message names it."""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """There is no such image file."""


class PromptError(OpenGLIPError, ValueError):
    """Words can't become a prompt; the message names the word and its position."""


class WeightsError(OpenGLIPError, ValueError):
    """A checkpoint is damaged or of another model; the message names the file and its keys."""


class WeightsNotFoundError(WeightsError, FileNotFoundError):
    """There is no such checkpoint; the message says which file to put where."""


class DataError(OpenGLIPError, ValueError):
    """Annotations or predictions can't be used; the message names the file and the id."""


class ConfigError(OpenGLIPError, ValueError):
    """A setting does not exist or is out of range; the message names the nearest one."""


class TrainingError(OpenGLIPError, ArithmeticError):
    """The loss is no longer finite; the message names the term and the batch."""


class MissingExtraError(OpenGLIPError, ImportError):
    """An optional package is missing; the message holds the command that installs it.

    Args:
        package: The missing package.
        extra: The extra of openglip that requires it.
        purpose: What needs it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'openglip[{extra}]'")
