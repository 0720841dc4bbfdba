from __future__ import annotations

import contextlib
import io
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openglip.errors import ImageError, ImageNotFoundError
from openglip.files import FileSlice
from openglip.images.read import image_size, image_suffixes, is_one_image, read_image


@pytest.fixture
def picture() -> np.ndarray:
    y, x = np.mgrid[0:40, 0:60]
    return np.stack([x * 4, y * 6, (x + y) * 2], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def test_every_kind_of_source_gives_the_same_pixels(picture: np.ndarray, tmp_path: Path) -> None:
    image = Image.fromarray(picture)
    path = tmp_path / "a picture.png"
    image.save(path)
    tensor = torch.from_numpy(picture.transpose(2, 0, 1).copy())
    content = b"before" + path.read_bytes() + b"after"
    (tmp_path / "archive").write_bytes(content)
    part = FileSlice(str(tmp_path / "archive"), 6, len(content) - 11)
    files = (io.BytesIO(path.read_bytes()), path.open("rb"))
    for source in (
        path,
        str(path),
        path.read_bytes(),
        bytearray(path.read_bytes()),
        part,
        *files,
        image,
        picture,
        tensor,
    ):
        pixels = read_image(source)  # type: ignore[arg-type]
        np.testing.assert_array_equal(pixels, picture)
        assert pixels.flags["C_CONTIGUOUS"]
        assert is_one_image(source)
    np.testing.assert_array_equal(read_image(files[0]), picture)  # its position stays
    np.testing.assert_array_equal(read_image(tensor.float() / 255), picture)
    np.testing.assert_array_equal(read_image(picture[:, ::-1]), picture[:, ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(picture: np.ndarray, orientation: int) -> None:
    upright = Image.fromarray(picture)
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, "PNG", exif=exif)
    np.testing.assert_array_equal(read_image(content), picture)
    assert image_size(content) == (40, 60)


def test_transparency_is_laid_over_white(picture: np.ndarray) -> None:
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:20] = 255
    rgba = Image.fromarray(np.dstack([picture, alpha]))
    for source in (encoded(rgba, "PNG"), rgba, np.asarray(rgba)):
        pixels = read_image(source)
        np.testing.assert_array_equal(pixels[:20], picture[:20])
        assert (pixels[20:] == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((0, 0), 1)
    assert read_image(encoded(palette, "PNG"))[0, 0].tolist() == [200, 100, 50]
    pixels = read_image(encoded(palette, "PNG", transparency=0))
    assert pixels[0, 0].tolist() == [200, 100, 50]
    assert pixels[1, 1].tolist() == [255, 255, 255]


def test_deep_grey_cmyk_and_bilevel(picture: np.ndarray) -> None:
    grey = np.linspace(0, 65535, 60).round().astype(np.uint16)[None].repeat(5, 0)
    for format in ("PNG", "TIFF"):
        pixels = read_image(encoded(Image.fromarray(grey), format))
        np.testing.assert_array_equal(pixels[:, :, 0], np.rint(grey / 257))
    dark = (grey // 4096).astype(np.uint16)  # a 16-bit file stays 16-bit, however dark
    assert read_image(encoded(Image.fromarray(dark), "TIFF")).max() == 0
    floats = Image.fromarray(np.linspace(0, 1, 60, dtype=np.float32)[None].repeat(3, 0))
    assert read_image(encoded(floats, "TIFF"))[0, -1].tolist() == [255, 255, 255]
    cmyk = read_image(encoded(Image.fromarray(picture).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(cmyk.astype(int) - picture).mean() < 12
    assert read_image(Image.new("1", (3, 2), 1)).tolist() == [[[255] * 3] * 3] * 2
    assert read_image(picture[:, :, 0]).shape == read_image(picture[:, :, :1]).shape == (40, 60, 3)


def test_thin_and_animated(picture: np.ndarray) -> None:
    assert read_image(picture[:1]).shape == (1, 60, 3)
    assert read_image(encoded(Image.fromarray(picture[:, :1]), "PNG")).shape == (40, 1, 3)
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_image(animation)[0, 0].tolist() == [255, 0, 0]


def closed_file() -> io.BytesIO:
    file = io.BytesIO(b"")
    file.close()
    return file


BAD = {
    "missing": ("no/such/file.jpg", "no/such/file.jpg: no such file"),
    "url": ("https://example.org/cat.jpg", "is a URL .*download it"),
    "file url": ("file:///tmp/cat.jpg", "give the plain path"),
    "nul": ("a\0b.jpg", "is not a path|no such file"),
    "text": (b"hello, this is no image", "image of 23 bytes: not an image"),
    "empty bytes": (b"", "empty"),
    "text file": (io.StringIO("cat"), "open file StringIO: reads as str.*mode 'rb'"),
    "closed file": (closed_file(), "open file BytesIO: can't be read"),
    "number": (3, "object of type int is not an image"),
    "list": ([np.zeros((2, 2, 3), np.uint8)], "object of type list"),
    "batch": (np.zeros((1, 2, 2, 3), np.uint8), "give a list"),
    "tensor batch": (torch.zeros(1, 3, 2, 2), "give a list"),
    "float array": (np.zeros((2, 2, 3)), "uint8"),
    "channels first": (np.zeros((3, 9, 9), np.uint8), "transpose"),
    "no pixels": (np.zeros((0, 5, 3), np.uint8), "no pixels"),
    "normalised tensor": (torch.full((3, 2, 2), -1.0), "from -1 to -1.*0..1"),
    "nan tensor": (torch.full((3, 2, 2), float("nan")), "0..1"),
    "grey tensor": (torch.zeros(1, 4, 4), "not 3 x H x W"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_image_is_named(case: str) -> None:
    source, message = BAD[case]
    with pytest.raises(ImageError, match=message):
        read_image(source)  # type: ignore[arg-type]


def test_one_image_or_several() -> None:
    assert not is_one_image(["a.jpg"])
    assert not is_one_image(iter(()))
    assert is_one_image(3)  # it is no image, and read_image says so
    with pytest.raises(ImageError, match=r"shape \(1, 2, 2, 3\) is not one image"):
        is_one_image(np.zeros((1, 2, 2, 3), np.uint8))


def test_bad_files(tmp_path: Path, picture: np.ndarray) -> None:
    with pytest.raises(ImageNotFoundError):
        read_image(tmp_path / "no.png")
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "no.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(encoded(Image.fromarray(picture), "JPEG")[:-200])
    with pytest.raises(ImageError, match=r"cut\.jpg: can't be read"):
        read_image(cut)
    closed = Image.open(io.BytesIO(encoded(Image.fromarray(picture), "PNG")))
    closed.close()
    with pytest.raises(ImageError):
        read_image(closed)


def test_very_large_images_are_refused_before_they_are_decoded() -> None:
    source = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(ImageError, match="pixels"):
        read_image(source)
    with pytest.raises(ImageError, match=r"PIL\.Image\.MAX_IMAGE_PIXELS"):
        read_image(source, max_pixels=None)
    with pytest.raises(ImageError, match=r"100 x 100 pixels, over the limit of 9,999"):
        read_image(np.zeros((100, 100, 3), np.uint8), max_pixels=9_999)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_damaged_files_give_pixels_or_an_image_error(picture: np.ndarray, format: str) -> None:
    whole = encoded(Image.fromarray(picture), format)
    generator = random.Random(5)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 6)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        if generator.random() < 0.3:
            del damaged[generator.randrange(len(damaged)) :]
        with contextlib.suppress(ImageError):
            assert read_image(bytes(damaged)).shape[2] == 3


def test_an_empty_path_is_refused_as_such() -> None:
    with pytest.raises(ImageError, match=r"^'' is not a path: it is empty"):
        read_image("")


@pytest.mark.skipif(os.name != "posix", reason="a pipe of POSIX")
def test_an_image_through_a_named_pipe(picture: np.ndarray, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        pool.submit((tmp_path / "pipe").write_bytes, file.getvalue())
        assert np.array_equal(read_image(tmp_path / "pipe"), picture)


def test_every_suffix_is_of_a_format_that_can_be_read() -> None:
    assert {
        ".jpg",
        ".jpeg",
        ".jfif",
        ".jpe",
        ".png",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".gif",
        ".jp2",
    } <= image_suffixes()
    assert not {".pdf", ".mpg", ".eps", ".txt", ".mp4"} & image_suffixes()
