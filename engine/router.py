"""The router: who gets which record of a block, and how interest changes on the way.

Fed by the tail; folds each block into the view, then walks it: runs of plain records go to ext/fanout in one call,
and at each control event interest changes exactly there, between the record before and the record after it.

The rules, in order of the event: a conversation's sessions follow it before `conversation.created` is delivered; a
member's before their `member.added`; who is removed or leaves gets that event, and follows no longer after it. In
channels `member.*` goes only to the sessions of those who may see it: its subject and its sender.

Invariants: after the last step of route() the view, the fan-out and interest stand at the same sequence; a record
routed twice is an error of the caller. Cost: Python only for control events.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.access import may_see
from engine.fanout import Fanout
from engine.ports import SessionsOfUser, StateView
from engine.schema import ADDED, CREATED, LEFT, REMOVED
from engine.state.rows import Control

MEMBER_PREFIX = "member."
STEP_MEMBERS = 500  # between two chances for others


class Router:
    """One for each worker, on its loop."""

    def __init__(self, view: StateView, fanout: Fanout, sessions: SessionsOfUser) -> None:
        self._view = view
        self._fanout = fanout
        self._sessions = sessions

    @property
    def congested(self) -> bool:
        """Whether the flush must catch up first."""
        return self._fanout.congested

    def route(self, block: bytes, start: int) -> Iterator[None]:
        """Routes records from index `start` to the end of a committed block, in steps of less than a millisecond: a new
        group of thousands holds nobody else up. Nothing else may be routed before the last step."""
        controls: list[Control] = []
        yield from self._view.apply_steps(block, controls)
        at = start
        for control in controls:
            if control.index < at:
                continue  # folded before this worker began: interest was filled from the state after it
            if control.record.type not in _ROUTED_HERE and not control.record.type.startswith(MEMBER_PREFIX):
                continue
            self._fanout.route(block, at, control.index)
            if control.record.type == CREATED:
                yield from self._follow_all(control)
                self._fanout.route(block, control.index, control.index + 1)
            else:
                self._route_member(block, control)
            at = control.index + 1
            yield
        self._fanout.route(block, at)

    def _follow_all(self, control: Control) -> Iterator[None]:
        """All members of a new conversation. Whoever says hello between two steps follows by themselves: the fan-out is
        told that this event counts already."""
        self._fanout.ahead = control.record.sequence
        members = control.payload["members"]
        for start in range(0, len(members), STEP_MEMBERS):
            for user, _role in members[start : start + STEP_MEMBERS]:
                self._follow(control.record.conversation, int(user))
            yield

    def _route_member(self, block: bytes, control: Control) -> None:
        record = control.record
        conversation, subject = record.conversation, int(control.payload["user"])
        if record.type == ADDED:
            self._follow(conversation, subject)
        if self._is_channel(conversation):
            self._fanout.route_to(
                block,
                control.index,
                [
                    session
                    for user in {subject, record.sender}
                    if may_see(self._view.membership(user, conversation), "channel", record)
                    for session in self._sessions.of_user(user)
                ],
            )
        else:
            self._fanout.route(block, control.index, control.index + 1)
        if record.type in (REMOVED, LEFT):
            for session in self._sessions.of_user(subject):
                self._fanout.unfollow(conversation, session)

    def _follow(self, conversation: int, user: int) -> None:
        for session in self._sessions.of_user(user):
            self._fanout.follow(conversation, session)

    def _is_channel(self, conversation: int) -> bool:
        known = self._view.conversation(conversation)
        return known is not None and known.kind == "channel"


_ROUTED_HERE = frozenset({CREATED})
