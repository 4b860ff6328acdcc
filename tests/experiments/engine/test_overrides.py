"""Overrides: what they make of the words of a command line, against what Hydra composes of them."""

import doctest
import shlex
import subprocess
import sys

import pytest

from experiments.engine import overrides as module
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.overrides import Overrides, one_value, word

WORDS = [
    "model=cnn",
    "+note=1",
    "++seed=2",
    "~trainer.hint",
    "seed=0x",
    "seed=3",
    "hydra.sweep.dir=x",
    "hydra/launcher=y",
]


def test_words_stay_as_they_were_given_in_their_order():
    overrides = Overrides.parse(WORDS)
    assert overrides.words == WORDS and len(overrides) == len(WORDS)
    assert overrides.keys == [
        "model",
        "note",
        "seed",
        "trainer.hint",
        "seed",
        "seed",
        "hydra.sweep.dir",
        "hydra/launcher",
    ]
    assert "note" in overrides and "+note" not in overrides
    kinds = [(one.is_add(), one.is_force_add(), one.is_delete()) for one in overrides][:4]
    assert kinds == [(False, False, False), (True, False, False), (False, True, False), (False, False, True)]
    assert Overrides.parse(WORDS) == overrides != Overrides.parse(WORDS[1:])
    assert {overrides, Overrides.parse(WORDS)} == {overrides}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("1e-1", 0.1), ("0.10", 0.1), ("true", True), ("null", None), ("", ""), ("'3'", "3"), ("a b", "a b"),
        ("[1,'x=y']", [1, "x=y"]), ("{a:1}", {"a": 1}), ("'it\\'s'", "it's"), ("0x10", "0x10"),
    ],
)  # fmt: skip
def test_a_value_is_what_hydra_puts_into_the_configuration(text, value):
    found = Overrides.parse([f"+note={text}"]).value("note")
    assert found == value == configuration([f"+note={text}"]).note
    assert type(found) is type(value)


def test_the_last_value_counts_and_a_deleted_key_has_none():
    assert Overrides.parse(["seed=1", "seed=2"]).value("seed") == 2
    assert Overrides.parse(["seed=1", "~seed"]).value("seed", 7) == 7
    assert Overrides.parse([]).value("seed", 7) == 7
    assert Overrides.parse(["~seed", "+seed=4"]).value("seed") == 4


def test_several_values_are_a_sweeps():
    overrides = Overrides.parse(
        ["seed=0,1", "optimizer.lr=range(1,4)", "model=glob(*)", "x=interval(0,1)", "y='0,1'"]
    )
    assert [one.is_sweep_override() for one in overrides] == [True, True, True, True, False]
    assert overrides.choices("seed") == ["0", "1"] and overrides.choices("optimizer.lr") == ["1", "2", "3"]
    assert overrides.choices("model") == overrides.choices("x") == overrides.choices("z") == []
    assert overrides.value("y") == "0,1" and overrides.choices("y") == ["'0,1'"]
    with pytest.raises(UserError, match="seed=0,1 gives several values, and one is needed: seed=VALUE"):
        overrides.value("seed")


def test_parts_by_key():
    overrides = Overrides.parse(WORDS)
    assert overrides.without("seed", "hydra").words == ["model=cnn", "+note=1", "~trainer.hint"]
    assert overrides.below("hydra", "trainer").words == [
        "~trainer.hint",
        "hydra.sweep.dir=x",
        "hydra/launcher=y",
    ]
    assert overrides.only(lambda key: key == "note").words == ["+note=1"]
    assert Overrides.parse(["seeds=1"]).without("seed").words == ["seeds=1"]  # a key, not the start of one
    assert (Overrides.parse(["a=1"]) + ["b=2"] + Overrides.parse(["c=3"])).words == ["a=1", "b=2", "c=3"]


@pytest.mark.parametrize(
    "value",
    [
        "/a=b", "~/data", "a,", "a)b", "Bücher", "/data/a=b,c", "~/x,y=z", "it's", 'a "b" c', "[a", "{a=b", "a=\\",
        "`ls`", "x=$(ls)", "!x", "a;b", "#a", "&", "'a=b", "null=",
    ],
)  # fmt: skip
def test_a_refused_value_comes_with_the_way_to_quote_it(value):
    text = f"data_dir={value}"
    with pytest.raises(UserError) as refused:
        Overrides.parse(["seed=1", text])
    sentence = str(refused.value)
    assert sentence.startswith(f"{text} cannot be read by Hydra: quote the value") and "\n" not in sentence
    (quoted,) = shlex.split(sentence.rsplit("there: ", 1)[1].removesuffix("."))  # as a shell reads it
    assert configuration([quoted]).data_dir == Overrides.parse([quoted]).value("data_dir") == value


def test_several_values_come_with_the_way_to_quote_them_as_one():
    for value in ("/data/a,b", "interval(0,1)", "glob(*)", "a, 'b'"):
        (quoted,) = shlex.split(str(one_value(f"data_dir={value}")))
        assert configuration([quoted]).data_dir == value
    assert one_value("model") is None and one_value("=1") is None


@pytest.mark.parametrize("text", ["hello", "/experiment=mnist_r", "a b=1", "=1", ""])
def test_what_is_no_override_at_all(text):
    with pytest.raises(UserError, match="cannot be read by Hydra: an override is key=value"):
        Overrides.parse([text])


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 0.1, 1e-7, "cpu", "3", "null", "true", "", "a=b", "it's", 'a "b" c', "a,b", "~/x", "C:\\x\\",
        "Bücher", "${seed}", "interval(0,1)", ["a", 1, None], ["a=b", [2.5]], {"a": "x,y"}, " a",
    ],
)  # fmt: skip
def test_a_word_is_read_back_as_the_value_it_was_made_of(value):
    assert Overrides.parse([word("note", value)]).value("note") == value


def test_a_word_needs_no_quotes_for_plain_values():
    assert [word("a", "cpu"), word("+a.b", None), word("a", True)] == ["a=cpu", "+a.b=null", "a=true"]


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(module).failed == 0 < doctest.testmod(module).attempted


def test_reading_overrides_needs_no_torch():
    code = "import sys, experiments.engine.overrides; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
