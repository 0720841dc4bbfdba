"""Reading images: any source a user may pass becomes upright H x W x 3 uint8 RGB, or one error that names it."""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias, cast

import numpy as np
from PIL import Image

from openglip.errors import ImageError, ImageNotFoundError
from openglip.files import FileSlice

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes] | FileSlice | Image.Image | np.ndarray | Tensor"

MAX_PIXELS = 89_478_485  # 268 MB as RGB; Pillow warns above it
# Pillow recognises these formats, but reads them not at all or only with another program.
_UNREADABLE_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_ORIENTATION = 0x0112
_TRANSPOSE_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations whose height and width are swapped
# What Pillow's decoders raise for damaged files, collected by feeding them such files.
_DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, RuntimeError),
    *(AttributeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)


def read_image(source: ImageSource, *, max_pixels: int | None = MAX_PIXELS) -> np.ndarray:
    """Read one image, upright as its EXIF tag says.

    Transparency is laid over white, 16-bit grey is scaled to 8 bits, and an animation gives its first frame.

    Args:
        source: A path, the bytes of a file, a file opened for reading bytes (read from its start; its position stays),
            a slice of a file, a PIL image, a numpy array H x W x 3 (or H x W, H x W x 4) uint8 RGB, or a tensor
            3 x H x W (uint8, or float in 0..1).
        max_pixels: Larger images are refused before they are decoded. None: only Pillow's own limit holds.

    Returns:
        H x W x 3 uint8 RGB.

    Raises:
        ImageError: The image can't be read or is too large; the message names it.
        ImageNotFoundError: There is no such file.
        DataError: The slice of a file can't be read.
    """
    name = describe(source)
    torch = sys.modules.get("torch")  # a tensor can't exist before torch was imported
    if torch is not None and isinstance(source, torch.Tensor):
        pixels = _from_tensor(cast("Tensor", source), name)
    elif isinstance(source, np.ndarray):
        pixels = _from_array(source, name)
    elif isinstance(source, Image.Image):
        pixels = _from_pil(source, name, max_pixels)
    else:
        pixels = _from_file(_file_of(source, name), name, max_pixels)
    _check_size(pixels.shape[1], pixels.shape[0], name, max_pixels)
    return pixels


def image_size(source: str | os.PathLike[str] | bytes | IO[bytes] | FileSlice) -> tuple[int, int]:
    """Upright (height, width) of an encoded image, from its header alone.

    Raises:
        ImageError: The header can't be read; the message names the image.
        DataError: The slice of a file can't be read.
    """
    name = describe(source)
    file = _file_of(source, name)
    try:
        with Image.open(file) as image:
            sideways = _orientation(image, name) in _SIDEWAYS
            return (image.width, image.height) if sideways else (image.height, image.width)
    except _DECODER_ERRORS as error:
        raise ImageError(f"{name}: can't read its size: {error}") from error


@cache
@cache
def image_suffixes() -> frozenset[str]:
    """The endings of the files that can be read as images, in lower case with their dot."""
    formats = Image.registered_extensions()
    return frozenset(s for s, name in formats.items() if name in Image.OPEN and name not in _UNREADABLE_FORMATS)


def is_one_image(source: object) -> bool:
    """Whether an object is one image, or else a collection of several.

    Raises:
        ImageError: The object is an array of four dimensions.
    """
    if getattr(source, "ndim", 0) == 4:
        raise ImageError(f"an array of shape {tuple(source.shape)} is not one image: give a list of images")  # type: ignore[attr-defined]
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return (
        isinstance(source, kinds)
        or hasattr(source, "ndim")
        or hasattr(source, "read")
        or not isinstance(source, Iterable)
    )


def describe(source: object) -> str:
    """A few words that name an image in messages: its path, or what kind of object it is."""
    if isinstance(source, (str, os.PathLike, FileSlice)):
        return str(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"image of {len(source)} bytes"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"PIL image {source.width} x {source.height}"
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return f"{type(source).__name__} of shape {tuple(source.shape)} and type {source.dtype}"  # type: ignore[attr-defined]
    if hasattr(source, "read"):
        return f"open file {getattr(source, 'name', '') or type(source).__name__}"
    return f"object of type {type(source).__name__}"


def _file_of(source: object, name: str) -> Path | io.BytesIO:
    """The path or the content of an encoded image."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        path = _existing_path(os.fspath(source))
        return io.BytesIO(path.read_bytes()) if path.is_fifo() else path
    if isinstance(source, FileSlice):
        return io.BytesIO(source.read())
    if hasattr(source, "read"):
        return io.BytesIO(_content_of(cast("IO[bytes]", source), name))
    raise ImageError(
        f"{name} is not an image: give a path, bytes, an open file, a PIL image, a numpy array or a tensor"
    )


def _content_of(file: IO[bytes], name: str) -> bytes:
    """All bytes of an open file; its position stays, so that it can be read again."""
    try:
        position = file.tell() if file.seekable() else None
        if position is not None:
            file.seek(0)
        content = file.read()
        if position is not None:
            file.seek(position)
    except (OSError, ValueError, AttributeError) as error:
        raise ImageError(f"{name}: can't be read: {error}") from error
    if not isinstance(content, bytes):
        raise ImageError(f"{name}: reads as {type(content).__name__}, not as bytes: open it with mode 'rb'")
    return content


def _existing_path(text: str) -> Path:
    if match := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://|data:image", text):
        scheme = match.group(1) or "data"
        advice = "give the plain path" if scheme == "file" else "download it and give the file's path or its bytes"
        raise ImageError(f"{text[:200]} is a URL ({scheme}); openglip reads no URLs: {advice}")
    if not text:
        raise ImageError("'' is not a path: it is empty")
    path = Path(text)
    try:
        if path.is_dir():
            raise ImageError(f"{text} is a folder, not an image: give the files in it")
        if not path.exists():
            raise ImageNotFoundError(f"{text}: no such file")
    except (ValueError, OSError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{text[:200]!r} is not a path: {error}") from error
    return path


def _from_file(file: Path | io.BytesIO, name: str, max_pixels: int | None) -> np.ndarray:
    size = file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes
    if size == 0:
        raise ImageError(f"{name}: the file is empty")
    try:
        with Image.open(file) as image:
            return _from_pil(image, name, max_pixels)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: more pixels than PIL.Image.MAX_IMAGE_PIXELS allows: make it smaller") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image that Pillow can read") from error
    except _DECODER_ERRORS as error:
        raise ImageError(f"{name}: can't be read, {type(error).__name__}: {error}") from error


def _from_pil(image: Image.Image, name: str, max_pixels: int | None) -> np.ndarray:
    _check_size(image.width, image.height, name, max_pixels)
    try:
        image.load()
        transpose = _TRANSPOSE_TO_UPRIGHT.get(_orientation(image, name))
        image = _to_rgb(image, name)
        return np.array(image.transpose(transpose) if transpose is not None else image)
    except ImageError:
        raise
    except _DECODER_ERRORS as error:
        raise ImageError(f"{name}: can't be read, {type(error).__name__}: {error}") from error


def _orientation(image: Image.Image, name: str) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except _DECODER_ERRORS as error:
        warnings.warn(f"{name}: damaged EXIF data, taken as upright ({error})", stacklevel=4)
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(np.asarray(image), name)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray, name: str) -> np.ndarray:
    """Grey values of 16 or 32 bits as 8 bits: integers range to 255 or to 65,535, floats to 1 or to 255."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(values).all() and low >= 0 and high <= 65_535):
        raise ImageError(f"{name}: grey values from {low} to {high}; scale them to 0..65535, or to 0..1 as floats")
    if values.dtype.kind == "f":
        if high > 255:
            raise ImageError(f"{name}: grey values from {low} to {high}; scale floats to 0..1")
        return np.rint(values * (255 if high <= 1 else 1)).astype(np.uint8)
    deep = values.dtype.itemsize == 2 or high > 255
    return np.rint(values / (257 if deep else 1)).astype(np.uint8)


def _from_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 4:
        raise ImageError(f"{name} holds several images: give a list of arrays H x W x 3")
    if array.dtype != np.uint8:
        raise ImageError(f"{name}: give uint8 RGB values from 0 to 255")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = ": transpose(1, 2, 0) makes it so" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise ImageError(f"{name} is not H x W x 3{hint}")
    if array.size == 0:
        raise ImageError(f"{name} has no pixels")
    if array.ndim == 3 and array.shape[2] == 3:
        return np.ascontiguousarray(array)
    return np.array(_to_rgb(Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array), name))


def _from_tensor(tensor: Tensor, name: str) -> np.ndarray:
    if tensor.ndim == 4:
        raise ImageError(f"{name} holds several images: give a list of tensors 3 x H x W")
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ImageError(f"{name} is not 3 x H x W")
    values = tensor.detach().cpu()
    if values.is_floating_point():
        values = values.float()
        if values.numel() and not bool(((values >= 0) & (values <= 1)).all()):  # false for NaN too
            low, high = float(values.min()), float(values.max())
            raise ImageError(f"{name} has values from {low:g} to {high:g}: floats must be in 0..1 (not normalised)")
        values = (values * 255).round().byte()
    return _from_array(np.ascontiguousarray(values.numpy().transpose(1, 2, 0)), name)


def _check_size(width: int, height: int, name: str, max_pixels: int | None) -> None:
    if width == 0 or height == 0:
        raise ImageError(f"{name} has no pixels ({width} x {height})")
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(
            f"{name} has {width} x {height} pixels, over the limit of {max_pixels:,}: cut it into tiles or make it "
            "smaller"
        )
