"""JSON answers: the framework's meaning, by msgspec and without its detours."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from django.http import HttpResponse
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

PLAIN_ACCEPT = frozenset({"*/*", "application/json"})


class FastJSONRenderer(BaseRenderer):
    """``application/json`` in UTF-8."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        """The bytes of `data`; nothing for None, as for a 304."""
        return b"" if data is None else msgspec.json.encode(data)


class JSONNegotiation(DefaultContentNegotiation):
    """Answers at once what nearly every client sends; anything else goes the framework's way."""

    def select_renderer(
        self,
        request: Request,
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        """The renderer and the media type to answer with."""
        if request.META.get("HTTP_ACCEPT", "*/*") in PLAIN_ACCEPT:
            [renderer, *_] = renderers
            return renderer, renderer.media_type or ""
        chosen: tuple[BaseRenderer, str] = super().select_renderer(
            request, renderers, format_suffix
        )
        return chosen


class StreamNegotiation(JSONNegotiation):
    """For a route that answers with a stream, whatever is asked for; its refusals are JSON."""

    def select_renderer(
        self,
        request: Request,
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        """The renderer of refusals."""
        [renderer, *_] = renderers
        return renderer, renderer.media_type or ""


def rendered(body: Any, *, status: int = 200) -> HttpResponse:
    """An answer of the busiest routes, rendered at once: it is JSON whatever was negotiated."""
    return HttpResponse(
        msgspec.json.encode(body), status=status, content_type=FastJSONRenderer.media_type
    )
