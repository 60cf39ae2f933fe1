"""The client of a request: the key that a program sends, or the session of a browser that was signed in with one."""

from typing import Annotated

from fastapi import Depends, Request, Response

from linnet.serve.jobs import Job
from linnet.serve.keys import SESSION_SECONDS
from linnet.serve.schemas import Refused
from linnet.serve.service import Credentials, Service

OLD_COOKIE = "linnet_key"  # of earlier versions: it held the key itself


def cookie_of(request: Request) -> str:
    """A host's cookies are sent to all of its ports, so each server's cookie is called after its own."""
    port = request.url.port
    return f"linnet_session_{port}" if port else "linnet_session"


def credentials_of(request: Request) -> Credentials:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return Credentials(key=key.strip())
    if not request.cookies:
        return Credentials()
    return Credentials(session=request.cookies.get(cookie_of(request)))


# These only read, which in SQLite never waits: a thread each would cost more than all they do.


async def owner_of(request: Request) -> str:
    """Whose jobs the request may see."""
    service: Service = request.app.state.service
    owner = service.owner(credentials_of(request))
    if owner is None:
        raise Refused(
            401,
            "invalid_api_key",
            "this server asks for a key: send `Authorization: Bearer KEY`",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return owner


Owner = Annotated[str, Depends(owner_of)]


async def own_job(video_id: str, request: Request, owner: Owner) -> Job:
    job = request.app.state.service.queue.get(video_id, owner=owner)
    if job is None:
        raise Refused(404, "not_found", f"there is no video {video_id[:100]}", param="video_id")
    return job


Own = Annotated[Job, Depends(own_job)]


def hand_out(response: Response, request: Request, session: str) -> None:
    """Into a cookie that scripts cannot read and other sites cannot send."""
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    response.set_cookie(
        cookie_of(request),
        session,
        httponly=True,
        samesite="strict",
        secure=secure,
        max_age=int(SESSION_SECONDS),
    )
    response.delete_cookie(OLD_COOKIE, httponly=True, samesite="strict")


def take_back(response: Response, request: Request) -> None:
    for name in (cookie_of(request), OLD_COOKIE):
        response.delete_cookie(name, httponly=True, samesite="strict")
