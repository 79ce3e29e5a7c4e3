"""The routes of maps: a scene in, a map or a job out, in the words of OGC API Processes."""

import asyncio
import re
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Path as PathParameter, Query, Request
from starlette.responses import FileResponse, JSONResponse, Response

from contracts.bundle import Segmentation
from service.auth.roles import Guard, Role
from service.errors import (
    Conflict,
    NotFound,
    ServiceError,
    StorageFull,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from service.inference.model import Model, Serving
from service.maps.jobs import FINISHED, ITEM, MAP, PICTURES, SCENE, Job, Jobs, State, now
from service.maps.jobs_upload import TIFF, Upload, UploadLimits, check_headers, receive_scene
from service.schemas import MapJob, problems
from service.swap.cache import BundleCache

PNG, GEOJSON = "image/png", "application/geo+json"
PATIENCE = 60.0  # seconds in which a small scene is answered at once
LOOK = 0.03  # seconds between two looks at a job that somebody waits for
DISMISSING = 2.0  # seconds that DELETE waits for the end of a process
BOUNDS = re.compile(r"bytes=(\d+)-(\d*)")
BANDS = r"^[A-Za-z0-9_.-]{1,64}(,[A-Za-z0-9_.-]{1,64}){0,255}$"
NOT_INSTALLED = (
    "maps need rasterio, which this server does not have: its operator installs it with "
    "pip install 'conveyor[maps]'"
)
ERRORS: dict[int, type[ServiceError]] = {
    kind.status: kind for kind in (UnsupportedMedia, Unprocessable, Unavailable, StorageFull)
}
RESULTS = {
    "map.tif": (MAP, TIFF),
    "item.json": (ITEM, GEOJSON),
    **{name: (name, PNG) for name in PICTURES},
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {TIFF: {"schema": {"type": "string", "format": "binary"}}},
    }
}


class NotInstalled(ServiceError):
    """This server cannot do it."""

    status = 501


class RangeNotSatisfiable(ServiceError):
    """The file is shorter than that."""

    status = 416


@dataclass(frozen=True)
class MapRoutes:
    """What the routes call."""

    jobs: Jobs
    serving: Serving
    cache: BundleCache
    guard: Guard
    limits: UploadLimits

    async def submit(
        self, request: Request, bands: tuple[str, ...], offset: int | None
    ) -> tuple[str, Upload]:
        """Take a scene, and queue it with the model that serves now; its id and the upload.

        Raises:
            ServiceError: it is not taken.
        """
        model = self._model()
        await check_headers(request, self.limits)
        self.jobs.check_room()
        owner = self.owner(request)
        with self.jobs.incoming() as (id, folder):
            upload = await receive_scene(request, folder / SCENE, self.limits)
            await asyncio.to_thread(self._keep_model, model)
            job = Job(
                *(owner, now(), model.manifest.name, model.tag, model.sha256, upload.sha256),
                *(upload.size, upload.height, upload.width, bands, offset),
            )
            self.jobs.check_room(uploads=False)
            await asyncio.to_thread(self.jobs.submit, id, folder, job)
        return id, upload

    def _model(self) -> Model:
        if find_spec("rasterio") is None:
            raise NotInstalled(NOT_INSTALLED)
        model = self.serving.model()
        if not isinstance(model.manifest, Segmentation):
            raise Conflict(
                f"the model that serves ({model.manifest.name} {model.tag}) classifies chips and "
                "draws no maps: send chips to /predict, or serve a model of the task segmentation "
                "(SERVICE_BUNDLE)"
            )
        return model

    def _keep_model(self, model: Model) -> None:
        """Keep the bundle for the time of the job. Raises StorageFull, Unavailable."""
        try:
            self.jobs.models.read(model.sha256)
        except ServiceError:
            try:
                self.jobs.models.keep(self.cache.read(model.sha256))
            except NotFound:
                raise Unavailable(
                    "the bundle of the model that serves is not on the disk of this server: free "
                    "some space there, and replace the model once"
                ) from None

    def owner(self, request: Request) -> str:
        """Who sends a request; empty where everybody may make maps."""
        if self.guard.is_open(Role.PREDICT):
            return ""
        return self.guard.identity(request.scope["headers"])

    def find(self, request: Request, id: str) -> Job:
        """Find a job of the one who asks. Raises NotFound."""
        return self.jobs.read(id, self.owner(request))

    async def end_of(self, id: str, seconds: float) -> State:
        """Wait for the end of a job, at most so long; its state."""
        deadline = time.monotonic() + seconds
        while True:
            state = self.jobs.state(id)
            settled = not self.jobs.is_dismissed(id)
            if (state.status in FINISHED and settled) or time.monotonic() > deadline:
                return state
            await asyncio.sleep(LOOK)


def add_routes(app: FastAPI, routes: MapRoutes) -> None:
    """Register the routes of maps and jobs."""
    _add_maps(app, routes)
    _add_jobs(app, routes)
    _add_results(app, routes)


def _add_maps(app: FastAPI, routes: MapRoutes) -> None:
    @app.post(
        "/maps",
        tags=["maps"],
        response_class=Response,
        responses={
            200: {"content": {TIFF: {}}, "description": "The map of a small scene"},
            202: {"model": MapJob, "description": "A job; `Location` has its address"},
            **problems(400, 401, 403, 408, 409, 413, 415, 422, 500, 501, 503, 507),
        },
        openapi_extra=BODY,
    )
    async def make_map(
        request: Request,
        bands: Annotated[
            str | None,
            Query(
                pattern=BANDS,
                description="Names of the file's bands in their order, where it has none: "
                "`B02,B03,-,B08`; `-` is not needed.",
            ),
        ] = None,
        offset: Annotated[
            int | None,
            Query(ge=-65535, le=65535, description="Added to each digital number: 0, or -1000."),
        ] = None,
    ) -> Response:
        """Map a scene: a GeoTIFF as the bare body. A small one is answered with its map at once;
        for a large one, or with `Prefer: respond-async`, the answer is a job."""
        if unknown := set(request.query_params) - {"bands", "offset"}:
            raise Unprocessable(f"?{min(unknown)}= is not known: choose of ?bands= and ?offset=")
        names = tuple(bands.split(",")) if bands else ()
        id, upload = await routes.submit(request, names, offset)
        wants_job = "respond-async" in request.headers.get("prefer", "").lower()
        link = {"link": f'</jobs/{id}>; rel="monitor"'}
        if not wants_job and upload.height * upload.width <= routes.limits.at_once:
            state = await routes.end_of(id, PATIENCE)
            if state.problem:
                status, detail = state.problem["status"], state.problem["detail"]
                raise ERRORS.get(status, ServiceError)(detail)
            if state.status == "successful":
                return _file(request, routes.jobs.folder(id) / MAP, TIFF, f"map-{id}.tif", link)
        applied = {"preference-applied": "respond-async"} if wants_job else {}
        body = describe(id, routes.jobs.read(id), routes.jobs.state(id))
        return JSONResponse(body, 202, {"location": f"/jobs/{id}", **link, **applied})


def _add_jobs(app: FastAPI, routes: MapRoutes) -> None:
    @app.get("/jobs", tags=["maps"], responses=problems(401, 403, 422, 503))
    async def jobs(
        request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[MapJob]:
        """List your jobs, the newest first."""
        owner = routes.owner(request)

        def found() -> list[MapJob]:
            listed: list[MapJob] = []
            for id in routes.jobs.all():
                if len(listed) == limit:
                    break
                try:
                    job = routes.jobs.read(id, owner)
                except NotFound:
                    continue
                listed.append(MapJob(**describe(id, job, routes.jobs.state(id))))
            return listed

        return await asyncio.to_thread(found)

    @app.get("/jobs/{id}", tags=["maps"], responses=problems(401, 403, 404, 422, 503))
    async def job(request: Request, id: str) -> MapJob:
        """Report how far a job is."""
        found = routes.find(request, id)
        return MapJob(**describe(id, found, routes.jobs.state(id)))

    @app.delete("/jobs/{id}", tags=["maps"], responses=problems(401, 403, 404, 422, 503, 507))
    async def dismiss(request: Request, id: str) -> MapJob:
        """Stop a job, and delete its files, also of one that has ended."""
        found = routes.find(request, id)
        routes.jobs.dismiss(id)
        state = await routes.end_of(id, DISMISSING)
        return MapJob(**describe(id, found, state))


def _add_results(app: FastAPI, routes: MapRoutes) -> None:
    kinds: dict[str, Any] = {kind: {} for _, kind in RESULTS.values()}

    @app.get(
        "/jobs/{id}/{file}",
        tags=["maps"],
        response_class=Response,
        responses={200: {"content": kinds}, **problems(401, 403, 404, 416, 422, 503)},
    )
    async def result(
        request: Request,
        id: str,
        file: Annotated[str, PathParameter(json_schema_extra={"enum": list(RESULTS)})],
    ) -> Response:
        """Download what a job made, whole or by range: the map, its STAC item, or pictures of at
        most 2048 pixels: the scene, the map, and its values (red is class, green confidence)."""
        routes.find(request, id)
        if file not in RESULTS:
            raise NotFound(f"a job has the files {', '.join(RESULTS)}: take one of them")
        name, kind = RESULTS[file]
        path = routes.jobs.folder(id) / name
        status = routes.jobs.state(id).status
        if status not in FINISHED:
            raise NotFound(f"{file}: the job is {status}: ask again when it is successful")
        if status != "successful" or not path.is_file():
            raise NotFound(f"{file}: the job is {status}, and has no files: GET /jobs/{{id}}")
        return _file(request, path, kind, f"map-{id}.tif" if name == MAP else "")


def describe(id: str, job: Job, state: State) -> dict[str, Any]:
    """`statusInfo` of OGC API Processes, with what is ours."""
    links = [("self", f"/jobs/{id}", "application/json")]
    if state.status == "successful":
        links += [("results", f"/jobs/{id}/map.tif", TIFF)]
        links += [("item", f"/jobs/{id}/item.json", GEOJSON)]
    share = 100 if state.status == "successful" else int(99 * state.done / max(1, state.tiles))
    return {
        **{"jobID": id, "type": "process", "processID": "map", "status": state.status},
        "message": state.problem["detail"] if state.problem else None,
        **{"created": job.created, "started": state.started or None},
        **{"finished": state.finished or None, "updated": state.updated or job.created},
        **{"progress": share, "tiles_done": state.done, "tiles": state.tiles},
        "model": {"name": job.name, "tag": job.tag, "sha256": job.sha256},
        **{"height": job.height, "width": job.width},
        **{"problem": state.problem, "made": state.made},
        "links": [{"rel": rel, "href": href, "type": kind} for rel, href, kind in links],
    }


def _file(
    request: Request, path: Path, kind: str, name: str = "", headers: dict[str, str] | None = None
) -> Response:
    """Answer with a file, or the range of it that is asked for.

    Raises:
        RangeNotSatisfiable: the file is shorter.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise NotFound("this file was deleted just now: send the scene again") from None
    asked = request.headers.get("range", "")
    range_ = BOUNDS.fullmatch(asked)
    if range_ and int(range_[1]) >= found.st_size:
        raise RangeNotSatisfiable(f"range: the file has {found.st_size} bytes, {asked} is beyond")
    if asked and not _is_range(asked):  # RFC 9110: what is no range is ignored
        fields = [item for item in request.scope["headers"] if item[0] != b"range"]
        request.scope["headers"] = fields
    shown = {"cache-control": "private, max-age=3600", **(headers or {})}
    return FileResponse(
        path, headers=shown, media_type=kind, filename=name or None, stat_result=found
    )


def _is_range(text: str) -> bool:
    found = BOUNDS.fullmatch(text)
    if found:
        return not found[2] or int(found[1]) <= int(found[2])
    return re.fullmatch(r"bytes=-[1-9]\d*", text) is not None
