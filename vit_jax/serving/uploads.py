"""The file that a request carries: as a form (`multipart/form-data`) or as the body itself.

It is counted as it arrives and given up at the limit. It is kept in memory and never on a disk.
"""

import asyncio
from collections.abc import AsyncIterator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from vit_jax.serving.limits import Limits, Refused

FIELD = "file"
FRAME = 16_384  # bytes that a form may have around its file
OTHER_FIELDS = 8


class _InMemory(MultiPartParser):
    """A parser that writes no temporary files, however large the upload."""

    spool_max_size = 0


async def read_upload(request: Request, limits: Limits) -> bytes:
    """Returns the file that a request carries.

    Raises:
        Refused: it is too long, does not arrive in time, is empty, or is none.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refused(415, f"the upload is compressed ({encoding}): send the picture's file as is")
    try:
        async with asyncio.timeout(limits.upload_seconds):
            data = await _read(request, limits)
    except TimeoutError as error:
        raise Refused(
            408, f"the upload was not complete after {limits.upload_seconds:.0f} seconds: try again"
        ) from error
    if not data:
        raise Refused(400, "the upload is empty: send a picture")
    return data


async def _read(request: Request, limits: Limits) -> bytes:
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return b"".join([chunk async for chunk in _counted(request, limits, 0)])
    parser = _InMemory(
        request.headers, _counted(request, limits, FRAME), max_files=1, max_fields=OTHER_FIELDS
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"the form cannot be read: {error.message}") from error
    file = form.get(FIELD)
    if not isinstance(file, UploadFile):
        found = ", ".join(sorted(repr(name) for name in form)) or "none"
        expected = f"the form has no file in a field {FIELD!r}, where a picture belongs"
        raise Refused(400, f"{expected}; its fields: {found}")
    data = await file.read()
    if len(data) > limits.max_upload_bytes:
        raise limits.too_long()
    return data


async def _counted(request: Request, limits: Limits, frame: int) -> AsyncIterator[bytes]:
    """The body, piece by piece, as long as it is not too long."""
    most, received = limits.max_upload_bytes + frame, 0
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise limits.too_long()
    async for chunk in request.stream():
        received += len(chunk)
        if received > most:
            raise limits.too_long()
        yield chunk
