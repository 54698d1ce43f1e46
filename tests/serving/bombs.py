"""Small files that are large pictures."""

import io

from PIL import Image


def bomb():
    """A PNG of 100 megapixels in a few kilobytes."""
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    return file.getvalue()
