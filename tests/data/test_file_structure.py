"""Files from strangers: none costs more work or memory than its bytes and pixels account for."""

from __future__ import annotations

import io
import itertools
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from benchmarks.robustness.uploads import LARGE, SMALL, picture, plain, uploads
from vpt.data.decode import BadImage, decode, examine, read_header
from vpt.data.file_structure import examine_structure

TAKEN = ("JPEG", "PNG", "WEBP", "BMP", "GIF")


def test_hostile_files_are_decoded_or_refused_by_name():
    """All kinds of them, and a hundred good files with damaged bytes."""
    refused = []
    for name, content in itertools.islice(uploads(bulk=300_000, side=1000), len(SMALL) + len(LARGE) + 100):
        try:
            header = read_header(content, 1_000_000, name, TAKEN)
            pixels = decode(content, 1_000_000, name, TAKEN)
        except BadImage as error:
            refused.append((error.name, name))
        else:
            assert pixels.dtype == np.uint8
            assert header.width * header.height <= 1_000_000
            assert pixels.shape[0] * pixels.shape[1] == header.width * header.height
    assert len(refused) > 100
    assert all(told == name for told, name in refused)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("PNG of empty chunks", "more than .* chunks"),
        ("PNG of empty data", "more than .* chunks"),
        ("PNG with texts that grow a thousandfold", "more than 64 compressed texts"),
        ("PNG with colour profiles that grow a thousandfold", "more than 64 compressed texts"),
        ("PNG with texts behind its pixels", "more than 64 compressed texts"),
        ("JPEG of empty comments", "more than 1000 segments"),
        ("JPEG of padding", "padding between"),
        ("JPEG of small EXIF segments", "more than 1000 segments"),
        ("JPEG of a hundred thousand scans", "segments"),
        ("GIF of comments of one byte", "more than .* blocks"),
        ("GIF of comments of two bytes", "more than .* blocks"),
        ("GIF of extensions", "more than .* blocks"),
        ("GIF of a block that is no end", "more than .* blocks"),
        ("GIF of data in blocks of one byte", "more than .* blocks"),
    ],
)
def test_what_is_made_of_too_many_pieces(name: str, reason: str):
    content = LARGE[name](1_000_000)
    with pytest.raises(BadImage, match=reason):
        read_header(content)


@pytest.mark.parametrize(
    ("content", "times"),
    [
        (SMALL["BMP of many pixels in runs"](6300), "10 times"),
        (SMALL["BMP of one row in runs"](6300), "10 times"),
        (LARGE["JPEG of a hundred thousand scans"](20_000), r"\d+.* times"),
    ],
)
def test_pixels_that_take_more_work_than_others_weigh_more(content: bytes, times: str):
    with pytest.raises(BadImage, match=rf"takes {times} the work of a plain file; save it as a plain JPEG or PNG"):
        read_header(content, 40_000_000)


def ordinary() -> dict[str, bytes]:
    """Files as cameras, phones and programs write them."""
    text = PngImagePlugin.PngInfo()
    for number in range(20):
        text.add_text(f"comment {number}", "words " * 1000, zip=True)
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")] * 20
    several = {"save_all": True, "append_images": frames[1:]}

    def saved(image: Image.Image, kind: str, **options: object) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8))
    profile = b"profile " * 100_000
    return {
        **{kind: picture(kind) for kind in TAKEN},
        "a photo with much detail": saved(noise, "JPEG", quality=95),
        "progressive": saved(noise, "JPEG", progressive=True, subsampling=0),
        "progressive, four colours": saved(noise.convert("CMYK"), "JPEG", progressive=True),
        "with restarts": saved(noise, "JPEG", restart_marker_blocks=1),
        "with a colour profile of many segments": saved(noise, "JPEG", icc_profile=profile),
        "a phone's photo with a film behind it": saved(noise, "JPEG") + random.Random(0).randbytes(3_000_000),
        "PNG with texts and a profile": saved(noise, "PNG", pnginfo=text, icc_profile=profile),
        "GIF": saved(frames[0], "GIF", **several),
        "GIF of noise with a comment": saved(noise, "GIF", comment=b"words " * 5000),
        "APNG": saved(frames[0], "PNG", **several),
        "WebP of several frames": saved(frames[0], "WEBP", **several),
        "BMP in one colour": plain(500, 400, "BMP"),
    }


def test_ordinary_files_pass():
    for name, content in ordinary().items():
        assert examine_structure(content) == ("", 1.0), name
        header = read_header(content, 480_000, name, TAKEN)
        assert decode(content, 480_000, name, TAKEN).shape == (header.height, header.width, 3)


def test_texts_and_profiles_are_not_unpacked_over_and_over(monkeypatch: pytest.MonkeyPatch):
    unpacked = []
    usual = PngImagePlugin._safe_zlib_decompress
    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", lambda data: (unpacked.append(1), usual(data))[1])
    with pytest.raises(BadImage):
        read_header(LARGE["PNG with colour profiles that grow a thousandfold"](2_000_000))
    assert not unpacked


def test_pages_of_a_tiff_are_not_counted(monkeypatch: pytest.MonkeyPatch):
    """Training reads them too, so this holds for every reader."""
    content = LARGE["TIFF of many pages"](50_000)
    read = []
    usual = TiffImagePlugin.ImageFileDirectory_v2.load
    monkeypatch.setattr(
        TiffImagePlugin.ImageFileDirectory_v2, "load", lambda self, file: (read.append(1), usual(self, file))[1]
    )
    found = examine(content)
    assert "first of several frames" in found.notes
    assert found.pixels.shape == (8, 8, 3)
    assert len(read) < 10


def test_a_tile_larger_than_the_image_is_refused():
    with pytest.raises(BadImage, match="its tiles of 32768x32768 pixels are out of proportion to its 64 pixels"):
        decode(SMALL["TIFF with a tile of a thousand megapixels"](8))
    file = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(file, "TIFF", compression="tiff_deflate", tiffinfo={322: 256, 323: 256})
    assert decode(file.getvalue()).shape == (10, 20, 3)


def test_formats_that_are_not_taken():
    tiff = picture("TIFF")
    assert decode(tiff).shape == (40, 48, 3)
    with pytest.raises(BadImage, match="it is not an image file of these formats: JPEG, PNG"):
        decode(tiff, formats=("PNG", "JPEG"))
    assert read_header(tiff, formats=("TIFF",)).format == "TIFF"


MEMORY = """
import resource, sys
from vpt.data.decode import decode, read_header
content = open(sys.argv[1], "rb").read()
decode(content[:0] + open(sys.argv[2], "rb").read())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(content)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, read_header(content).memory)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory as Linux counts it")
@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGBA"), ("PNG", "I;16"), ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("GIF", "L")]
)
def test_memory_is_what_the_header_promises(kind: str, mode: str, tmp_path: Path):
    options = {"WEBP": {"lossless": True}, "JPEG": {"progressive": True}}.get(kind, {})
    (tmp_path / "large").write_bytes(plain(4000, 3000, kind, mode, **options))
    (tmp_path / "small").write_bytes(plain(40, 30, kind, mode, **options))
    words = [sys.executable, "-c", MEMORY, tmp_path / "large", tmp_path / "small"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    peak, promised = map(int, done.stdout.split())
    assert peak < promised + 20_000_000
