import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from moontune.errors import ImageInvalid, ImageTooLarge
from moontune.imaging.decode import ImageInfo, ImageLimits, decode_image, inspect_image

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def half_and_half(width: int = 8, height: int = 4) -> Image.Image:
    """Left red, right blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize(("form", "media"), [("PNG", "image/png"), ("WEBP", "image/webp"), ("JPEG", "image/jpeg")])
def test_formats(form: str, media: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    data = encoded(half_and_half(16, 8), form, **options)
    assert inspect_image(data) == ImageInfo(media, 16, 8)
    pixels = decode_image(data)
    assert (pixels.shape, pixels.dtype) == ((8, 16, 3), np.uint8)
    np.testing.assert_allclose(pixels[4, 2], RED, atol=6)
    np.testing.assert_allclose(pixels[4, 13], BLUE, atol=6)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    pixels = decode_image(encoded(half_and_half(), "PNG", exif=exif))
    assert pixels.shape == (8, 4, 3)
    assert tuple(pixels[0, 0]) == RED
    assert tuple(pixels[-1, 0]) == BLUE
    assert inspect_image(encoded(half_and_half(), "PNG", exif=exif)).width == 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, on the way to ignoring it
def test_damaged_exif_counts_as_none() -> None:
    data = encoded(half_and_half(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert decode_image(data).shape == (4, 8, 3)


def test_transparency_is_laid_over_white() -> None:
    image = Image.new("RGBA", (4, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    pixels = decode_image(encoded(image))
    assert [tuple(pixel) for pixel in pixels[0, :3]] == [RED, WHITE, (127, 127, 127)]
    grey = Image.new("LA", (1, 1), (9, 0))
    assert tuple(decode_image(encoded(grey))[0, 0]) == WHITE


def test_palettes_with_and_without_transparency() -> None:
    image = half_and_half().quantize(4)
    assert tuple(decode_image(encoded(image))[0, 0]) == RED
    transparent = Image.new("P", (2, 1))
    transparent.putpalette([*RED, *BLUE])
    transparent.putpixel((1, 0), 1)
    pixels = decode_image(encoded(transparent, transparency=0))
    assert [tuple(pixel) for pixel in pixels[0]] == [WHITE, BLUE]


def test_sixteen_bits_keep_their_high_byte() -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    pixels = decode_image(encoded(Image.fromarray(values)))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_one_bit_grey_and_cmyk() -> None:
    assert tuple(decode_image(encoded(Image.new("1", (2, 2), 1)))[0, 0]) == WHITE
    assert tuple(decode_image(encoded(Image.new("L", (2, 2), 77)))[0, 0]) == (77, 77, 77)
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    np.testing.assert_allclose(decode_image(encoded(cmyk, "JPEG", quality=95))[4, 4], RED, atol=6)


def test_a_jpeg_with_further_pictures_is_a_jpeg() -> None:
    data = encoded(half_and_half(16, 8), "MPO", save_all=True, append_images=[half_and_half(16, 8)], quality=95)
    assert inspect_image(data) == ImageInfo("image/jpeg", 16, 8)
    np.testing.assert_allclose(decode_image(data)[4, 2], RED, atol=6)


def test_an_animation_counts_as_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert tuple(decode_image(data)[0, 0]) == RED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage that is no image",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a" + b"\0" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(half_and_half(64, 64))[:-40],
        encoded(half_and_half(64, 64), "JPEG")[:300],
        png_header(0, 5),
        png_header(100, 100),
    ],
    ids=["empty", "garbage", "png magic", "jpeg magic", "gif", "svg", "cut png", "cut jpeg", "zero width", "no pixels"],
)
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ImageInvalid, match=r"request\.image is '.*; allowed: "):
        decode_image(data, "request.image")


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (40_000_001, 1), (6_325, 6_325), (200_000, 200_000)])
def test_pixels_are_limited_before_decoding(width: int, height: int) -> None:
    with pytest.raises(ImageTooLarge, match="at most 40000000 pixels"):
        decode_image(png_header(width, height))


@pytest.mark.parametrize(("width", "height"), [(10_000, 10), (10, 10_000), (201, 1), (1, 402)])
def test_slivers_are_refused_before_decoding(width: int, height: int) -> None:
    with pytest.raises(ImageInvalid, match=f"{width} x {height} pixels.*at most 200 times"):
        decode_image(png_header(width, height))
    assert decode_image(encoded(Image.new("RGB", (200, 1), RED))).shape == (1, 200, 3)
    assert decode_image(encoded(Image.new("RGB", (1, 200), RED))).shape == (200, 1, 3)


def test_bytes_are_limited() -> None:
    data = encoded(half_and_half())
    with pytest.raises(ImageTooLarge, match=f"image is '{len(data)} bytes'; allowed: at most 20 bytes"):
        decode_image(data, limits=ImageLimits(encoded_bytes=20))
    assert decode_image(data, limits=ImageLimits(encoded_bytes=len(data), pixels=32)).size == 96
    with pytest.raises(ImageTooLarge, match="8 x 4 pixels"):
        inspect_image(data, limits=ImageLimits(pixels=31))
