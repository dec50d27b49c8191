"""Write what the chart repeats; with `--check`, fail if the committed files differ.

The CRDs of the chart are copies of `crds/`. The comment above each key of its values.yaml becomes a row of
the table in its README, and the description in its values.schema.json, which says what else a value may be.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "modelfleet"
_TABLE = re.compile(r"(?<=<!-- values -->\n).*(?=<!-- /values -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Value:
    """A key of values.yaml with a comment; `path` leads to it."""

    path: tuple[str, ...]
    default: object
    description: str


def documented(text: str) -> list[Value]:
    """Return every value that has a comment. Raises `SystemExit` for a value without one."""
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        raise SystemExit("values.yaml is no mapping")
    return list(_walk(root, text.splitlines(), yaml.safe_load(text), ()))


def _walk(node: yaml.MappingNode, lines: list[str], values: Any, above: tuple[str, ...]) -> Iterator[Value]:
    for key, child in node.value:
        path = (*above, key.value)
        value = values[key.value]
        description = _comment(lines, key.start_mark.line)
        if description:
            yield Value(path, value, description)
        elif isinstance(child, yaml.MappingNode) and child.value:
            yield from _walk(child, lines, value, path)
        else:
            raise SystemExit(f"values.yaml: {'.'.join(path)} has no comment that describes it")


def _comment(lines: list[str], line: int) -> str:
    found: list[str] = []
    while line > 0 and (above := lines[line - 1].strip()).startswith("# "):
        found.insert(0, above.removeprefix("# "))
        line -= 1
    return " ".join(found)


def table(values: list[Value]) -> str:
    """Return the rows of the README's table."""
    rows = ["| Value | Default | Meaning |", "|---|---|---|"]
    for value in values:
        default = json.dumps(value.default).replace("|", "\\|")
        meaning = value.description.replace("|", "\\|")
        rows.append(f"| `{'.'.join(value.path)}` | `{default}` | {meaning} |")
    return "\n".join(rows) + "\n"


def described(schema: Mapping[str, Any], values: list[Value]) -> dict[str, Any]:
    """Return the schema with the descriptions; raises `SystemExit` for keys that only one of the two has."""
    result: dict[str, Any] = json.loads(json.dumps(schema))
    for value in values:
        node = result
        for key in value.path:
            try:
                node = node["properties"][key]
            except KeyError:
                raise SystemExit(f"values.schema.json has no {'.'.join(value.path)}") from None
        node["description"] = value.description
    known = {value.path[:length] for value in values for length in range(1, len(value.path) + 1)}
    known.add(("global",))  # every chart has it, also as a part of another
    for path in _undescribed(result, known, ()):
        raise SystemExit(f"values.yaml has no {'.'.join(path)}, which values.schema.json knows")
    return result


def _undescribed(
    node: Mapping[str, Any], known: set[tuple[str, ...]], path: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    for key, child in node.get("properties", {}).items():
        if (*path, key) not in known:
            yield (*path, key)
        elif "description" not in child:
            yield from _undescribed(child, known, (*path, key))


def generated() -> dict[Path, str]:
    """Return the text of every file that this tool writes."""
    files = {CHART / "files" / "crds" / crd.name: crd.read_text() for crd in (ROOT / "crds").glob("*.yaml")}
    values = documented((CHART / "values.yaml").read_text())
    readme = CHART / "README.md"
    files[readme] = _TABLE.sub(lambda _: table(values), readme.read_text())
    schema = CHART / "values.schema.json"
    files[schema] = json.dumps(described(json.loads(schema.read_text()), values), indent=2) + "\n"
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed files, write nothing"
    )
    check = parser.parse_args().check
    files = generated()
    gone = set((CHART / "files" / "crds").glob("*.yaml")) - files.keys()
    differing = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if check:
        if differing or gone:
            names = sorted(str(path.relative_to(ROOT)) for path in (*differing, *gone))
            raise SystemExit("the chart differs: run make generate\n  " + "\n  ".join(names))
        print("the chart is up to date")
        return
    for path in gone:
        path.unlink()
    for path in differing:
        path.write_text(files[path])
    print(f"{len(differing)} files of the chart changed")


if __name__ == "__main__":
    main()
