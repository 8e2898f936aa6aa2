"""REPORT_FORMAT.md and schema.py say the same; its example is a report; its way to read a histogram works."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import msgspec
import pytest

from bench import pages, schema
from tests.support import made_reports as made

TEXT = (Path(schema.__file__).parent / "REPORT_FORMAT.md").read_text(encoding="utf-8")
EMPTY: tuple[object, ...] = ({}, [], "", None)


def tables() -> dict[str, dict[str, tuple[str, str]]]:
    """Struct → field → type and meaning, as the page has them."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for name, body in re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", TEXT, re.M | re.S):
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", body, re.M)
        assert len(rows) == len({row[0] for row in rows}) == body.count("\n|") - 2, f"a row of {name} can't be read"
        found[name] = {field: (kind, meaning) for field, kind, meaning in rows}
    return found


def structs() -> dict[str, type[msgspec.Struct]]:
    """All of schema.py."""
    named = inspect.getmembers(schema, lambda one: inspect.isclass(one) and issubclass(one, msgspec.Struct))
    return {name: one for name, one in named if one.__module__ == schema.__name__}


def test_every_struct_has_a_table_and_no_table_is_of_nothing() -> None:
    """In both directions."""
    assert set(tables()) == set(structs())


@pytest.mark.parametrize("name", sorted(structs()))
def test_every_field_is_named(name: str) -> None:
    """None extra; with a type that is the code's, and a meaning."""
    rows = tables()[name]
    fields = msgspec.structs.fields(structs()[name])
    assert set(rows) == {field.name for field in fields}
    for field in fields:
        kind, meaning = rows[field.name]
        assert meaning.strip(" .")
        assert kind_of(field.type, kind), f"{name}.{field.name}: {kind!r} is not {field.type}"


def kind_of(annotation: object, words: str) -> bool:
    """Whether words of the page are of a type of the code."""
    info = msgspec.inspect.type_info(annotation)
    optional = isinstance(info, msgspec.inspect.UnionType)
    if optional != words.endswith(" or null"):
        return False
    if isinstance(info, msgspec.inspect.UnionType):
        (info,) = (one for one in info.types if not isinstance(one, msgspec.inspect.NoneType))
    words = words.removesuffix(" or null")
    match info:
        case msgspec.inspect.StructType():
            return words == f"`{info.cls.__name__}`"
        case msgspec.inspect.ListType():
            inner = info.item_type
            if isinstance(inner, msgspec.inspect.StructType):
                return words == f"list of `{inner.cls.__name__}`"
            return words.startswith("list of ") and "`" not in words
        case msgspec.inspect.TupleType():
            return words.startswith("[")
        case msgspec.inspect.DictType():
            inner = info.value_type
            if isinstance(inner, msgspec.inspect.StructType):
                return words == f"object of `{inner.cls.__name__}`"
            return words.startswith("object") and "`" not in words
        case msgspec.inspect.BoolType():
            return words == "true, false"
        case msgspec.inspect.StrType():
            return words in ("text", "moment")
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return not words.startswith(("text", "list", "object", "true", "`", "["))
    return False


def test_the_checks_bite() -> None:
    """Wrong words are found."""
    assert kind_of(float | None, "ms or null") and not kind_of(float, "ms or null") and not kind_of(float | None, "ms")
    assert not kind_of(str, "number") and not kind_of(list[schema.Run], "list of `Tick`") and not kind_of(bool, "text")


def example() -> str:
    """The JSON of the page."""
    found = re.search(r"```json\n(.*?)```", TEXT, re.S)
    assert found
    return found[1]


def test_the_example_is_a_report(tmp_path: Path) -> None:
    """Strictly: every field in it is known, and it can be drawn."""
    (tmp_path / "r.json").write_text(example(), encoding="utf-8")
    report = schema.read(tmp_path / "r.json")
    assert _without_empty(json.loads(msgspec.json.encode(report))) == _without_empty(json.loads(example()))
    assert "Two people each" in pages.render(report)


def _without_empty(value: object) -> object:
    """As the example leaves out what can be left out."""
    if isinstance(value, dict):
        kept = {name: _without_empty(one) for name, one in value.items() if one not in EMPTY}
        return {name: one for name, one in kept.items() if one not in (False, 0) and one not in EMPTY}
    return [_without_empty(one) for one in value] if isinstance(value, list) else value


def test_the_way_to_read_a_histogram_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's own lines, on the page's own report; and on several runs."""
    found = re.search(r"```python\n(.*?)```", TEXT, re.S)
    assert found
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.json").write_text(example(), encoding="utf-8")
    names: dict[str, object] = {}
    exec(found[1], names)
    assert float(capsys.readouterr().out.split()[0]) == pytest.approx(40, rel=0.001)
    values = [row.value_iterated_to / 1e6 for row in names["histogram"].get_recorded_iterator()]  # type: ignore[attr-defined]
    assert values == pytest.approx([0.5, 0.8, 1, 2, 40], rel=0.001)
    plotted = (tmp_path / "deliver.hgrm").read_text(encoding="utf-8")
    assert "Percentile TotalCount" in plotted and "40.0" in plotted


def test_reports_are_written_whole_and_read_again(tmp_path: Path) -> None:
    """What was written is what is read, without anything else beside it; unknown fields are no fault."""
    for make in (made.of_runs, made.of_peers, made.of_capacity, made.of_soak, made.of_measures, made.of_comparison):
        report = make()
        schema.write(report, tmp_path / "r.json")
        assert schema.read(tmp_path / "r.json") == report
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    data = json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) | {"a_field_of_tomorrow": [1]}
    (tmp_path / "r.json").write_text(json.dumps(data), encoding="utf-8")
    assert schema.read(tmp_path / "r.json").kind == "compare"
