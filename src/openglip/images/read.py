"""Any image that a user may hand over becomes H x W x 3 uint8 RGB, upright; what can't be read is one clear error."""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
from PIL import Image

from openglip.errors import ImageError, ImageNotFoundError

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor"

MAX_PIXELS = 89_478_485  # 268 MB as RGB; Pillow warns above it
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# what Pillow's decoders raise on damaged files, found by feeding them damaged files
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    AttributeError,
    struct.error,
    zlib.error,
    MemoryError,
    Image.DecompressionBombError,
)


def read_image(source: ImageSource, *, max_pixels: int | None = MAX_PIXELS) -> np.ndarray:
    """Read one image as H x W x 3 uint8 RGB, turned upright by its EXIF tag.

    source: a path, the bytes of a file, a PIL image, a numpy array H x W x 3 (or H x W, H x W x 4) uint8 RGB, or a
    tensor 3 x H x W (uint8, or float in 0..1). Transparency is laid over white, 16-bit grey is scaled to 8 bits, of an
    animation the first frame is taken. max_pixels: larger images are refused; None: only Pillow's own limit holds.
    Raises ImageError (ImageNotFoundError for a missing file) that names the image.
    """
    name = describe(source)
    torch = sys.modules.get("torch")  # a tensor can't exist before torch was imported
    if torch is not None and isinstance(source, torch.Tensor):
        pixels = _from_tensor(cast("Tensor", source), name)
    elif isinstance(source, np.ndarray):
        pixels = _from_array(source, name)
    elif isinstance(source, Image.Image):
        pixels = _from_pil(source, name, max_pixels)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        pixels = _from_file(io.BytesIO(source), name, max_pixels)
    elif isinstance(source, (str, os.PathLike)):
        pixels = _from_file(_existing_path(os.fspath(source)), name, max_pixels)
    else:
        raise ImageError(f"{name} is not an image: give a path, bytes, a PIL image, a numpy array or a tensor")
    _check_size(pixels.shape[1], pixels.shape[0], name, max_pixels)
    return pixels


def describe(source: object) -> str:
    """A few words that name an image in messages: its path, or what kind of object it is."""
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"image of {len(source)} bytes"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"PIL image {source.width} x {source.height}"
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return f"{type(source).__name__} of shape {tuple(source.shape)} and type {source.dtype}"  # type: ignore[attr-defined]
    return f"object of type {type(source).__name__}"


def _existing_path(text: str) -> Path:
    if match := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://|data:image", text):
        scheme = match.group(1) or "data"
        advice = "give the plain path" if scheme == "file" else "download it and give the file's path or its bytes"
        raise ImageError(f"{text[:200]} is a URL ({scheme}); openglip reads no URLs: {advice}")
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
    except DAMAGE as error:
        raise ImageError(f"{name}: can't be read, {type(error).__name__}: {error}") from error


def _from_pil(image: Image.Image, name: str, max_pixels: int | None) -> np.ndarray:
    _check_size(image.width, image.height, name, max_pixels)
    try:
        image.load()
        turn = _UPRIGHT.get(_orientation(image, name))
        image = _to_rgb(image, name)
        return np.array(image.transpose(turn) if turn is not None else image)
    except ImageError:
        raise
    except DAMAGE as error:
        raise ImageError(f"{name}: can't be read, {type(error).__name__}: {error}") from error


def lies_on_its_side(image: Image.Image) -> bool:
    """Whether height and width change places when an opened image is turned upright."""
    return _orientation(image, describe(image)) in (5, 6, 7, 8)


def _orientation(image: Image.Image, name: str) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except DAMAGE as error:
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
    """Grey values of 16 or 32 bits: integers above 255 count to 65,535, floats to 1 or to 255."""
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
