"""The log: segments of blocks of records, one writer, any number of readers. Format: engine/LOG_FORMAT.md."""

from engine.log.reader import Reader
from engine.log.writer import Log

__all__ = ["Log", "Reader"]
