"""What a question has to be answered: pages of history, members and conversations, from the naive model.

Asked by verdicts.py. The answer must be right for one moment of the log between the question and the answer; of
history, pages must also join: what lies between a page's end and its `next` must be nothing that the user may see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bench.simulation.truth import Talk, Truth, Wrong, at

if TYPE_CHECKING:
    from bench.simulation.device import Device
    from bench.simulation.verdicts import Verdicts

PAGE_BYTES_MAX = 256 << 10


class Question(NamedTuple):
    """What was asked, and where the worker stood then."""

    op: str
    moment: int
    conversation: int = 0
    before: int | None = None
    after: int = 0
    limit: int = 50
    former: bool = False


def check_answer(verdicts: Verdicts, device: Device, question: Question, answer: Any) -> None:
    """`answer` is a body, or the code of an error."""
    truth = verdicts.truth
    check = {"history": _history, "members": _members, "conversations": _conversations}[question.op]
    wrong = ""
    for moment in range(truth.end, question.moment - 1, -1):
        wrong = check(verdicts, device, question, answer, moment)
        if not wrong:
            return
    said = answer if isinstance(answer, str) or question.op != "history" else {**answer, "events": _numbers(answer)}
    raise Wrong(f"{device.name} asked {question} and got {said}; {wrong} (the log ends at {truth.end})")


def _numbers(answer: dict[str, Any]) -> list[int]:
    return [int(event["sequence"] if isinstance(event, dict) else event[0]) for event in answer["events"]]


def _history(verdicts: Verdicts, device: Device, question: Question, answer: Any, moment: int) -> str:
    from bench.simulation.verdicts import raw

    truth = verdicts.truth
    talk = truth.talk(question.conversation, moment)
    known = talk is not None and any(stay.joined <= moment for stay in talk.stays.get(device.user, ()))
    if isinstance(answer, str):
        return "" if answer == "unknown_conversation" and not known else f"expected a page at {moment}"
    talk = truth.talk(question.conversation, truth.end)
    if talk is None or device.user not in talk.stays:
        return "they were never in it"
    below = min(question.before or moment + 1, moment + 1)
    visible = [e for e in reversed(talk.events) if e.sequence < below and talk.sees(device.user, e)]
    limit = min(question.limit, 100)
    expected = [event.sequence for event in visible[:limit]]
    got = _numbers(answer)
    held = sum(len(event.record) for event in visible[: len(got)])
    if held >= PAGE_BYTES_MAX and got == expected[: len(got)] and answer["next"] == got[-1]:
        return ""  # a page of large events ends early
    if got != expected:
        return f"expected {expected} at {moment}"
    for event, body in zip(visible, answer["events"], strict=False):
        verdicts.same(device, event, raw(device, body), question.moment)
    following = answer["next"]
    if following is None:
        return "" if len(visible) == len(got) else f"more is there: {[e.sequence for e in visible[len(got) :]]}"
    if answer["trimmed"] or answer.get("damaged"):
        return "nothing was trimmed or damaged"
    if following != got[-1] or len(got) < limit:
        return f"next is {following}, expected None or the last of a full page"
    return ""


def _members(verdicts: Verdicts, device: Device, question: Question, answer: Any, moment: int) -> str:
    talk = verdicts.truth.talk(question.conversation, moment)
    role = talk.role(device.user, moment) if talk is not None else ""
    if talk is None or not role:
        return "" if answer == "unknown_conversation" else "expected unknown_conversation"
    if talk.kind == "channel" and role in ("writer", "follower"):
        return "" if answer == "forbidden" else "expected forbidden"
    if isinstance(answer, str):
        return f"expected a page at {moment}"
    roles = {user: talk.role(user, moment) for user in sorted(talk.roles) if user > question.after}
    expected = [(user, role) for user, role in roles.items() if role]
    got = [(item["user"], item["role"]) for item in answer["items"]]
    if got != expected[: question.limit]:
        return f"expected {expected} at {moment}"
    following = expected[question.limit - 1][0] if len(expected) > question.limit else None
    return "" if answer["next"] == following else f"expected next {following}"


def _conversations(verdicts: Verdicts, device: Device, question: Question, answer: Any, moment: int) -> str:
    truth = verdicts.truth
    expected = []
    for number in sorted(truth.talks_of.get(device.user, ())):
        talk = truth.talk(number, moment)
        if number <= question.after or talk is None or all(s.joined > moment for s in talk.stays[device.user]):
            continue
        role = talk.role(device.user, moment)
        if role or question.former:
            expected.append((number, *_entry(truth, talk, device.user, role, moment)))
    got = [
        tuple(
            item[k]
            for k in (
                "conversation",
                "kind",
                "role",
                "title",
                "member_count",
                "head",
                "conversation_sequence",
                "closed",
            )
        )
        for item in answer["items"]
    ]
    if got != expected[: question.limit]:
        return f"expected {expected} at {moment}"
    following = expected[question.limit - 1][0] if len(expected) > question.limit else None
    return "" if answer["next"] == following else f"expected next {following}"


def _entry(truth: Truth, talk: Talk, user: int, role: str, moment: int) -> tuple[Any, ...]:
    """(kind, role, title, member_count, head, conversation_sequence, closed)."""
    if not role:
        last = max(stay.last or 0 for stay in talk.stays[user] if stay.joined <= moment)
        return talk.kind, "former", "", 0, last, truth.events[last - 1].conversation_sequence, False
    length = talk.length(moment)
    title, count = at(talk.titles, moment, ""), at(talk.counts, moment, 0)
    return talk.kind, role, title, count, talk.events[length - 1].sequence, length, at(talk.closed, moment, False)
