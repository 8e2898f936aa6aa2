"""The engine as one object: log, state, sequencer and cursors of a data directory, opened and closed together.

What gonets.py and the gateway hold. Opening takes the log's lock, verifies its tail, folds what the saved state
lacks (seconds at most: a save is never far behind) and starts the threads; closing commits what was taken in, saves
the state and lets go. After a failure of the writer, reading goes on and every publish is answered `unavailable`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from engine.admitter import Admitter
from engine.conversations import GROUP_MEMBERS_MAX
from engine.errors import EngineClosed, EngineUnable, LogDamaged, StateDamaged
from engine.limits import TABLES_BYTES_MAX, VIEW_BYTES_MAX
from engine.log import Log
from engine.log.readers import backup_age_s
from engine.log.retention import INTERVAL_S, Retention
from engine.log.space import Space
from engine.log.trim import Wanted
from engine.sequencer import Sequencer, clock_us
from engine.state.saved import SavedState
from engine.state.saver import NO_SPACE, Saver
from engine.state.snapshot import restore_state
from engine.state.view import View
from ext.record import decode

LAG_SAVES = 8  # saves that admission may be ahead of the saver before it waits: bounds memory and replay


class Engine:
    """Use `Engine.open`."""

    def __init__(
        self, path: Path, log: Log, saved: SavedState, saver: Saver, sequencer: Sequencer, space: Space
    ) -> None:
        self.path = path
        self.log = log
        self.sequencer = sequencer
        self.space = space
        self._saved = saved
        self.saver = saver
        self._retention: Retention | None = None
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        on_answers: Callable[[bytes], None],
        on_committed: Callable[[int], None],
        shard: int = 0,
        segment_bytes: int = 1 << 30,
        intake_bytes_max: int = 32 << 20,
        tables_bytes_max: int = TABLES_BYTES_MAX,
        block_events_max: int = 1 << 16,
        save_events_max: int = 1_000_000,
        save_interval_s: float = 10.0,
        group_members_max: int = GROUP_MEMBERS_MAX,
        clock: Callable[[], int] = clock_us,
        free_bytes_min: int = 0,
        open_log: Callable[..., Log] = Log.open,
        threads: bool = True,
    ) -> Engine:
        """Both callbacks come from the committer's thread, after the sync: store, wake, return.

        Without `threads` nothing happens by itself: the caller takes the steps of `sequencer` and `saver`.
        """
        log = open_log(path, shard=shard, segment_bytes=segment_bytes)
        saved, space = None, Space(path, free_bytes_min)
        try:
            if not (path / "state" / "data.mdb").exists():
                restore_state(path, shard, log.reader().first_sequence, log.last_sequence)
            saved = SavedState.open(path / "state", shard=shard)
            saver = Saver(saved, log.reader(), events_max=save_events_max, interval_s=save_interval_s)
            _catch_up(saver, path / "state")
            admitter = Admitter(
                saved,
                shard=shard,
                epoch=log.epoch,
                sequence=log.last_sequence,
                number=saver.number,
                last_hash=log.last_hash,
                block_events_max=block_events_max,
                group_members_max=group_members_max,
            )
            sequencer = Sequencer(
                log,
                saved,
                admitter,
                saver,
                on_answers=on_answers,
                on_committed=on_committed,
                intake_bytes_max=intake_bytes_max,
                tables_bytes_max=tables_bytes_max,
                lag_events_max=LAG_SAVES * save_events_max,
                last_time_us=_last_time_us(log),
                clock=clock,
                is_short=space.look,
            )
        except BaseException:
            if saved is not None:
                saved.close()
            log.close()
            raise

        saver.on_saved = partial(_saved_once_more, log, saved, sequencer)
        if threads:
            sequencer.start()
            saver.start()
        return cls(path, log, saved, saver, sequencer, space)

    @property
    def durability(self) -> str:
        """What a receipt means here: "fsync", or that nothing survives (tmpfs)."""
        return self.log.durability

    @property
    def filesystem(self) -> str:
        """The file system under the log."""
        return self.log.filesystem

    def view(self, *, bytes_max: int = VIEW_BYTES_MAX) -> View:
        """A view for one owner thread, at the saved position: fold the blocks after `view.sequence` into it."""
        if self._closed:
            raise EngineClosed("the engine is closed")
        return View(self._saved, bytes_max=bytes_max)

    def retain(self, path: Path, *, keep_bytes: int, keep_days: float, interval_s: float = INTERVAL_S) -> None:
        """From now on trims the log by itself, as engine/log/retention.py says; both 0: does nothing."""
        if keep_bytes or keep_days:
            self._retention = Retention(path, Wanted(keep_bytes=keep_bytes, keep_days=keep_days), interval_s)
            self._retention.start()

    def second(self) -> None:
        """Now and then: notices what another process has trimmed, whether or not there is anything to save."""
        self.log.drop_trimmed()

    def stats(self) -> dict[str, float]:
        """Counters for the metrics."""
        retention = self._retention
        free_bytes, backup_age_s = self.space.free_bytes(), self._backup_age_s()
        return {
            **({} if free_bytes is None else {"data_free_bytes": free_bytes}),
            **({} if backup_age_s is None else {"backup_age_seconds": backup_age_s}),
            "retention_removed_bytes": 0 if retention is None else retention.removed_bytes,
            "retention_held_segments": 0 if retention is None else retention.held_segments,
            "retention_failures": 0 if retention is None else retention.failures,
            "log_sequence": self.log.last_sequence,
            "damage_places": self.log.damage.places,
            "damage_reads": self.log.damage.reads,
            "state_saved_sequence": self.saver.position,
            "log_commits": self.sequencer.commits,
            "log_bytes": self.sequencer.committed_bytes,
            "log_sync_seconds": self.sequencer.sync_ns / 1e9,
            "log_slow_commits": self.sequencer.slow_commits,
            "service_keys": self.sequencer.kept_keys,
            "intake_bytes": self.sequencer.intake_bytes,
            "writer_fenced": int(self.sequencer.failure is not None),
            "disk_short": int(self.space.look()),
            "saver_failed": int(self.saver.failure is not None),
        }

    def _backup_age_s(self) -> float | None:
        try:
            return backup_age_s(self.path)
        except OSError:  # whoever backs up or trims says it better
            return None

    def close(self) -> None:
        """Commits what was taken in, saves, releases the lock. No view may be used after it."""
        if self._closed:
            return
        try:
            if self._retention is not None:
                self._retention.stop()
            self.sequencer.close()
            self.saver.stop()
        finally:
            self.release()

    def release(self) -> None:
        """Lets go of the files as they are. Alone, and without threads, it is what a crash leaves."""
        self._closed = True
        self._saved.close()
        self.log.close()


def _saved_once_more(log: Log, saved: SavedState, sequencer: Sequencer) -> None:
    sequencer.ring()  # shedding and a waiting admission look again
    if sequencer.failure is None:
        log.reap_readers()
    log.drop_trimmed()
    saved.env.reader_check()


def _catch_up(saver: Saver, path: Path) -> None:
    try:
        saver.catch_up()
    except LogDamaged as error:
        raise LogDamaged(
            f"the state was saved at {saver.position}, and what follows can't be folded into it: {error.detail}",
            hint="`gonets log check` names all damage, `gonets log dump` gives the rest; to go on, restore a backup",
        ) from error
    except NO_SPACE as error:
        raise EngineUnable(
            f"no space to save the state in {path}: {error}", hint="make room on this file system"
        ) from error


def _last_time_us(log: Log) -> int:
    """The time of the newest event, below which admission's clock never falls."""
    if not log.last_sequence:
        return 0
    data = log.reader().record(log.last_sequence)
    if data is None:
        raise StateDamaged(f"the log says it ends at {log.last_sequence}, but there is no record")
    return decode(data).time
