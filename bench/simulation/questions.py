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
    every = [e for e in reversed(talk.events) if e.sequence < below and talk.sees(device.user, e)]
    visible = [e for e in every if e.sequence >= truth.first]
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
    is_trimmed = talk.events[0].sequence < truth.first
    if answer.get("damaged") or (answer["trimmed"] and not (is_trimmed and following is None)):
        return "nothing was trimmed or damaged there"
    if following is None:
        if len(every) > len(visible) and not answer["trimmed"]:
            return f"it doesn't say that {[e.sequence for e in every[len(visible) :]]} were trimmed"
        if answer["trimmed"]:
            verdicts.count("pages that end with what was trimmed")
        return "" if len(visible) == len(got) else f"more is there: {[e.sequence for e in visible[len(got) :]]}"
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
    """Heads, roles and titles are each of some moment since the question: a state that was saved is ahead of the
    worker, and a block is folded in slices. `moment` is the newest that may show."""
    truth, user = verdicts.truth, device.user
    moments = range(question.moment, moment + 1)
    listed = {
        number: [_is_listed(truth, number, user, question.former, one) for one in moments]
        for number in sorted(truth.talks_of.get(user, ()))
        if number > question.after
    }
    got = [item["conversation"] for item in answer["items"]]
    is_full = len(got) == question.limit
    end = got[-1] if is_full else max(listed, default=0)
    owed = {number for number, there in listed.items() if all(there) and number <= end}
    allowed = {number for number, there in listed.items() if any(there)}
    if got != sorted(set(got)) or len(got) > question.limit or not owed <= set(got) <= allowed:
        return f"expected {sorted(owed)} at least, {sorted(allowed)} at most"
    more = [listed[number] for number in listed if number > end]
    following = answer["next"]
    if following not in (None, end if is_full else None) or (following is None and any(all(there) for there in more)):
        return f"next is {following}, beyond {end} there are {sum(map(any, more))}"
    for item in answer["items"]:
        if wrong := _wrong_entry(truth, user, item, moments):
            return wrong
    return ""


def _is_listed(truth: Truth, number: int, user: int, former: bool, moment: int) -> bool:
    talk = truth.talk(number, moment)
    if talk is None or all(stay.joined > moment for stay in talk.stays[user]):
        return False
    return former or bool(talk.role(user, moment))


def _wrong_entry(truth: Truth, user: int, item: dict[str, Any], moments: range) -> str:
    talk = truth.talks[item["conversation"]]
    role, place = item["role"], (item["head"], item["conversation_sequence"])
    shown = (item["title"], item["member_count"], item["closed"])
    if role == "former":
        left = [moment for moment in moments if not talk.role(user, moment)]
        places = {_place_of_leaving(truth, talk, user, moment) for moment in left} - {(0, 0)}
        fine = place in places and shown == ("", 0, False)
    else:
        roles = {talk.role(user, moment) for moment in moments}
        lengths = {talk.length(moment) for moment in moments} - {0}
        fine = role in roles and place in {(talk.events[length - 1].sequence, length) for length in lengths}
        for history, default, value in zip((talk.titles, talk.counts, talk.closed), ("", 0, False), shown, strict=True):
            fine &= value in {at(history, moment, default) for moment in moments}
    if fine and item["kind"] == talk.kind:
        return ""
    return f"the entry {item} is of no moment from {moments.start} to {moments.stop - 1}"


def _place_of_leaving(truth: Truth, talk: Talk, user: int, moment: int) -> tuple[int, int]:
    """(head, conversation sequence) that a former member is shown; (0, 0) if they had never been in it."""
    last = max((stay.last or 0 for stay in talk.stays[user] if stay.joined <= moment), default=0)
    number = truth.events[last - 1].conversation_sequence if last >= truth.first else 0
    return (last, number) if last <= moment else (0, 0)
