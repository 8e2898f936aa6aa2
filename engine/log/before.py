"""A data directory before its log is opened: what an opening would find, and who has it open.

Asked by the gateway before it binds, writes or starts anything, so that a refusal is one line and leaves no trace.
Takes no lock for longer than a look, writes nothing, and judges no bytes beyond the header of the newest segment:
whether the log is whole is the opening's business.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from engine.errors import BadArgument, EngineError, LogVersion
from engine.log import format as fmt
from engine.log.manifest import manifest_numbers, manifest_path
from engine.log.segments import Segments


def refuse_backup(data: Path) -> None:
    """BadArgument for a directory that holds a backup: a log in it would make it neither."""
    if data.is_dir() and (numbers := manifest_numbers(data)):
        raise BadArgument(
            f"{data} is a backup: it holds {manifest_path(data, numbers[-1]).name}",
            hint="make a log of it in another directory, `gonets log restore DIR --data NEW`, and serve that",
        )


def look_at_data(data: Path, shard: int) -> bool:
    """Whether opening would begin a new log here. Raises BadArgument for a backup, LogVersion for a log of another
    format or shard, OSError."""
    refuse_backup(data)
    segments = Segments(data / fmt.FOLDER, shard=shard, written_here=False)
    try:
        if segments.folder.is_dir():
            segments.scan()
        if not segments.firsts:
            return True
        segments.header(segments.firsts[-1])
    except LogVersion:
        raise
    except EngineError:  # damage, which whoever opens it for writing may mend, or names
        pass
    finally:
        segments.close()
    return False


def writer_of(data: Path) -> str:
    """The pid of the process that has the log open for writing, "unknown" if it has not said; empty if none has."""
    with suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(data / fmt.FOLDER / fmt.LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        finally:
            os.close(descriptor)
    return ""
