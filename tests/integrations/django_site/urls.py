"""What the shop answers."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth import aauthenticate, alogin, authenticate, login, logout
from django.db import transaction
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from tests.integrations.django_site.models import Order, Tag, Unseen

admin.site.register([Order, Tag, Unseen])


def plain(request: Any) -> HttpResponse:
    """Look at nothing."""
    return HttpResponse("ok")


def make(request: Any, n: int) -> HttpResponse:
    """Change something, as whoever asks."""
    order = Order.objects.create(note=str(n))
    return JsonResponse({"id": order.pk})


async def make_async(request: Any, n: int) -> HttpResponse:
    """Change something in an async view."""
    order = await Order.objects.acreate(note=str(n))
    return JsonResponse({"id": order.pk})


def rolled_back(request: Any) -> HttpResponse:
    """Change something and fail."""
    with transaction.atomic():
        Order.objects.create(note="never")
        raise RuntimeError("no")


def broken(request: Any) -> HttpResponse:
    """Raise."""
    raise ValueError("secret")


def stream(request: Any) -> StreamingHttpResponse:
    """Answer in parts."""
    return StreamingHttpResponse(iter([b"one", b"two"]))


def echo(request: Any) -> HttpResponse:
    """Read the body."""
    return HttpResponse(request.body, content_type="application/json")


def log_in(request: Any) -> HttpResponse:
    """Log in by name and password."""
    user = authenticate(request, username=request.POST["username"], password=request.POST["password"])
    if user is None:
        return HttpResponse(status=400)
    login(request, user)
    return HttpResponse("in")


async def log_in_async(request: Any) -> HttpResponse:
    """Log in, in an async view."""
    user = await aauthenticate(request, username=request.POST["username"], password=request.POST["password"])
    if user is None:
        return HttpResponse(status=400)
    await alogin(request, user)
    return HttpResponse("in")


def api(request: Any) -> HttpResponse:
    """Answer 401, after a try of the given name and password if there are some, as an API does."""
    if "username" in request.POST:
        authenticate(request, username=request.POST["username"], password=request.POST["password"])
    return HttpResponse(status=401)


def log_out(request: Any) -> HttpResponse:
    """Log out."""
    logout(request)
    return HttpResponse("out")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("plain/", plain),
    path("sync/<int:n>", make),
    path("async/<int:n>", make_async),
    path("rolled-back/", rolled_back),
    path("broken/", broken),
    path("stream/", stream),
    path("echo/", echo),
    path("login/", log_in),
    path("login-async/", log_in_async),
    path("api/", api),
    path("logout/", log_out),
]
