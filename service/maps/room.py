"""The wiring of the room: what the service calls, and all that it knows of maps."""

from collections.abc import Awaitable
from typing import NamedTuple

from fastapi import FastAPI

from service.auth.roles import Guard
from service.inference.model import Serving
from service.maps.jobs import Jobs, Limits
from service.maps.jobs_http import MapRoutes, add_routes
from service.maps.jobs_run import Runner
from service.maps.jobs_upload import UploadLimits
from service.settings import Settings, cores
from service.swap.cache import BundleCache


class Room(NamedTuple):
    """Routes, and what runs beside requests."""

    routes: MapRoutes
    runner: Runner

    def add_to(self, app: FastAPI) -> None:
        """Register the routes."""
        add_routes(app, self.routes)

    def run(self) -> Awaitable[None]:
        """Run the queue, until it is cancelled."""
        return self.runner.run()


def make_room(settings: Settings, serving: Serving, cache: BundleCache, guard: Guard) -> Room:
    """Make it from the parts of the service."""
    limits = Limits(
        settings.maps_queue,
        settings.maps_keep,
        settings.maps_keep_mib << 20,
        settings.maps_keep_hours,
    )
    uploads = UploadLimits(
        settings.maps_max_upload,
        settings.maps_upload_timeout,
        settings.maps_max_pixels,
        settings.maps_at_once,
    )
    jobs = Jobs(settings.state / "maps", limits)
    return Room(MapRoutes(jobs, serving, cache, guard, uploads), Runner(jobs, cores()))
