"""Pollers that accept from one socket: whoever has its share of the sessions lets the others go first."""

from __future__ import annotations

import socket

from tests.support.poller_rig import Rig


def test_whoever_has_its_share_leaves_the_next_one_to_others() -> None:
    with Rig() as full, Rig() as empty:
        empty.poller.unlisten()
        empty.poller.listen(full.listener.fileno())
        full.device()
        full.poller.share(1)
        with socket.create_connection(full.address):
            full.turn()
            assert full.table.open_count == 1
            empty.until(lambda: empty.table.open_count == 1)
            full.quiet()
            assert full.table.open_count == 1


def test_whom_nobody_else_takes_it_takes_all_the_same() -> None:
    with Rig() as rig:
        rig.device()
        rig.poller.share(1)
        for expected in (2, 3):
            rig.device()
            assert rig.table.open_count == expected
        rig.poller.share(0)
        with socket.create_connection(rig.address):
            rig.turn()
            assert rig.table.open_count == 4
