"""A multinomial logistic regression whose coefficients come from model.json."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class BadFeatures(ValueError):
    """The request's features cannot be used; the message is meant for the client."""


@dataclass(frozen=True)
class Model:
    features: tuple[str, ...]
    classes: tuple[str, ...]
    coefficients: tuple[tuple[float, ...], ...]
    intercepts: tuple[float, ...]
    example: tuple[float, ...]


def load(path: Path) -> Model:
    data = json.loads(path.read_text())
    return Model(
        features=tuple(data["features"]),
        classes=tuple(data["classes"]),
        coefficients=tuple(tuple(map(float, row)) for row in data["coefficients"]),
        intercepts=tuple(map(float, data["intercepts"])),
        example=tuple(map(float, data["example"])),
    )


def predict(model: Model, features: Sequence[float]) -> tuple[str, dict[str, float]]:
    """Return the likeliest class and the probability of each, rounded to four digits."""
    scores = [
        math.fsum(w * x for w, x in zip(row, features)) + intercept  # noqa: B905 - lengths are checked by vector()
        for row, intercept in zip(model.coefficients, model.intercepts)  # noqa: B905
    ]
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    total = math.fsum(weights)
    probabilities = {name: round(weight / total, 4) for name, weight in zip(model.classes, weights)}  # noqa: B905
    return model.classes[scores.index(highest)], probabilities


def vector(model: Model, given: object) -> list[float]:
    """Return the features as numbers, in the model's order, from a list or from a mapping of names.

    Raises BadFeatures.
    """
    if isinstance(given, Mapping):
        missing = [name for name in model.features if name not in given]
        if missing:
            raise BadFeatures(f"missing {', '.join(missing)}: give {', '.join(model.features)}")
        given = [given[name] for name in model.features]
    if not isinstance(given, (list, tuple)) or len(given) != len(model.features):
        raise BadFeatures(f"features must be {len(model.features)} numbers: {', '.join(model.features)}")
    return [_number(value) for value in given]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise BadFeatures(f"{json.dumps(value)[:40]} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise BadFeatures(f"{json.dumps(value)[:40]} is not a number") from None
    # Lengths of flowers: beyond this the scores overflow, and the answer would mean nothing.
    if not abs(number) <= 1e6:
        raise BadFeatures(f"{json.dumps(value)[:40]} is out of range")
    return number
