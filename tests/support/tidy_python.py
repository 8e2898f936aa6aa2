"""The habits of Python files, as functions from source text to complaints. tests/test_tidy.py applies them.

A complaint is (line, words). What ruff and mypy already see is not looked at again here.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

Complaint = tuple[int, str]

DOCSTRING_LINES_MAX = 15
FUNCTION_LINES_MAX = 70

# A word that means one of ours, and the one to use. Whole words of an identifier, not parts of them.
# `room` is not here: it is how much fits into something.
SYNONYMS = {
    "topic": "conversation (Kafka's topics only in files named after Kafka)",
    "chat": "conversation",
    "chatroom": "conversation",
    "inbox": "outbox, or the log",
    "mailbox": "outbox",
    "subscriber": "consumer of a subscription, or session",
    "watcher": "interest",
    "seq": "sequence",
    "seqno": "sequence",
    "seqnum": "sequence",
    "lsn": "sequence",
    "conv": "conversation",
    "convo": "conversation",
    "msg": "message",
    "evt": "event",
    "pos": "position, or at",
    "generationid": "epoch",
    "ackno": "ack",
    "acknowledgement": "ack",
    "acknowledgment": "ack",
    "participant": "member",
    "envelope": "record",
}
ID_SUFFIXES = {"channel_id", "group_id", "dialog_id", "conversation_id", "room_id", "user_id", "device_id", "event_id"}
OFFSET_OF = {"sequence", "event", "log", "message", "record", "stream", "resume"}


def words_of(identifier: str) -> list[str]:
    """The words of snake_case and CamelCase, lower case."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", identifier)
    return [word for word in spaced.lower().split("_") if word]


def synonym(identifier: str) -> str | None:
    """What to say about an identifier that uses another word for one of ours, or nothing."""
    if identifier.isupper() and identifier.startswith("MSG_"):
        return None  # flags of send(2)
    words = words_of(identifier)
    for word in words:
        for form in (word, word.removesuffix("s")):
            if form in SYNONYMS:
                return f"{identifier}: not {word!r} but {SYNONYMS[form]}"
    if identifier.lower() in ID_SUFFIXES:
        return f"{identifier}: an id is named by its thing alone: {identifier.lower().removesuffix('_id')}"
    if "offset" in words and OFFSET_OF & set(words) and "byte" not in words and "bytes" not in words:
        return f"{identifier}: an offset counts bytes (or is Kafka's); a place in the log is a sequence or a position"
    return None


def wrong_words(source: str) -> Iterator[Complaint]:
    """Identifiers that use another word for one of DESIGN's; each once."""
    seen = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string not in seen:
            seen.add(token.string)
            if complaint := synonym(token.string):
                yield token.start[0], complaint


def docstring_complaints(source: str) -> Iterator[Complaint]:
    """A file says first what it is, in at most 15 lines."""
    text = ast.get_docstring(ast.parse(source))
    if not text:
        yield 1, "no module docstring: role, place on the path, owner of what, invariants, cost"
    elif (lines := len(text.splitlines())) > DOCSTRING_LINES_MAX:
        yield 1, f"module docstring of {lines} lines; at most {DOCSTRING_LINES_MAX}"


def function_lengths(source: str) -> Iterator[tuple[str, int, int]]:
    """(dotted name, first line, lines) of each function; a nested one counts in its outer one too."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, int, int]]:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}.{child.name}" if prefix else child.name
                if not isinstance(child, ast.ClassDef):
                    yield name, child.lineno, (child.end_lineno or child.lineno) - child.lineno + 1
            yield from visit(child, name)

    return visit(ast.parse(source), "")
