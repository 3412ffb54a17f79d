"""/login takes a key and gives the browser one of its own, which ends after half a day; /logout ends it at once."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from app.auth.access import COOKIE, Anybody, cookie_key, let_in, name_trail
from app.auth.keys import LOGIN_HOURS, log_in
from app.errors import ApiProblem
from app.services import ServicesDep
from app.store.repositories import Keys
from app.web.pages import page

router = APIRouter()

Next = Annotated[str, Query(max_length=400)]


@router.get("/login")
def login_page(request: Request, services: ServicesDep, next: Next = "/") -> Response:
    """The form; who is logged in already, or needs no key, goes on."""
    if not services.settings.asks_for_keys:
        return RedirectResponse(_local(next), 303)
    try:
        let_in(services, request.state.trail, cookie_key(request))
    except ApiProblem:
        return page("login.html", next=_local(next), fault="")
    return RedirectResponse(_local(next), 303)


@router.post("/login", status_code=303)
def login(request: Request, services: ServicesDep, key: Annotated[str, Form()] = "", next: Next = "/") -> Response:
    """Set the cookie and go on to `next`; the form again, with 401, for a key that does not count."""
    if not services.settings.asks_for_keys:
        return RedirectResponse(_local(next), 303)
    trail = name_trail(request)
    try:
        found = let_in(services, trail, key.strip())
    except ApiProblem as problem:
        if problem.status_code == 429:
            raise
        return page("login.html", status=problem.status_code, next=_local(next), fault=problem.detail)
    trail.project_id, trail.anonymous, trail.changes = found.row.project_id, False, True
    with services.database.write() as session:
        row, text = log_in(session, found.row)
        trail.record(session, row.id)
    response = RedirectResponse(_local(next), 303, headers={"Cache-Control": "no-store"})
    # Behind a proxy that ends TLS only the page's own origin tells that the browser speaks https.
    secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https:")
    max_age_s = int(LOGIN_HOURS * 3600)
    response.set_cookie(COOKIE, text, max_age=max_age_s, httponly=True, secure=secure, samesite="strict")
    return response


@router.post("/logout", status_code=303)
def logout(who: Anybody, services: ServicesDep) -> Response:
    """End the browser's key and forget it; a key that came in a header stays as it is."""
    if who.key is not None and who.by_cookie:
        with services.database.write() as session:
            who.record(session, who.key.id)
            Keys(session).revoke(who.key.id)
        services.recent.clear()
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _local(path: str) -> str:
    """`path` if it leads to a page of ours, else the first page: nobody is sent elsewhere from here."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"
