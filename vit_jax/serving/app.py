"""The addresses of the server, as an ASGI application.

| address | answer |
|---|---|
| `GET /` | the page |
| `GET /api/model` | what the model is and has |
| `POST /api/predict` | what it says of a picture; `?attention=true` with the maps |
| `GET /healthz` | that the server runs |

Errors are JSON, `{"error": a sentence}`; only what calls the server by a wrong name, or speaks no
HTTP, gets plain text.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vit_jax.serving.asking import Asking
from vit_jax.serving.limits import Admission, Refused
from vit_jax.serving.uploads import read_upload

PAGE = Path(__file__).parent / "page"
ANSWERS = {"true": True, "1": True, "false": False, "0": False}
HEADERS = {
    # The page's own files, and the pictures that it shows: the one chosen and the one answered.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def build_app(
    asking: Asking,
    top_k: int,
    hosts: Sequence[str] | None = None,
    ready: Callable[[], None] = lambda: None,
) -> ASGIApp:
    """The application.

    Args:
        asking: answers; it is closed with the application.
        top_k: what was asked for, for `/api/model`.
        hosts: names that requests may call this server by; None for any. A page elsewhere can make
            its own name stand for 127.0.0.1 (DNS rebinding), and would be this server's page.
        ready: is called when the server begins.
    """
    admission = Admission(asking.limits.requests)
    described = asking.described(top_k)

    async def predict(request: Request) -> Response:
        _check_origin(request)
        look = _asks_for_attention(request)
        batches = admission.inside / asking.engine.batch_size
        with admission.enter(batches * asking.batches.seconds):
            data = await read_upload(request, asking.limits)
            return JSONResponse(await asking.answer(data, look))

    async def page(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def model(request: Request) -> Response:
        return JSONResponse(described)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        ready()
        yield
        asking.close()

    guard = Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app = Starlette(
        routes=[
            Route("/api/predict", predict, methods=["POST"]),
            Route("/api/model", model),
            Route("/healthz", health),
            Route("/", page),
            Mount("/page", StaticFiles(directory=PAGE)),
        ],
        middleware=[guard] if hosts else [],
        exception_handlers={
            Refused: _refused,
            HTTPException: _wrong_address,
            ClientDisconnect: _gone,
            Exception: _failed,
        },
        lifespan=lifespan,
    )
    return _WithHeaders(app)


class _WithHeaders:
    """Adds `HEADERS` to every answer, those of errors included."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, with_headers)


def _check_origin(request: Request) -> None:
    """Raises Refused for what a browser sends on behalf of another site's page."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Refused(403, "this server answers its own page, and programs: not pages of others")


def _asks_for_attention(request: Request) -> bool:
    unknown = sorted(set(request.query_params) - {"attention"})
    if unknown:
        raise Refused(400, f"unknown option {unknown[0]!r}: there is attention=true")
    value = request.query_params.get("attention", "false")
    if value not in ANSWERS:
        raise Refused(400, f"attention is {value!r}: expected true or false")
    return ANSWERS[value]


async def _refused(request: Request, error: Refused) -> Response:
    return _error(error.status, str(error), error.headers)


async def _wrong_address(request: Request, error: HTTPException) -> Response:
    text = f"{error.detail}: there are GET /, GET /api/model, POST /api/predict and GET /healthz"
    return _error(error.status_code, text, error.headers)


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    return _error(400, "the upload was broken off")  # which nobody hears


async def _failed(request: Request, error: Exception) -> Response:
    return _error(500, "the server has failed at this: its log says why")


def _error(status: int, text: str, headers: Any = None) -> Response:
    return JSONResponse({"error": text}, status, headers)
