"""Admission: from a batch of proposals to records of a block and answers, all facts in memory."""

from __future__ import annotations

import random

from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.measured import SEED, measure_prepared
from engine import pack_proposal
from ext.admission import DONE, Admission, check_batch
from ext.block import BlockBuilder
from ext.keys import KeyTable
from ext.saving import load_windows
from ext.tables import DialogTable, HeadTable, MemberTable, WindowTable

PROPOSALS = 1_000
CONVERSATIONS, USERS, GROUP, MEMBER = 500, 1_000, 2, 3
PAYLOAD_BYTES = 213
DAY_US, KEYS_MAX = 86_400_000_000, 1 << 20


class Admitting:
    """Groups and members that are known; each user publishes on."""

    def __init__(self) -> None:
        self.heads, self.windows, self.members = HeadTable(), WindowTable(), MemberTable()
        self.builder = BlockBuilder()
        for conversation in range(1, CONVERSATIONS + 1):
            self.heads.load(conversation, GROUP, 0, 0, 0, 0, 0, False, True)
        self.admission = Admission(
            self.heads,
            self.windows,
            self.members,
            DialogTable(),
            KeyTable(DAY_US),
            self.builder,
            0,
            CONVERSATIONS + 1,
            0,
            bytes([0xFF]) * 64,
            1 << 20,
            1 << 16,
            KEYS_MAX,
        )
        draw = random.Random(SEED)
        self.pairs = [(draw.randrange(1, USERS + 1), draw.randrange(1, CONVERSATIONS + 1)) for _ in range(PROPOSALS)]
        for user, conversation in self.pairs:
            self.members.load(conversation, user, MEMBER)
        users = sorted({user for user, _ in self.pairs})
        load_windows(self.windows, [user.to_bytes(8, "big") + (1).to_bytes(8, "big") for user in users], [])
        self.counters = dict.fromkeys(users, 0)

    def batch(self) -> bytes:
        """The next publish of each, after the block before was finished."""
        if self.builder.count:
            self.builder.finish(
                first_sequence=self.admission.sequence - PROPOSALS + 1, shard=0, epoch=1, previous_hash=bytes(32)
            )
            self.admission.take_answers()
        parts = []
        for user, conversation in self.pairs:
            self.counters[user] += 1
            parts.append(pack_proposal(user, 1, self.counters[user], conversation, "message", bytes(PAYLOAD_BYTES)))
        return b"".join(parts)

    def run(self, batch: bytes) -> None:
        """What is measured."""
        assert self.admission.run(batch, 0, 1) == DONE
        assert self.builder.count == PROPOSALS


def bench_admission(benchmark: BenchmarkFixture) -> None:
    """Repeat, membership, rights, number, record, checksum, answer."""
    admitting = Admitting()
    measure_prepared(benchmark, PROPOSALS, lambda: (admitting.batch(),), admitting.run)
    assert admitting.admission.sequence == admitting.admission.answered


def bench_check_batch(benchmark: BenchmarkFixture) -> None:
    """The look at the lengths of what another process sends."""
    admitting = Admitting()
    batch = admitting.batch()
    measure_prepared(benchmark, PROPOSALS, lambda: (batch,), check_batch)
