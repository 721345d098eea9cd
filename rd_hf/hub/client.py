"""Calls the Hub: retries while it is busy or unreachable, and explains a failure in one sentence."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

logger = logging.getLogger(__name__)

# the HTTP client that huggingface_hub brings and raises the errors of: httpx, later httpx2
http_client = import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
HTTPError, TransportError = http_client.HTTPError, http_client.TransportError

ATTEMPTS = 4
NOT_CARRIED_OUT = {429, 503}  # refused before anything was done
PASSING_TROUBLE = NOT_CARRIED_OUT | {408, 500, 502, 504}
LONGEST_WAIT = 300.0  # seconds; the Hub counts requests over so many
# what the client raises, of the connection, of files and of names
HUB_ERRORS = (HTTPError, OSError, RuntimeError, ValueError)
REASONS = {
    401: "The Hub rejects the token: log in again with `hf auth login`",
    403: "The token lacks the permission for this",
    404: "The Hub cannot find the repo or the branch",
    409: "Someone else is changing the repo",
    412: "Someone else has changed the repo in the meantime",
    422: "The Hub rejects an uploaded file",
    429: "The Hub limits the rate of requests: wait a while",
}
Answer = TypeVar("Answer")


def retrying(call: Callable[[], Answer], repeat_lost: bool = True) -> Answer:
    """Run `call`, and retry while the Hub is busy or unreachable; huggingface_hub itself retries uploads only.

    :param repeat_lost: retry also where the Hub may have carried out the call: the connection broke, or a server on
        the way gave up.
    """
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except HfHubHTTPError as error:
            passing = PASSING_TROUBLE if repeat_lost else NOT_CARRIED_OUT
            if error.response.status_code not in passing or attempt == ATTEMPTS - 1:
                raise
            asked = error.response.headers.get("Retry-After", "")
            wait = float(asked) if asked.isdigit() else 2.0**attempt
        except TransportError:
            if not repeat_lost or attempt == ATTEMPTS - 1:
                raise
            wait = 2.0**attempt
        logger.info("The Hub is busy or unreachable; retrying in %g s.", min(wait, LONGEST_WAIT))
        time.sleep(min(wait, LONGEST_WAIT))
    raise AssertionError("the last attempt returns or raises")


def explain(error: BaseException) -> str:
    """Explain an error in one sentence."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # of a thread that uploads
        return explain(error.__cause__)
    if isinstance(error, LocalTokenNotFoundError):
        return "You are not logged in: run `hf auth login`, or set HF_TOKEN."
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so rd_hf cannot reach the Hub: unset it."
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"{REASONS.get(status, 'The Hub failed')} (HTTP {status})."
    if isinstance(error, HTTPError):
        return f"The connection to the Hub broke ({type(error).__name__})."
    return " ".join(str(error).split()).rstrip(".") + "."
