"""The page of the door: the OpenAPI document for people, as one HTML page without scripts and without the internet.

Made once from the document; /v1/docs serves it. The `type` of every problem leads to its row here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from html import escape
from typing import Any, Final

from gateway.api import problems

Document = dict[str, Any]

_STYLE: Final = """
:root{color-scheme:light dark;--line:#8885;--soft:#8881;--get:#1a7f4b;--post:#1f5fbf;--put:#9a6700;--delete:#b3261e}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:.2rem}h2{margin-top:2.2rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}
code,pre{font:14px/1.45 ui-monospace,monospace}pre{background:var(--soft);padding:.7rem;overflow:auto;border-radius:6px}
details{border:1px solid var(--line);border-radius:6px;margin:.45rem 0}
details>*:not(summary){margin-left:.9rem;margin-right:.9rem}details>table{width:calc(100% - 1.8rem)}
summary{cursor:pointer;padding:.4rem .7rem}summary:hover{background:var(--soft)}
summary b{display:inline-block;width:4.6rem;color:#fff;text-align:center;border-radius:4px;
margin-right:.5rem;font-size:13px}
.get{background:var(--get)}.post{background:var(--post)}.put{background:var(--put)}.delete{background:var(--delete)}
table{border-collapse:collapse;width:100%;margin:.4rem 0 1rem}td,th{text-align:left;vertical-align:top;
padding:.25rem .5rem;border-bottom:1px solid var(--line)}nav a{margin-right:1rem}
tr:target{background:#fd05}.quiet{opacity:.75}
"""
STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def page(openapi: Document, asyncapi: Document) -> bytes:
    """The page."""
    return "".join(_page(openapi, asyncapi)).encode()


def _page(openapi: Document, asyncapi: Document) -> Iterator[str]:
    info = openapi["info"]
    yield "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    yield f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>"
    yield f"<h1>{escape(info['title'])}</h1><p class=quiet>version {escape(info['version'])}</p>"
    yield f"<p>{_text(info['summary'])} {_text(info['description'])}</p><nav>"
    for tag in openapi["tags"]:
        yield f"<a href='#{tag['name']}'>{tag['name']}</a>"
    yield "<a href='#push'>push stream</a><a href='#problems'>problems</a><a href='#shapes'>shapes</a>"
    yield "<a href='/v1/openapi.json'>OpenAPI</a><a href='/v1/asyncapi.json'>AsyncAPI</a></nav>"
    scheme = openapi["components"]["securitySchemes"]["service"]
    yield f"<h2>Tokens</h2><p>{_text(scheme['description'])}</p><pre>Authorization: Bearer TOKEN</pre>"
    for tag in openapi["tags"]:
        yield f"<h2 id='{tag['name']}'>{tag['name']}</h2><p>{_text(tag['description'])}</p>"
        for path, methods in openapi["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    yield from _operation(path, method, operation, openapi)
    yield from _push(asyncapi)
    yield "<h2 id=problems>Problems</h2><table><tr><th>code<th>status<th>meaning"
    for code, row in problems.ROWS.items():
        yield f"<tr id='{code}'><td><code>{code}</code><td>{row.status}<td>{escape(row.title)}"
    yield "</table><h2 id=shapes>Shapes</h2>"
    yield from _shapes(openapi["components"]["schemas"])


def _operation(path: str, method: str, operation: Document, openapi: Document) -> Iterator[str]:
    yield f"<details id='{operation['operationId']}'><summary><b class={method}>{method.upper()}</b>"
    yield f"<code>{escape(path)}</code> {_text(operation['summary'])}</summary>"
    yield f"<p>{_text(operation.get('description', ''))}</p>"
    if operation["parameters"]:
        yield "<table><tr><th>parameter<th>in<th>type<th>meaning"
        for one in operation["parameters"]:
            name = f"<b>{escape(one['name'])}</b>" if one["required"] else escape(one["name"])
            yield f"<tr><td>{name}<td>{one['in']}<td>{_type(one['schema'])}<td>{_text(one.get('description', ''))}"
        yield "</table>"
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body <code>{escape(media)}</code>: {_type(content['schema'])}</p>"
    yield "<table><tr><th>status<th>answer<th>shape"
    for status, answer in operation["responses"].items():
        kinds = "<br>".join(
            f"<code>{escape(media)}</code> {_type(content['schema'])}"
            for media, content in answer.get("content", {}).items()
            if media != problems.MEDIA_TYPE
        )
        yield f"<tr><td>{status}<td>{_text(answer['description'])}<td>{kinds}"
    yield f"</table><pre>{escape(_curl(path, method, operation, openapi))}</pre></details>"


def _curl(path: str, method: str, operation: Document, openapi: Document) -> str:
    lines = [f'curl -X {method.upper()} $GONETS{path} -H "Authorization: Bearer $TOKEN"']
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content:
        sample = _sample(content["schema"], openapi["components"]["schemas"])
        lines.append(f"  -H 'Content-Type: application/json' -d '{json.dumps(sample)}'")
    return " \\\n".join(lines)


def _sample(schema: Document, shapes: Document) -> Any:
    """A value that fits: fields that are required, and those with an example."""
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return _sample(shapes[schema["$ref"].rsplit("/", 1)[1]], shapes)
    if "anyOf" in schema:
        return _sample(next((one for one in schema["anyOf"] if "$ref" in one), schema["anyOf"][0]), shapes)
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        fields = schema.get("properties", {})
        required = schema.get("required", ())
        return {
            name: _sample(field, shapes) for name, field in fields.items() if name in required or "examples" in field
        }
    if schema.get("type") == "array":
        return [_sample(schema["items"], shapes)] if "items" in schema else []
    return {"integer": schema.get("minimum", 1), "number": 1.0, "boolean": True}.get(schema.get("type", ""), "name")


def _push(asyncapi: Document) -> Iterator[str]:
    yield f"<h2 id=push>push stream</h2><p>{_text(asyncapi['info']['description'])}</p>"
    for operation in ("pushed", "answered"):
        yield f"<p>{'The server sends' if operation == 'pushed' else 'A consumer sends'}:</p><table>"
        for message in asyncapi["operations"][operation]["messages"]:
            name = message["$ref"].rsplit("/", 1)[1]
            found = asyncapi["components"]["messages"][name]
            yield f"<tr><td><code>{name}</code><td>{_text(found['summary'])}"
        yield "</table>"
    yield from _shapes(
        {name: asyncapi["components"]["schemas"][name] for name in asyncapi["components"]["messages"]}, "push-"
    )


def _shapes(schemas: Document, prefix: str = "") -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        yield f"<details id='shape-{prefix}{name}'><summary><code>{name}</code> {_text(schema.get('description', ''))}"
        yield "</summary><table>"
        required = schema.get("required", ())
        for field, kind in schema.get("properties", {}).items():
            shown = f"<b>{escape(field)}</b>" if field in required else escape(field)
            yield f"<tr><td>{shown}<td>{_type(kind)}<td>{_text(kind.get('description', ''))}"
        yield "</table></details>"


def _type(schema: Document) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"<a href='#shape-{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(json.dumps(one))}</code>" for one in schema["enum"])
    if "prefixItems" in schema:
        return f"[{', '.join(_type(one) for one in schema['prefixItems'])}]"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = [f"{word} {schema[key]}" for key, word in _LIMITS if key in schema]
    return escape(", ".join([str(schema.get("type", "any")), *limits]))


_LIMITS = (
    ("minimum", "≥"),
    ("exclusiveMinimum", ">"),
    ("maximum", "≤"),
    ("maxLength", "length ≤"),
    ("pattern", "like"),
    ("default", "default"),
)


def _text(words: str) -> str:
    """Words with `code`, escaped."""
    parts = escape(words, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
