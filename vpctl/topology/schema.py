"""The JSON Schema of a topology file, for editors: made from the same model that the loader checks with.

What it cannot express (names that must exist, subnets that must not overlap) only `check` knows; a test lists that
and holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vpctl.topology import values
from vpctl.topology.model import Key, KindRules
from vpctl.topology.raw import SIZE_SCHEMA, FileRaw

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = {"$ref": "#/$defs/Reference"}

JsonSchema = dict[str, Any]


def schema(kinds: Mapping[str, KindRules]) -> JsonSchema:
    """Return the JSON Schema (draft 2020-12) of a file that may use these kinds, and no other."""
    root = FileRaw.model_json_schema()
    definitions = root["$defs"]
    _allow_references(root)
    for definition in definitions.values():
        _allow_references(definition)
    definitions["LinkRaw"] = _link(definitions["LinkRaw"], kinds)
    definitions["Reference"] = {
        "description": "an environment variable: `${NAME}` or `${NAME:-default}`",
        "type": "string",
        "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
    }
    properties = root["properties"]
    properties["vms"] = _named(properties["vms"], "VmRaw", values.NAME, null=True)
    properties["links"] = _named(properties["links"], "LinkRaw", values.LINK_NAME, null=False)
    properties["links"]["propertyNames"]["not"] = {"enum": list(values.RESERVED_LINK_NAMES)}
    properties["links"]["type"] = ["object", "null"]
    return {"$schema": DIALECT, **_without_titles(root), "title": "vpctl topology"}


def _named(field: JsonSchema, definition: str, pattern: str, *, null: bool) -> JsonSchema:
    """Return the schema of a mapping by name."""
    item: JsonSchema = {"$ref": f"#/$defs/{definition}"}
    kept: JsonSchema = {key: field[key] for key in ("description", "minProperties") if key in field}
    return {
        **kept,
        "type": "object",
        "propertyNames": {"pattern": f"^({pattern})$"},
        "additionalProperties": {"anyOf": [item, {"type": "null"}]} if null else item,
    }


def _link(link: JsonSchema, kinds: Mapping[str, KindRules]) -> JsonSchema:
    """Return a link's schema: the keys of all kinds, then what each kind narrows."""
    # Two kinds may mean different things by one key: here it is only allowed, what it may be is said per kind.
    keys: JsonSchema = {
        name: {"description": key.help} for rules in kinds.values() for name, key in rules.keys.items()
    }
    kind = {**link["properties"]["kind"], "anyOf": [{"enum": list(kinds)}, REFERENCE]}
    kind.pop("type", None)
    return {
        **link,
        "properties": {**link["properties"], "kind": kind, **keys},
        "additionalProperties": False,
        "allOf": [_narrowed(rules, foreign=keys.keys() - rules.keys.keys()) for rules in kinds.values()],
    }


def _narrowed(rules: KindRules, *, foreign: set[str]) -> JsonSchema:
    """Return what a link of this kind must meet beyond what every link must."""
    policy = {"properties": {"policy": {"anyOf": [{"enum": list(rules.policies)}, REFERENCE, {"type": "null"}]}}}
    properties: JsonSchema = {
        "recovery": policy,
        "queues": {"maximum": rules.max_queues},
        "mtu": {"minimum": rules.min_mtu, "maximum": rules.max_mtu},
        **{name: _key(key) for name, key in rules.keys.items()},
        **dict.fromkeys(sorted(foreign), False),
    }
    return {
        "if": {"properties": {"kind": {"const": rules.name}}, "required": ["kind"]},
        "then": {"properties": properties},
    }


def _key(key: Key) -> JsonSchema:
    """Return the schema of a kind's own key."""
    types: JsonSchema = SIZE_SCHEMA if key.kind == "size" else {"type": key.kind}
    return {"description": key.help, "default": key.default, **_or_reference(types)}


def _allow_references(model: JsonSchema) -> None:
    """Let every value that is no free text also be a reference, since editors see the file before expansion."""
    for name, field in model.get("properties", {}).items():
        model["properties"][name] = _or_reference(_with_spelled_default(name, field))


def _with_spelled_default(name: str, field: JsonSchema) -> JsonSchema:
    """Spell the default as a file would; drop one that a file would leave out."""
    default = field.get("default")
    if default is None or isinstance(default, dict):
        return {key: value for key, value in field.items() if key != "default"}
    if isinstance(default, float):
        return {**field, "default": f"{default:g}s"}
    return {**field, "default": f"{default >> 20}M"} if name == "memory" else field


def _or_reference(field: JsonSchema) -> JsonSchema:
    """Return the schema of a value or of a reference to one; of free text and of mappings: as it is."""
    if "anyOf" in field:
        scalar = all("$ref" not in branch and branch.get("type") != "object" for branch in field["anyOf"])
        return {**field, "anyOf": [*field["anyOf"], REFERENCE]} if scalar else field
    narrow = {"enum", "const", "pattern"} & field.keys()
    if not narrow and field.get("type") not in ("integer", "boolean"):
        return field
    about: JsonSchema = {key: field[key] for key in ("description", "default") if key in field}
    rule = {key: value for key, value in field.items() if key not in (*about, "title")}
    return {**about, "anyOf": [rule, REFERENCE]}


def _without_titles(value: Any) -> Any:
    """Drop the titles that pydantic makes of field names: they say nothing."""
    if isinstance(value, dict):
        return {k: _without_titles(v) for k, v in value.items() if not (k == "title" and isinstance(v, str))}
    if isinstance(value, list):
        return [_without_titles(item) for item in value]
    return value
