"""What a JSON schema says against a document, in our own words and with the line."""

from typing import Any

from jobs.clusterfile.document import Document, Key, nearest, shown, spelled

__all__ = ["apply"]

TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


def apply(document: Document, schema: dict[str, Any], remedies: dict[str, str]) -> None:
    """Add a fault for all that the schema refuses. remedies: what to do where a key is missing."""
    from jsonschema import Draft7Validator

    for error in sorted(Draft7Validator(schema).iter_errors(document.value), key=_place):
        key: Key = tuple(error.absolute_path)
        if error.validator == "required":
            _missing(document, key, error, remedies)
        elif error.validator == "additionalProperties" and error.validator_value is False:
            _unknown(document, key, error)
        elif error.validator == "type":
            _wrong_type(document, key, error)
        else:
            _wrong_value(document, key, error)


def _place(error: Any) -> str:
    return str(list(error.absolute_path))


def _missing(document: Document, key: Key, error: Any, remedies: dict[str, str]) -> None:
    for name in error.validator_value:
        inner = (*key, name)
        if name not in error.instance and _new(document, inner):
            remedy = remedies.get(name, f"add `{name}:`")
            document.fault(inner, f"the key `{name}`", "none", remedy)


def _unknown(document: Document, key: Key, error: Any) -> None:
    known = sorted(name for name, schema in error.schema.get("properties", {}).items() if schema)
    for name in error.instance:
        if name in error.schema.get("properties", {}):
            continue
        meant = nearest(name, [word for word in known if word not in error.instance] or known)
        remedy = f"write `{meant}`" if meant else f"remove it; known here: {', '.join(known)}"
        document.fault((*key, name), "a key that is known here", repr(name), remedy)


def _wrong_type(document: Document, key: Key, error: Any) -> None:
    names = error.validator_value
    names = names if isinstance(names, list) else [names]
    expected = " or ".join(TYPES[name] for name in names)
    document.fault(key, expected, shown(error.instance), _retyped(error.instance, names, key))


def _retyped(value: Any, names: list[str], key: Key) -> str:
    name = key[-1] if key else "it"
    if value is None:
        return "write it behind the colon or remove the key"
    if isinstance(value, str) and {"integer", "number"} & set(names):
        plain = value.strip()
        if plain.lstrip("-").isdigit():
            return f"remove the quotes: {name}: {plain}"
    if isinstance(value, str) and "boolean" in names:
        return f"write {name}: true or {name}: false, without quotes"
    if isinstance(value, float) and names == ["integer"]:
        return f"write a whole number; Ray's launcher knows no fractions: {name}: {int(value) + 1}"
    if names == ["string"] and not isinstance(value, dict | list):
        plain = str(value).lower() if isinstance(value, bool) else value
        return f'put it in quotes: "{plain}"'
    if names == ["array"]:
        return "write a list, each item on a line of its own after `- `"
    if names == ["object"]:
        return "write `key: value` lines below it, indented, without `- `"
    return f"write {' or '.join(TYPES[name] for name in names)}"


def _wrong_value(document: Document, key: Key, error: Any) -> None:
    limit = error.validator_value
    if error.validator == "minimum":
        document.fault(key, f"at least {limit}", shown(error.instance), f"write {limit} or more")
    elif error.validator in ("enum", "const"):
        allowed = limit if isinstance(limit, list) else [limit]
        meant = nearest(error.instance, [str(value) for value in allowed])
        words = " or ".join(map(str, allowed))
        document.fault(key, words, shown(error.instance), f"write {meant or words}")
    elif error.validator == "minItems":
        document.fault(key, "at least one item", shown(error.instance), "add one after `- `")
    elif error.validator in ("minLength", "pattern"):
        words = error.schema.get("description", "another text")
        document.fault(key, words, shown(error.instance), f"write {words}")
    else:
        document.fault(
            key,
            f"what its schema allows ({error.validator})",
            shown(error.instance),
            "see the schema's description",
        )


def _new(document: Document, key: Key) -> bool:
    """Whether nothing has been said about that key yet."""
    return all(fault.key != spelled(key) for fault in document.faults)
