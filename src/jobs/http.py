"""The same by HTTP, with the keys of the service (service.auth): `view` lists, `train` submits.

    POST /jobs                 a request in YAML or JSON; header Idempotency-Key: one job per key
    GET  /jobs  /jobs/{id}     as JSON
    GET  /jobs/{id}/log        text; ?follow=true until the job has ended
    POST /jobs/{id}/cancel  /jobs/{id}/retry

`deploy` may also submit commands of its own, and change the jobs of others. Errors are
application/problem+json. Jobs do not hang on this process: it queues them, the runner runs them.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse

from jobs import control
from jobs.admission import Admission
from jobs.budget import Budget, metrics
from jobs.errors import Denied, JobsError, Refused
from jobs.record import Job, State
from jobs.request import LARGEST, parse
from jobs.runner import start
from jobs.settings import Settings
from jobs.show import followed
from jobs.store import Store
from service.auth.keys import KeyFile, parse_keys
from service.auth.roles import Guard, Role, new_key
from service.errors import Forbidden, ServiceError
from service.http.problem import MEDIA_TYPE, problem

SHOWN = {"id", "state", "reason", "commit", "submitter", "attempt", "current", "history", "outcome"}
"""Fields of a job that are answered."""
log = logging.getLogger(__name__)


def serve(store: Store, settings: Settings, host: str, port: int, keys: Path | None) -> None:
    """Serve until it is ended. Raises Refused: the keys cannot be read."""
    start(store)  # for jobs that are left
    uvicorn.run(application(store, settings, guard(keys)), host=host, port=port, log_level="info")


def guard(path: Path | None) -> Guard:
    """Who may do what: by a file of keys, or by one key that is made and printed."""
    if path is None:
        key, digest = new_key()
        print(f"jobs: no JOBS_KEYS, so this key holds until this process ends: {key}", flush=True)
        roles = frozenset({Role.VIEW, Role.TRAIN, Role.DEPLOY})
        return Guard({digest: roles}, frozenset(), None)
    try:
        keys = parse_keys(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"JOBS_KEYS: {path}: {error.strerror}: correct it") from None
    except ValueError as error:
        raise Refused(f"JOBS_KEYS: {path}: {error}") from None
    return Guard(keys, frozenset(), None, KeyFile(path, keys))


def application(store: Store, settings: Settings, guard: Guard) -> FastAPI:
    """The routes, each with the role that it needs."""
    app = FastAPI(title="Jobs of Conveyor", description=__doc__ or "")
    front = Front(store, settings, guard)

    def route(method: str, path: str, role: Role | None, answer: Any, code: int = 200) -> None:
        async def check(request: Request) -> None:
            if role is not None:
                await guard.authorize(role, request.scope["headers"])

        needs = [Depends(check)]
        app.add_api_route(path, answer, methods=[method], status_code=code, dependencies=needs)

    route("POST", "/jobs", Role.TRAIN, front.submit, 202)
    route("GET", "/jobs", Role.VIEW, front.show_all)
    route("GET", "/jobs/{id}", Role.VIEW, front.show)
    route("GET", "/jobs/{id}/log", Role.VIEW, front.show_log)
    route("POST", "/jobs/{id}/cancel", Role.TRAIN, front.cancel, 202)
    route("POST", "/jobs/{id}/retry", Role.TRAIN, front.retry, 202)
    route("GET", "/healthz", None, front.healthz)
    route("GET", "/metrics", Role.VIEW, front.show_metrics)
    _explain_errors(app)
    return app


class Front:
    """What the routes do. Whatever reads or writes the folder runs in a thread."""

    def __init__(self, store: Store, settings: Settings, guard: Guard) -> None:
        self._store = store
        self._settings = settings
        self._guard = guard
        self._admission = Admission(store, settings)

    async def submit(self, request: Request, response: Response) -> dict[str, Any]:
        """Queue a job; 202 for a new one, 200 for the one that there is."""
        asked = parse(await _body(request))
        if asked.kind == "command" and not await self._is_deployer(request):
            raise Denied("kind: a command of your own needs the role `deploy`: use kind: train")
        who, given = self._who(request), request.headers.get("idempotency-key")
        key = f"{who} {given}" if given else ""  # nobody meets the keys of others
        job, new = await run_in_threadpool(self._admission.submit, asked, who, key)
        await run_in_threadpool(start, self._store)
        response.status_code = 202 if new else 200
        response.headers["location"] = f"/jobs/{job.id}"
        return _shown(job)

    def show_all(
        self, state: State | None = None, limit: int = Query(1000, ge=1, le=10000)
    ) -> list[dict[str, Any]]:
        """The newest jobs, oldest first; of one state."""
        jobs = [job for job in self._store.jobs() if state in (None, job.state)]
        return [_shown(job) for job in jobs[-limit:]]

    def show(self, id: str) -> dict[str, Any]:
        """One job."""
        return _shown(self._store.find(id))

    def show_log(self, id: str, follow: bool = False) -> StreamingResponse:
        """What its attempts have printed."""
        parts = followed(self._store, self._store.find(id).id, follow)
        return StreamingResponse(parts, media_type="text/plain; charset=utf-8")

    async def cancel(self, request: Request, id: str) -> dict[str, Any]:
        """Cancel a job."""
        return await self._change(request, id, control.cancel)

    async def retry(self, request: Request, id: str) -> dict[str, Any]:
        """Try a job again that failed, was cancelled or timed out."""
        return await self._change(request, id, control.retry)

    def healthz(self) -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    def show_metrics(self) -> Response:
        """GPU minutes of the month, of people and merge requests, for Prometheus."""
        accounts = Budget(self._store, self._settings.budget).all()
        return Response(metrics(accounts), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _change(
        self, request: Request, id: str, what: Callable[[Store, str], Job]
    ) -> dict[str, Any]:
        job = await run_in_threadpool(self._store.find, id)
        if job.submitter != self._who(request) and not await self._is_deployer(request):
            raise Denied(f"{job.id} is somebody else's: this needs the role `deploy`")
        job = await run_in_threadpool(what, self._store, job.id)
        await run_in_threadpool(start, self._store)
        return _shown(job)

    async def _is_deployer(self, request: Request) -> bool:
        try:
            await self._guard.authorize(Role.DEPLOY, request.scope["headers"])
        except Forbidden:
            return False
        return True

    def _who(self, request: Request) -> str:
        return f"key {self._guard.identity(request.scope['headers'])[:16]}"


def _explain_errors(app: FastAPI) -> None:
    """Let every error be a problem body."""

    @app.exception_handler(JobsError)
    async def of_jobs(request: Request, error: JobsError) -> Response:
        if error.status == 500:
            log.error("%s", error)
            return _problem(request, 500, "internal error; the log has details")
        return _problem(request, error.status, str(error))

    @app.exception_handler(ServiceError)
    async def of_service(request: Request, error: ServiceError) -> Response:
        return _problem(request, error.status, error.detail, dict(error.headers))

    @app.exception_handler(RequestValidationError)
    async def of_query(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _problem(request, 422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    @app.exception_handler(HTTPException)
    @app.exception_handler(404)
    @app.exception_handler(405)
    async def of_routes(request: Request, error: HTTPException) -> Response:
        return _problem(request, error.status_code, f"{error.detail}: GET /docs has the routes")


def _problem(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None
) -> Response:
    body = problem(status, detail, request.url.path)
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)


async def _body(request: Request) -> bytes:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST:
            break
    return bytes(content)


def _shown(job: Job) -> dict[str, Any]:
    return job.model_dump(mode="json", include=SHOWN)
