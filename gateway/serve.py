"""`gonets serve` from start to end: descriptors, uvloop, signals, and the life of one gateway.

Called by gonets.py with a checked configuration. SIGTERM or SIGINT drains and stops; a second one stops at once;
SIGHUP reads the configuration again. Whatever keeps it from starting is a StartError of one line.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

import uvloop

from engine import Config, ConfigError, limits
from gateway import logs
from gateway.beforehand import begins_log
from gateway.listener import StartError, address_of
from gateway.parts import SPARE_DESCRIPTORS, Alone
from gateway.server import Gateway
from gateway.session import log

# How long a thread that computes in Python keeps the others waiting. Admission, committer and loop hand each commit
# on three times; with Python's 5 ms a slice of the loop shows in the latency of every publish behind it.
SWITCH_INTERVAL_S = 0.0005

# Python looks for cycles each 700 objects that it knows of. A user of 2,000 conversations is thousands of them, and
# more than half of their resume was that search, in vain. What came up at start is never looked at again.
COLLECT_OBJECTS = 50_000
COLLECT_GENERATIONS = 20


def serve(config: Config, ready: Callable[[dict[str, Any]], None], reload: Callable[[], Config] | None = None) -> None:
    """Runs until told to stop. `ready` gets the addresses; `reload` reads the configuration again."""
    logs.configure(config.logging.level, config.logging.format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    is_new = begins_log(config)
    if reason := limits.shortage(config):
        log.warning("memory", reason=reason)
    wanted = config.gateway.sessions_max + (config.api.connections_max if config.server.api else 0) + SPARE_DESCRIPTORS
    allowed = raise_descriptor_limit(wanted)
    surroundings = Alone(config)
    gateway = Gateway(config, surroundings)

    def serving(addresses: dict[str, Any]) -> None:
        addresses["new_log"] = is_new
        log.info("serving", **addresses)
        say_descriptors(wanted, allowed)  # only now: beside a reason not to start it would be noise
        ready(addresses)

    try:
        gateway.open()
        calm_collector()
        uvloop.run(_run(gateway, surroundings, serving, reload))
    finally:
        gateway.release()
        surroundings.release()


def calm_collector() -> None:
    """Once everything is up that stays: cycles are looked for less often, and among what has come since."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_OBJECTS, COLLECT_GENERATIONS, COLLECT_GENERATIONS)


def raise_descriptor_limit(wanted: int) -> int:
    """Lifts the soft limit as far as wanted or allowed; the descriptors there will be, which may be fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    goal = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < goal:
        resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
    return goal


def say_descriptors(wanted: int, allowed: int) -> None:
    """One line where sessions_max can't be reached."""
    if allowed < wanted:
        hint = "gateway.sessions_max can't be reached; raise the hard limit (ulimit -Hn)"
        log.info("descriptors", allowed=allowed, wanted=wanted, hint=hint)


async def _run(
    gateway: Gateway,
    surroundings: Alone,
    ready: Callable[[dict[str, Any]], None],
    reload: Callable[[], Config] | None,
) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    again = asyncio.Event()

    def stop() -> None:
        (again if told.is_set() else told).set()

    def read_again() -> None:
        if reload is None:
            return
        try:
            gateway.reload(reload())
        except ConfigError as error:
            log.error("configuration not taken, the old one stays", reason=str(error))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, read_again)
    addresses = await gateway.start()
    try:
        addresses["api"] = await _serve_backends(gateway, surroundings)
    except BaseException:
        await gateway.stop()
        raise
    ready(addresses)
    await told.wait()
    drain = asyncio.ensure_future(gateway.drain())
    hurry = asyncio.ensure_future(again.wait())
    await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
    for task in (drain, hurry):
        task.cancel()
    if gateway.api is not None:
        await gateway.api.stop()
    await gateway.stop()
    log.info("stopped")


async def _serve_backends(gateway: Gateway, surroundings: Alone) -> str:
    """Opens the backends' door, if there is to be one; its address."""
    if surroundings.api is None or surroundings.fork is None:
        return ""
    from gateway.api.thread import ApiThread

    address = f"http://{address_of(surroundings.api)}"
    gateway.api = ApiThread(gateway, surroundings.fork, surroundings.api)
    await gateway.api.start()
    return address


__all__ = ["StartError", "calm_collector", "raise_descriptor_limit", "say_descriptors", "serve"]
