"""HTTP requests of the commands."""

from typing import Any

import httpx

from contracts.proxies import UNUSABLE, environment_fault, is_loopback


class EnvironmentFault(httpx.HTTPError):
    """The proxy or the certificates that the environment names cannot be used."""


def send(method: str, url: httpx.URL | str, **options: Any) -> httpx.Response:
    """Send one request on a connection of its own, without a proxy to this machine.

    Raises:
        EnvironmentFault: nothing was sent.
        httpx.HTTPError: no answer.
        httpx.InvalidURL: the address is none.
    """
    try:
        client = httpx.Client(trust_env=not is_loopback(str(url)))
    except UNUSABLE as error:
        raise EnvironmentFault(environment_fault(error)) from None
    with client:
        return client.request(method, url, **options)
