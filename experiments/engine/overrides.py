"""The words that `train.py` is given, such as `optimizer.lr=0.1`, read by Hydra's own parser."""

import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException

from experiments.engine.build import UserError


@dataclass(frozen=True)
class Overrides:
    """Overrides in the order in which they were given; a later one wins over an earlier one of the same key.

    An element is Hydra's `Override`: `key_or_group`, `is_add()` (`+`), `is_force_add()` (`++`), `is_delete()` (`~`),
    `is_sweep_override()` (`a=1,2`, `range`, `interval` ...). A key is dotted, or the name of a group of configs,
    without its `+` or `~`.

    Examples:
        >>> overrides = Overrides.parse(["model=cnn", "optimizer.lr=0.10", "+note='a=b'"])
        >>> overrides.keys
        ['model', 'optimizer.lr', 'note']
        >>> overrides.value("optimizer.lr"), overrides.value("note"), overrides.value("seed", 0)
        (0.1, 'a=b', 0)
        >>> (overrides.without("note") + ["seed=1"]).words
        ['model=cnn', 'optimizer.lr=0.10', 'seed=1']
    """

    parsed: tuple[Override, ...] = ()

    @classmethod
    def parse(cls, words: Iterable[str]) -> "Overrides":
        """The overrides that these words spell.

        Raises:
            UserError: for a word that Hydra's grammar refuses; it shows how to quote the value.
        """
        return cls(tuple(map(_parsed, words)))

    def __iter__(self) -> Iterator[Override]:
        return iter(self.parsed)

    def __len__(self) -> int:
        return len(self.parsed)

    def __hash__(self) -> int:
        return hash(tuple(self.words))

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def __add__(self, more: "Overrides | Iterable[str]") -> "Overrides":
        """These overrides, then those."""
        return Overrides(
            self.parsed + (more if isinstance(more, Overrides) else Overrides.parse(more)).parsed
        )

    @property
    def words(self) -> list[str]:
        """The overrides as they were given."""
        return [str(one.input_line) for one in self.parsed]

    @property
    def keys(self) -> list[str]:
        """The key of each override, as often as it is given."""
        return [one.key_or_group for one in self.parsed]

    def value(self, key: str, default: Any = None) -> Any:
        """The last value given for a key, with the type that it has in the configuration.

        Args:
            key: dotted, or a group's name.
            default: where the key is not given, or is deleted last.

        Raises:
            UserError: where the last override of the key gives several values, for a sweep.
        """
        last = self._last(key)
        if last is None or last.is_delete():
            return default
        if last.is_sweep_override():
            raise UserError(f"{last.input_line} gives several values, and one is needed: {key}=VALUE.")
        return last.value()

    def choices(self, key: str) -> list[str]:
        """The values that the last override of a key gives, one or those of a sweep, as they are written in overrides.

        Empty where the key is not given or is deleted, or where its values cannot be listed (`interval`, `glob`).
        """
        last = self._last(key)
        if last is None or last.is_delete():
            return []
        if not last.is_sweep_override():
            return [last.get_value_element_as_str()]
        listed = last.is_discrete_sweep() and last.value_type is not ValueType.GLOB_CHOICE_SWEEP
        return list(last.sweep_string_iterator()) if listed else []

    def only(self, wanted: Callable[[str], bool]) -> "Overrides":
        """The overrides whose key is wanted, such as `overrides.only(identity.decides)`."""
        return Overrides(tuple(one for one in self.parsed if wanted(one.key_or_group)))

    def without(self, *keys: str) -> "Overrides":
        """The overrides of all other keys. A key stands for those below it too: `hydra` for `hydra.sweep.dir`."""
        return self.only(lambda given: not any(_is_in(given, key) for key in keys))

    def below(self, *keys: str) -> "Overrides":
        """The overrides of these keys and of those below them: what `without` leaves out."""
        return self.only(lambda given: any(_is_in(given, key) for key in keys))

    def _last(self, key: str) -> Override | None:
        return next((one for one in reversed(self.parsed) if one.key_or_group == key), None)


def word(key: str, value: Any) -> str:
    """The override that gives a key a value, quoted where Hydra's grammar needs it.

    Args:
        key: with its `+` or `~`, where it has one.
        value: None, a bool, a number, a string, or a list or dictionary of such.

    Examples:
        >>> word("data_dir", "/data/a=b"), word("threads", None), word("model.crop", 32)
        ("data_dir='/data/a=b'", 'threads=null', 'model.crop=32')
    """
    if isinstance(value, str):
        return f"{key}={_spelt(key, value)}"
    return f"{key}={Override._get_value_element_as_str(_quoted(value))}"


def one_value(text: str) -> str | None:
    """The override with its value in quotes, for a shell; None where it cannot be one.

    Args:
        text: the override as it was given, such as `data_dir=/a,b`.

    Examples:
        >>> print(one_value("data_dir=/data/a=b,c"))
        'data_dir="/data/a=b,c"'
    """
    key, equals, value = text.partition("=")
    quoted = f"{key}={QuotedString(value, Quote.double).with_quotes()}"
    return shlex.quote(quoted) if equals and _read(quoted) else None


def _quoted(value: Any) -> Any:
    """The value as the parser holds it: strings in quotes, true and false as bare words."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return QuotedString(value, Quote.single)
    if isinstance(value, dict):
        return {key: _quoted(one) for key, one in value.items()}
    return [_quoted(one) for one in value] if isinstance(value, list | tuple) else value


def _spelt(key: str, text: str) -> str:
    """A string without quotes where the grammar reads it back as it is, else with them."""
    plain = _read(f"{key}={text}")
    reads_back = plain is not None and plain.value() == text
    return text if reads_back else QuotedString(text, Quote.single).with_quotes()


def _is_in(given: str, key: str) -> bool:
    return given == key or given.startswith((f"{key}.", f"{key}/"))


@lru_cache(maxsize=10_000)
def _parsed(text: str) -> Override:
    """Cached: a plan of many runs has the same few words in all of them."""
    if override := _read(text):
        return override
    if quoted := one_value(text):
        hint = f"quote the value, which has a character with a meaning of its own there: {quoted}"
    else:
        hint = "an override is key=value, +key=value for a new key, or ~key to take a key out"
    raise UserError(f"{text} cannot be read by Hydra: {hint}.")


def _read(text: str) -> Override | None:
    """None where Hydra's grammar refuses the text, or it has no key."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return None
    return override if override.key_or_group else None
