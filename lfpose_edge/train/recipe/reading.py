"""Reading a recipe from a YAML file, with overrides from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from lfpose_edge.errors import RecipeError, did_you_mean
from lfpose_edge.train.recipe.whole import Recipe

SHIPPED = Path(__file__).parent.parent / "recipes"


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, or one shipped with the package by its name.

    Args:
        source: a path, or the name of a file in ``lfpose_edge/train/recipes`` without its suffix.
        overrides: ``section.key=value`` entries, with the value in YAML.

    Raises:
        RecipeError: the file is missing or not YAML, or an entry is unknown, missing or contradictory.
    """
    path = _find(source)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"{path}: not a readable recipe: {error}"
        raise RecipeError(message) from error
    if not isinstance(tree, dict):
        message = f"{path}: a recipe is a YAML mapping, got {type(tree).__name__}"
        raise RecipeError(message)
    for override in overrides:
        _apply(tree, override)
    return parse_recipe(tree, where=str(path))


def parse_recipe(tree: object, *, where: str) -> Recipe:
    """Validate a recipe that has been read already; ``where`` names it in errors."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_keys(first["loc"][:-1])
            last = str(first["loc"][-1])
            sections = [name for name, model in _sections().items() if last in model.model_fields]
            elsewhere = f"it is an entry of {' and '.join(sections)}"
            hint = elsewhere if sections and last not in known else did_you_mean(last, known)
            message = f"{where}: unknown entry {key!r}; {hint}"
        else:
            message = f"{where}: {key or 'recipe'}: {first['msg']}"
        raise RecipeError(message) from None


def _find(source: str | Path) -> Path:
    path = Path(source)
    shipped = {p.stem: p for p in SHIPPED.glob("*.yaml")}
    if path.is_file():
        return path
    if str(source) in shipped:
        return shipped[str(source)]
    hint = did_you_mean(str(source), shipped)
    message = f"no recipe {str(source)!r}: neither a file nor a shipped recipe; {hint}"
    raise RecipeError(message)


def _apply(tree: dict[str, object], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        message = f"override {override!r} must look like section.key=value"
        raise RecipeError(message)
    *sections, last = key.split(".")
    node = tree
    for depth, section in enumerate(sections, 1):
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            message = f"override {override!r}: {section!r} is not a section of the recipe"
            if isinstance(child, list):
                message += f"; of a list all is given: '{'.'.join(sections[:depth])}=[{{...}}, ...]'"
            raise RecipeError(message)
        node = child
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        message = f"override {override!r}: what follows the = is not YAML"
        raise RecipeError(message) from error


def _sections() -> dict[str, type[BaseModel]]:
    """The recipe's sections, and the lists of them, by name."""
    found = {}
    for name, field in Recipe.model_fields.items():
        inner = getattr(field.annotation, "__args__", (field.annotation,))[0]
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found[name] = inner
    return found


def _known_keys(location: Sequence[int | str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        inner = getattr(annotation, "__args__", (annotation,))[0]
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
