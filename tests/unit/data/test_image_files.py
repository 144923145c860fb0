"""Image files of every mode and depth: the right pixels, or an error that says what is wrong.

Files that Pillow cannot write are made by hand.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from snngan.data.image_files import UnusableImageError, open_image, read_header

RAMP = np.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(np.uint16)
COLORS = np.stack((RAMP, RAMP.T, RAMP[::-1]), 2)
GRAY, COLOR, PALETTE, GRAY_ALPHA, COLOR_ALPHA = 0, 2, 3, 4, 6
"""PNG's color types."""
DARK = "16-bit levels are all below 4096, as in 12-bit data stored with 16 bits, .*nearly black; multiply them by 16"


def write_png(
    path: Path, levels: NDArray[np.integer], bits: int, color: int, clear: Sequence[int] = (), palette: bytes = b""
) -> Path:
    """Write (H, W) or (H, W, C) levels as PNG, ``clear`` as its transparent color."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = levels.reshape(len(levels), -1)
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8)
    elif bits == 8:
        packed = rows.astype(np.uint8)
    else:
        single = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        packed = np.packbits(single.reshape(len(rows), -1).astype(np.uint8), axis=1)
    body = b"".join(b"\0" + row.tobytes() for row in packed)
    transparency = bytes(clear) if color == PALETTE else struct.pack(f">{len(clear)}H", *clear)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], bits, color, 0, 0, 0))
        + (chunk(b"PLTE", palette) if palette else b"")
        + (chunk(b"tRNS", transparency) if clear else b"")
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )
    return path


def write_tiff(
    path: Path, levels: NDArray[np.generic], *, photometric: int = 1, sample_format: int = 1, planar: int = 1,
    order: str = "<", extra: int | None = None,
) -> Path:  # fmt: skip
    """Write (H, W) or (H, W, C) levels as an uncompressed TIFF of their dtype, in the byte ``order``."""
    height, width, channels = (*levels.shape, 1)[:3]
    stored = levels.transpose(2, 0, 1) if planar == 2 else levels
    body = stored.astype(levels.dtype.newbyteorder(order)).tobytes()
    size = len(body) // (channels if planar == 2 else 1)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = TiffImagePlugin.ImageFileDirectory_v2(magic + bytes(4))
    directory.update({
        256: width, 257: height, 258: (levels.dtype.itemsize * 8,) * channels, 259: 1, 262: photometric,
        273: tuple(range(0, len(body), size)), 277: channels, 278: height, 279: (size,) * (len(body) // size),
        284: planar, 339: (sample_format,) * channels,
    } | ({} if extra is None else {338: extra}))  # fmt: skip
    path.write_bytes(magic + struct.pack(f"{order}I", 8) + directory.tobytes(8) + body)
    return path


def pixels(path: Path) -> NDArray[np.uint8]:
    image = open_image(path)
    header = read_header(path)
    assert header is not None and header.is_gray == (image.mode == "L") and image.mode in ("L", "RGB")
    assert (header.width, header.height) == image.size
    return np.asarray(image)


def check_refused(path: Path, reason: str) -> None:
    with pytest.raises(UnusableImageError, match=rf"{path.name} cannot be read: .*{reason}") as caught:
        open_image(path)
    assert "\n" not in str(caught.value) and caught.value.reason in str(caught.value)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_png_of_every_depth(bits: int, tmp_path: Path) -> None:
    top = 2**bits - 1
    levels = RAMP >> (16 - bits)
    expected = levels >> 8 if bits == 16 else levels * (255 // top)
    np.testing.assert_array_equal(pixels(write_png(tmp_path / "a.png", levels, bits, GRAY)), expected)


@pytest.mark.parametrize(("bits", "clear"), [(1, 0), (1, 1), (8, 0), (8, 136), (8, 255)])
def test_gray_png_with_a_transparent_level(bits: int, clear: int, tmp_path: Path) -> None:
    levels = RAMP >> (16 - bits)
    found = pixels(write_png(tmp_path / "a.png", levels, bits, GRAY, [clear]))
    expected = np.where(levels == clear, 255, levels * (255 // (2**bits - 1)))
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize("bits", [8, 16])
def test_color_png(bits: int, tmp_path: Path) -> None:
    found = pixels(write_png(tmp_path / "a.png", COLORS >> (16 - bits), bits, COLOR))
    np.testing.assert_array_equal(found, COLORS >> 8)


def test_color_png_with_a_transparent_color(tmp_path: Path) -> None:
    levels = COLORS >> 8
    clear = levels[3, 5]
    found = pixels(write_png(tmp_path / "a.png", levels, 8, COLOR, clear.tolist()))
    np.testing.assert_array_equal(found, np.where((levels == clear).all(2, keepdims=True), 255, levels))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("color", [GRAY_ALPHA, COLOR_ALPHA])
def test_png_with_an_alpha_channel(bits: int, color: int, tmp_path: Path) -> None:
    base = (COLORS if color == COLOR_ALPHA else RAMP[..., None]) >> (16 - bits)
    alpha = np.zeros((16, 16, 1), np.uint16)
    alpha[:8] = 2**bits - 1
    found = pixels(write_png(tmp_path / "a.png", np.concatenate((base, alpha), 2), bits, color))
    np.testing.assert_array_equal(found[:8], np.broadcast_to(base[:8] >> (bits - 8), (8, 16, 3)))
    assert (found[8:] == 255).all()


@pytest.mark.parametrize("bits", [1, 8])
@pytest.mark.parametrize("clear", [(), (0,), (128, 255)])
def test_palette_png(bits: int, clear: tuple[int, ...], tmp_path: Path) -> None:
    levels = np.arange(256).reshape(16, 16) % 2
    found = pixels(write_png(tmp_path / "a.png", levels, bits, PALETTE, clear, bytes([200, 0, 0, 0, 100, 0])))
    alpha = np.array([*clear, 255, 255][:2]) / 255
    colors = np.array([[200, 0, 0], [0, 100, 0]])
    expected = np.round(colors * alpha[:, None] + 255 * (1 - alpha[:, None]))
    np.testing.assert_allclose(found, expected[levels], atol=1)  # Pillow's rounding of half-clear colors


@pytest.mark.parametrize("top", [4095, 255, 1])
def test_16_bit_files_of_fewer_bits_are_refused(top: int, tmp_path: Path) -> None:
    gray = (RAMP.astype(np.uint32) * top // 65535).astype(np.uint16)
    colors = (COLORS.astype(np.uint32) * top // 65535).astype(np.uint16)
    check_refused(write_png(tmp_path / "gray.png", gray, 16, GRAY), DARK)
    check_refused(write_tiff(tmp_path / "big.tif", gray, order=">"), DARK)
    check_refused(write_png(tmp_path / "colors.png", colors, 16, COLOR), DARK)
    check_refused(write_tiff(tmp_path / "colors.tif", colors, photometric=2), DARK)


def test_black_16_bit_gray_is_black(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "black.png")
    assert (pixels(tmp_path / "black.png") == 0).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff(order: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(pixels(write_tiff(tmp_path / "a.tif", RAMP, order=order)), RAMP >> 8)
    found = pixels(write_tiff(tmp_path / "b.tif", COLORS, order=order, photometric=2))
    np.testing.assert_array_equal(found, COLORS >> 8)


def test_compressed_16_bit_tiff(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), RAMP >> 8)


def test_8_bit_tiff_with_white_as_zero_or_separate_planes(tmp_path: Path) -> None:
    gray, colors = ((levels >> 8).astype(np.uint8) for levels in (RAMP, COLORS))
    np.testing.assert_array_equal(pixels(write_tiff(tmp_path / "a.tif", gray, photometric=0)), 255 - gray)
    np.testing.assert_array_equal(pixels(write_tiff(tmp_path / "b.tif", colors, photometric=2, planar=2)), colors)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_level_of_a_gray_png_is_white(bits: int, tmp_path: Path) -> None:
    levels = np.arange(64).reshape(8, 8) % 2**bits
    path = write_png(tmp_path / "a.png", levels, bits, GRAY, clear=[1])
    expected = np.where(levels == 1, 255, levels * 255 // (2**bits - 1))
    np.testing.assert_array_equal(pixels(path), np.stack([expected] * 3, 2))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32, np.float32])
def test_pixels_of_unknown_range_are_refused(dtype: type, tmp_path: Path) -> None:
    sample_format = {"i": 2, "u": 1, "f": 3}[np.dtype(dtype).kind]
    path = write_tiff(tmp_path / "a.tif", (RAMP >> 9).astype(dtype), sample_format=sample_format)
    check_refused(path, "floating-point, signed or 32-bit numbers, of unknown range; save it with 8 bits")


def test_16_bit_gray_with_a_transparent_level_or_white_as_zero(tmp_path: Path) -> None:
    clear = pixels(write_png(tmp_path / "gray.png", RAMP, 16, GRAY, [0]))
    np.testing.assert_array_equal(clear[..., 0], np.where(RAMP == 0, 255, RAMP >> 8))
    negative = pixels(write_tiff(tmp_path / "negative.tif", RAMP, photometric=0))
    np.testing.assert_array_equal(negative, (65535 - RAMP) >> 8)


def test_premultiplied_gray_is_read(tmp_path: Path) -> None:
    levels = np.full((4, 4, 2), 100, np.uint8)
    levels[..., 1] = 255
    assert (pixels(write_tiff(tmp_path / "a.tif", levels, extra=1)) == 100).all()


@pytest.mark.parametrize("alpha", [65535, 15 * 256])
def test_12_bit_colors_with_alpha_are_refused(alpha: int, tmp_path: Path) -> None:
    levels = np.concatenate([COLORS >> 4, np.full((16, 16, 1), alpha)], 2)
    check_refused(write_png(tmp_path / "a.png", levels, 16, COLOR_ALPHA), DARK)


def test_16_bit_colors_that_pillow_does_not_read_are_refused(tmp_path: Path) -> None:
    for path in (
        write_png(tmp_path / "color.png", COLORS, 16, COLOR, [1, 2, 3]),
        write_tiff(tmp_path / "planes.tif", COLORS, photometric=2, planar=2),
    ):
        check_refused(path, "stored in a way that Pillow does not read; save it with 8 bits")


def test_gray_tiff_with_an_alpha_channel(tmp_path: Path) -> None:
    levels = np.full((4, 4, 2), 100, np.uint8)
    levels[..., 1] = (0, 128, 255, 255)
    found = pixels(write_tiff(tmp_path / "a.tif", levels, extra=2))
    np.testing.assert_allclose(found[0, :, 0], [255, 177, 100, 100], atol=1)


@pytest.mark.parametrize("maximum", [1, 100, 255, 256, 4095, 65535])
@pytest.mark.parametrize(("kind", "count"), [("P2", 16), ("P5", 16), ("P6", 48)])
def test_pgm_and_ppm_of_every_maximum(maximum: int, kind: str, count: int, tmp_path: Path) -> None:
    levels = np.round(np.linspace(0, maximum, count)).astype(int)
    text = " ".join(map(str, levels)).encode()
    body = text if kind == "P2" else levels.astype(np.uint8 if maximum < 256 else ">u2").tobytes()
    (tmp_path / "a.ppm").write_bytes(f"{kind} 4 4 {maximum}\n".encode() + body)
    np.testing.assert_allclose(pixels(tmp_path / "a.ppm").flatten(), levels * 255 / maximum, atol=1)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("CMYK", "tif"), ("CMYK", "jpg"), ("YCbCr", "tif"), ("YCbCr", "jpg"), ("LAB", "tif"), ("P", "gif"), ("P", "bmp"),
     ("P", "tif"), ("PA", "tif"), ("RGBX", "tif"), ("RGBA", "webp"), ("RGB", "webp")],
)  # fmt: skip
def test_color_spaces(mode: str, suffix: str, tmp_path: Path) -> None:
    color = (200, 100, 50)
    image = Image.new("RGB", (8, 8), color)
    image = image.convert("RGBA").quantize(4).convert("PA") if mode == "PA" else image.convert(mode)
    image.save(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(pixels(tmp_path / f"a.{suffix}")[4, 4], color, atol=4)  # JPEG and WebP are lossy


@pytest.mark.parametrize("mode", ["L", "P"])
def test_gif_with_a_transparent_color(mode: str, tmp_path: Path) -> None:
    image = Image.new("L", (8, 8), 60)
    image.paste(0, (0, 0, 8, 4))
    image.convert(mode).save(tmp_path / "a.gif", transparency=0)
    found = pixels(tmp_path / "a.gif")
    assert (found[:4] == 255).all() and (found[4:] == 60).all()


@pytest.mark.parametrize("levels", [RAMP[:, :8], COLORS[:, :8].astype(np.uint8)])
def test_images_are_rotated_as_their_exif_data_say(levels: NDArray[np.generic], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(levels).save(tmp_path / "a.png", exif=exif)
    expected = levels >> 8 if levels.dtype == np.uint16 else levels
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), np.rot90(expected, -1))


def test_huge_images_are_refused(tmp_path: Path) -> None:
    path = write_png(tmp_path / "giant.png", np.zeros((1, 1)), 8, GRAY)
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 10_000, 10_000) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    check_refused(path, "decompression bomb")


def test_postscript_is_not_passed_to_ghostscript(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n%%EOF\n")
    check_refused(tmp_path / "page.png", "cannot identify image file")
