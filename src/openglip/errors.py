"""Errors of the public interface; each also derives from the built-in that fits."""


class OpenGLIPError(Exception):
    """Base of every error that openglip raises on purpose."""


class ImageError(OpenGLIPError, ValueError):
    """An image that can't be read or is out of bounds; names the image."""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """An image file that is not there."""


class PromptError(OpenGLIPError, ValueError):
    """Words that can't become a prompt; names the word and its position."""


class WeightsError(OpenGLIPError, ValueError):
    """A checkpoint that is missing, damaged or of another model; names file and keys."""


class WeightsNotFoundError(WeightsError, FileNotFoundError):
    """A checkpoint that is not there; says which file to put where."""


class DataError(OpenGLIPError, ValueError):
    """Annotations or predictions that can't be used; names file and id."""


class ConfigError(OpenGLIPError, ValueError):
    """A setting that does not exist or is out of range; names the nearest one."""


class MissingExtraError(OpenGLIPError, ImportError):
    """An optional package is missing; the message holds its pip line."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'openglip[{extra}]'")
