"""YAML files: the plain part of YAML, without tags, anchors or a key that stands twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from workbench.faults import Faulty


def parse(text: str, path: Path, wrong: type[Faulty]) -> Any:
    """The content of a YAML file.

    Raises
    ------
    Faulty
        It is no YAML, or more of YAML than such a file needs; of the kind ``wrong``.
    ModuleNotFoundError
        PyYAML is missing.
    """
    if importlib.util.find_spec("yaml") is None:
        raise ModuleNotFoundError(f"YAML needs yaml; pip install 'workbench[yaml]', or write the {wrong.what} in TOML")
    import yaml

    try:
        node = composed(text)
        return plain(node) if node is not None else {}
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise wrong(str(path), [f"this is not YAML: {said}"]) from None
    except _Extra as error:
        raise wrong(str(path), [str(error)]) from None
    except RecursionError:
        raise wrong(str(path), [f"the file is nested too deeply; a {wrong.what} needs three levels"]) from None


class _Extra(Exception):
    """More of YAML than a file of ours needs."""


def composed(text: str) -> Any:
    """The nodes of a YAML text, or None; their tags are still there."""
    import yaml

    for event in yaml.parse(text, yaml.SafeLoader):
        if getattr(event, "anchor", None) is not None:  # an alias of an alias of an alias fills the memory
            line = event.start_mark.line + 1
            raise _Extra(f"line {line}: anchors and aliases (& and *) are not allowed; write it out, or use defaults")
    return yaml.compose(text, yaml.SafeLoader)


def plain(node: Any) -> Any:
    """What a node holds, whatever its tag."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise _Extra(f"line {line}: a key must be a plain name")
            if key.value in found:
                raise _Extra(f'line {line}: the key "{key.value}" stands twice; keep one')
            found[key.value] = plain(value)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except ValueError as error:
        raise _Extra(f"line {node.start_mark.line + 1}: {error}") from None
