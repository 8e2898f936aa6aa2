"""What keeps a server from starting and can be known before a port is bound, a file written, or a child started.

Asked by serve.py and by the supervisor alike, so that a mistake is the same line with workers and without. Whatever is
passed over here (damage, a directory that can't be written) is found by the opening itself.
"""

from __future__ import annotations

from pathlib import Path

from engine import Config, EngineError, limits, look_at_data, writer_of
from gateway.listener import StartError, data_refused


def begins_log(config: Config) -> bool:
    """Whether the data directory holds no log yet. Raises StartError."""
    data = Path(config.server.data)
    if reason := limits.absurdity(config):
        raise StartError(reason)
    try:
        return look_at_data(data, config.log.shard)
    except EngineError as error:
        raise StartError(str(error)) from None
    except OSError as error:
        raise data_refused(config.server.data, error) from None


def check_trust(config: Config) -> None:
    """Keys, revocations and certificate can be had, as each worker will want them. Raises StartError."""
    if not (config.auth.keys or config.auth.revoked or config.tls.certificate):
        return  # a development key is made by whoever comes first
    from gateway.trust import TrustError, check

    try:
        check(config, Path(config.server.data))
    except TrustError as error:
        raise StartError(str(error)) from None


def check_writer(config: Config, *, take_over: bool) -> None:
    """Nobody else has the log open: no other supervisor does where this is asked. Raises StartError."""
    if pid := writer_of(Path(config.server.data)):
        where = f"server.data = {config.server.data!r}: its log is in use by process {pid}"
        if take_over:
            raise StartError(f"{where}, which runs without --workers and hands nothing over: stop it first")
        raise StartError(f"{where}: stop that, or choose another data directory")
