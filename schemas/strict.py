"""The base of everything that a person writes in YAML: an unknown key is an error that names the nearest known one."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import JuZhouError


class Strict(BaseModel):
    """A frozen pydantic model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a YAML file.

        Raises:
            JuZhouError: the file cannot be read, is not YAML, or breaks the schema; the line names the key.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise JuZhouError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise JuZhouError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise JuZhouError(f"{path}: a mapping of keys to values is wanted, not {type(content).__name__}")
        try:
            return cls.model_validate(content, context={"folder": path.parent})
        except ValidationError as error:
            raise JuZhouError(f"{path}: {explain(cls, error)}") from error


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """One problem of a validation error in one line: an unknown key first, with the nearest known one."""
    problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    where = ".".join(str(step) for step in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg']}"
    return f"unknown key '{where}'; did you mean '{nearest(str(problem['loc'][-1]), _keys(model))}'?"


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like the given one."""
    return difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.0)[0]


def _keys(model: type[BaseModel], seen: set[type[BaseModel]] | None = None) -> set[str]:
    """Every key that a document of this model may hold, at any depth."""
    seen = seen if seen is not None else set()
    if model in seen:
        return set()
    seen.add(model)
    keys = set(model.model_fields)
    for field in model.model_fields.values():
        for nested in _models(field.annotation):
            keys |= _keys(nested, seen)
    return keys


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models named anywhere in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]
