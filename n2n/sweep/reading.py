"""From YAML, and from the texts of `--set`, to the parameters of a space."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from n2n.errors import InvalidType, InvalidValue, N2NError
from n2n.sweep.alternatives import Alternative
from n2n.sweep.domains import Choice, Domain, Integer, LogUniform, Uniform, parse_domain
from n2n.sweep.names import require_known

__all__ = ["naming", "parameters_of", "parse_settings", "read_yaml"]

DOMAINS = ("choice", "value", "uniform", "log", "int")


@contextmanager
def naming(what: object) -> Iterator[None]:
    """Errors of the block begin with what they are about."""
    try:
        yield
    except N2NError as error:
        raise type(error)(f"{what}: {error}") from error


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. InvalidValue for another file, or for a key that is there twice."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except FileNotFoundError as error:
        raise InvalidValue("expected a YAML file with the space, found nothing there") from error
    except IsADirectoryError as error:
        raise InvalidValue("expected a YAML file with the space, found a folder") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "no YAML"
        raise InvalidValue(f"expected YAML, found another text ({problem}{where})") from error
    except UnicodeDecodeError as error:
        raise InvalidValue("expected YAML in UTF-8, found other bytes") from error


def parameters_of(content: object) -> tuple[dict[str, tuple[Alternative, ...]], str | None]:
    """Each parameter's alternatives, and the preset. InvalidValue, InvalidType name the key."""
    if not isinstance(content, dict):
        raise InvalidType(f"a mapping from names to domains expected, got {_brief(content)}")
    rest = dict(content)
    preset = rest.pop("preset", None)
    if preset is not None and not isinstance(preset, str):
        raise InvalidType(f"preset: a name expected, got {_brief(preset)}")
    parameters = {}
    for name, value in rest.items():
        require_known(name)
        with naming(name):
            parameters[name] = tuple(_alternatives(value))
    return parameters, preset


def parse_settings(texts: Iterable[str]) -> dict[str, Domain]:
    """NAME=DOMAIN of each `--set`. InvalidValue, InvalidType name the text."""
    found: dict[str, Domain] = {}
    for text in texts:
        name, equals, domain = (part.strip() for part in text.partition("="))
        with naming(f"--set {text}"):
            if not equals or not domain:
                raise InvalidValue("NAME=DOMAIN such as lr=log:1e-4..5 expected")
            if name in found:
                raise InvalidValue(f"{name} was set before; name its values in one --set")
            require_known(name)
            found[name] = parse_domain(domain)
    return found


def _alternatives(value: object) -> Iterator[Alternative]:
    if isinstance(value, dict):
        yield _alternative(value)
    elif isinstance(value, list):
        mappings = [isinstance(item, dict) for item in value]
        if not any(mappings):
            yield Alternative(Choice(tuple(value)))
        elif not all(mappings):
            raise InvalidType("a list of values or a list of domains expected, got a mixture")
        else:
            yield from (_alternative(item) for item in value)
    else:
        yield Alternative(Choice((value,)))  # type: ignore[arg-type]  # it looks itself


def _alternative(content: dict[Any, Any]) -> Alternative:
    kinds = [
        name for name in DOMAINS if name in content and not ("int" in content and name == "log")
    ]
    if len(kinds) != 1:
        found = ", ".join(map(str, content)) or "nothing"
        raise InvalidValue(f"one of {', '.join(DOMAINS)} expected, found {found}")
    (kind,) = kinds
    rest = {name: value for name, value in content.items() if name not in (kind, "when")}
    allowed = {"step", "log"} if kind == "int" else set()
    for name in rest:
        if name not in allowed:
            raise InvalidValue(f"{kind} knows no {name!r}; known are {kind}, {_others(allowed)}")
    return Alternative(_domain(kind, content[kind], rest), _when(content.get("when", {})))


def _domain(kind: str, value: object, options: dict[str, Any]) -> Domain:
    if kind == "value":
        return Choice((value,))  # type: ignore[arg-type]  # it looks itself
    if not isinstance(value, list):
        raise InvalidType(f"{kind}: a list expected, got {_brief(value)}")
    if kind == "choice":
        return Choice(tuple(value))
    if len(value) != 2:
        raise InvalidValue(f"{kind}: [LOW, HIGH] expected, got {_brief(value)}")
    if kind == "int":
        if not isinstance(options.get("log", False), bool):
            raise InvalidType(f"log: true or false expected, got {_brief(options['log'])}")
        return Integer(*value, **options)
    low, high = (_number(item) for item in value)
    return (LogUniform if kind == "log" else Uniform)(low, high)


def _number(value: Any) -> Any:
    """YAML takes 1e-4, without a dot, for a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _when(content: object) -> dict[str, tuple[Any, ...]]:
    if not isinstance(content, dict):
        raise InvalidType(
            f"when: a mapping such as {{model: unet}} expected, got {_brief(content)}"
        )
    return {
        name: tuple(value) if isinstance(value, list) else (value,)
        for name, value in content.items()
    }


def _others(allowed: set[str]) -> str:
    return ", ".join([*sorted(allowed, reverse=True), "when"])


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would keep the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        name = loader.construct_object(key)
        if isinstance(name, str) and name in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{name} twice", key.start_mark)
        seen.add(str(name))
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
