"""Deleted messages, and edits of them, are served without what they said: of devices and of services alike."""

from __future__ import annotations

from pathlib import Path

import msgpack

from engine import schema
from engine.answers import key_of, pack_proposal
from engine.tombstones import TOMBSTONE, with_tombstones
from ext.record import decode, record_key
from tests.support.sequencer_driver import Driver, records_of


def test_what_a_service_has_said_goes_with_its_key(tmp_path: Path) -> None:
    """The tombstone is a whole record of ten fields; what stands is served byte for byte, key and all."""
    driver = Driver(tmp_path / "state")
    steps = 0

    def ask(type_name: str, payload: bytes, target: int = 1) -> int:
        nonlocal steps
        steps += 1
        key = key_of(7, str(steps))
        answer = driver.submit(pack_proposal(7, 0, 0, target, type_name, payload, person=target == 8, key=key))[0]
        assert answer.status == 0, answer
        return answer.sequence

    said = [ask("message", text, 8) for text in (b"first", b"second")]
    edits = [ask(schema.EDITED, schema.pack(schema.Edited(target, b"new"))) for target in said]
    ask(schema.DELETED, schema.pack(schema.Deleted(said[0])))
    records = [record for block in driver.log.blocks for record in records_of(block)]
    served = with_tombstones(driver.view(), records)
    for record, one in zip(records, served, strict=True):
        before, after = decode(record), decode(one)
        if before.sequence in (said[0], edits[0]):
            assert after == before._replace(type=TOMBSTONE, payload=b"")
            assert list(after) == msgpack.unpackb(one)
            assert record_key(record) and not record_key(one)
        else:
            assert one == record
    driver.close()
