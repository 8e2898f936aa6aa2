"""The log: segments of blocks of records, one writer, any number of readers. Format: engine/LOG_FORMAT.md."""

from engine.log.before import look_at_data, writer_of
from engine.log.cursors import CursorStore
from engine.log.events import EventLog
from engine.log.reader import Reader
from engine.log.verbs import saved_position
from engine.log.writer import Log

__all__ = ["CursorStore", "EventLog", "Log", "Reader", "look_at_data", "saved_position", "writer_of"]
