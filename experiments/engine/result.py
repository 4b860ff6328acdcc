"""result.json: what a finished run leaves. Its schema is this class; `run` writes it and every reader uses it."""

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.engine.build import UserError
from experiments.engine.files import write_json
from experiments.engine.identity import config_hash, identity, leaves

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished run.

    Attributes:
        experiment: of the configuration.
        dataset: name of the data set.
        model, transform, trainer: names in the configuration; transform is None for a network without a transformer.
        metrics: `test_error` in percent (or `test_accuracy`), and whatever else the task measures.
        width: hidden units or filters, where the network has such a number.
        parameters: of the network.
        iterations: training steps.
        wall_seconds: of training, over all resumptions.
        git_revision: of the code; None outside a checkout.   git_dirty: whether the code differed from it.
        precision: in which the network was computed.
        test_fingerprint: sha256 of the test images.
        config_hash: of the configuration with its seed when the run ended. It is never compared; see `identity`.
        config: the configuration as `identity.stored` keeps it.
        path: the file that the result was read from or written to; not part of the file.
    """

    schema: int = SCHEMA
    experiment: str
    dataset: str
    model: str
    transform: str | None
    trainer: str
    seed: int
    metrics: dict[str, Any]
    width: int | None
    parameters: int
    iterations: int
    wall_seconds: float
    images_per_second: float | None
    git_revision: str | None
    git_dirty: bool | None
    versions: dict[str, str]
    device: str
    precision: str | None = None
    test_fingerprint: str
    config_hash: str
    config: dict[str, Any]
    path: Path = dataclasses.field(default=Path("result.json"), compare=False)

    @classmethod
    def read(cls, path: Path) -> "Result":
        """The result in a file.

        Raises:
            UserError: where the file is not readable or holds no result of this schema; it names the file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not JSON
            raise UserError(f"{path}: not readable as JSON ({error}).") from error
        return cls.from_dict(content, path)

    @classmethod
    def from_dict(cls, content: Any, path: Path = Path("result.json")) -> "Result":
        """A result from the content of its file.

        Raises:
            UserError: as `read`.
        """
        if not isinstance(content, dict):
            raise UserError(f"{path}: not a result: its top level is not an object.")
        if "schema" in content and content["schema"] != SCHEMA:
            raise UserError(
                f"{path}: unknown schema {json.dumps(content['schema'])}; this code reads schema {SCHEMA}."
            )
        schema = [field for field in dataclasses.fields(cls) if field.name != "path"]
        required = [field.name for field in schema if field.default is dataclasses.MISSING]
        if missing := [name for name in ["schema", *required] if name not in content]:
            raise UserError(f"{path}: not a result: missing {', '.join(missing)}.")
        held = {field.name: content[field.name] for field in schema if field.name in content}
        hints = typing.get_type_hints(cls)
        for name, value in held.items():
            if not _fits(value, hints[name]):
                raise UserError(f"{path}: {name} is {json.dumps(value)[:60]}, which is of the wrong type.")
        if held["config"].get("seed", held["seed"]) != held["seed"]:
            raise UserError(f"{path}: seed is {held['seed']}, but config.seed is {held['config']['seed']}.")
        return cls(**held, path=path)

    def to_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "path"
        }

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        write_json(path, self.to_dict())

    def is_of(self, config: Any) -> bool:
        """Whether the run is that of a configuration, seed included."""
        return identity(self.config) == identity(config)

    @property
    def settings(self) -> dict[str, str]:
        """The identity without the seed: dotted key -> value as JSON."""
        decides = {key: value for key, value in identity(self.config).items() if key != "seed"}
        return {key: canonical(value) for key, value in leaves(decides)}

    @cached_property
    def configuration(self) -> str:
        """16 hex digits that are equal for the seeds of one cell. Kept, since every sorting of results asks for it."""
        return config_hash({key: value for key, value in self.config.items() if key != "seed"})

    @property
    def revision(self) -> str:
        """The short git revision, with a mark where the code differed from it."""
        return (self.git_revision or "unknown")[:7] + (" (dirty)" if self.git_dirty else "")

    @property
    def summary(self) -> str:
        """The metrics in one line."""
        return ", ".join(
            f"{key} {value:.2f}{'%' if key.endswith('error') else ''}" for key, value in self.metrics.items()
        )

    def metric(self, name: str) -> float:
        """One metric.

        Raises:
            UserError: where the run did not measure it, or it is not a finite number.
        """
        value = self.metrics.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{self.path}: metrics.{name} is {json.dumps(value)}, not a finite number.")
        return float(value)


def canonical(value: Any) -> str:
    """A value as sorted JSON."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of an annotated type: whole numbers are floats too, true and false are no numbers."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(hint))
    kind = typing.get_origin(hint) or hint
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
