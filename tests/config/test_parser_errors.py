"""The contract with jsonargparse: how it words each error that `config/parser_errors.py` knows, by provoking each one.

If a new jsonargparse version changes its wording, a test fails here and shows the new text.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonargparse
import pytest
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser

from sft_lightning.config.parser_errors import explain
from sft_lightning.data.arguments import NonNegativeInt, Range, Share
from tests.refused import check_message

HERE = __name__


class Part:
    """A base class.

    Args:
        size: A number.
    """

    def __init__(self, size: int = 1) -> None: ...


class Wheel(Part):
    """A class with arguments of each type that messages put into words.

    Args:
        size: A whole number.
        rate: A number.
        names: A list.
        mode: A choice.
        part: Another class.
    """

    def __init__(
        self,
        size: int = 1,
        rate: float = 0.1,
        names: list[str] | None = None,
        mode: Literal["fast", "slow"] = "fast",
        part: Part | None = None,
    ) -> None: ...


class Needy(Part):
    """A class with a required argument.

    Args:
        rate: A number.
    """

    def __init__(self, rate: float) -> None: ...


class Group:
    """A group of options.

    Args:
        depth: A whole number.
    """

    def __init__(self, depth: int = 1) -> None: ...


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--flag", type=bool, default=False)
    parser.add_argument("--mode", type=Literal["fast", "slow"], default="fast")
    parser.add_argument("--either", type=int | Literal["auto"] | list[str], default=1)
    parser.add_argument("--numbers", type=list[int] | None, default=None)
    parser.add_argument("--choices", type=list[Literal["fast", "slow"]] | None, default=None)
    parser.add_argument("--mapping", type=dict, default={})
    parser.add_argument("--some", type=NonNegativeInt | Literal["all"], default=0)
    parser.add_argument("--share", type=Share | None, default=None)
    parser.add_argument("--sides", type=list[Annotated[int, Range(1, 9)]] | None, default=None)
    parser.add_class_arguments(Group, "group")
    parser.add_subclass_arguments(Part, "piece", required=True)
    return parser


@contextmanager
def explained(key: str, *values: str, keys: list[str] | None = None, arguments: Sequence[str] = ()) -> Iterator[None]:
    """The block must raise an ArgumentError that `explain` turns into a UserError with this key and these values."""
    with pytest.raises(ArgumentError) as found:
        yield
    text = str(getattr(found.value, "message", found.value))
    known = {action.dest for action in make_parser()._actions} if keys is None else keys
    error = explain(found.value, known, arguments)
    try:
        check_message(str(error), key, *values)
    except AssertionError as differs:
        pytest.fail(
            f"jsonargparse {jsonargparse.__version__} may word this error in a new way; parser_errors.py must know it.\n"
            f"{differs}\njsonargparse says:\n{text}"
        )


WHEEL = f"--piece={HERE}.Wheel"
ARGUMENTS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "text for a whole number": ([WHEEL, "--count=many"], ("count", "whole number", "many")),
    "null for a number": ([WHEEL, "--rate=null"], ("rate", "a number", "null")),
    "text for a boolean": ([WHEEL, "--flag=maybe"], ("flag", "true or false", "maybe")),
    "a choice that does not exist": ([WHEEL, "--mode=fats"], ("mode", "'fats'", "fast, slow", "'fast'")),
    "a value of none of several types": (
        [WHEEL, "--either=null"],
        ("either", "a whole number", "auto", "a list of texts", "null"),
    ),
    "a list with a choice that does not exist": (
        [WHEEL, "--choices=[fats]"],
        ("choices", "a list of fast, slow", "['fats']"),
    ),
    "a list of the wrong items": ([WHEEL, "--numbers=[a]"], ("numbers", "a list of whole numbers", "['a']")),
    "text for a number of a range or a word": ([WHEEL, "--some=few"], ("some", "must be a whole number or all", "few")),
    "text for a share": ([WHEEL, "--share=much"], ("share", "must be a number, got", "much")),
    "a number for a list of numbers of a range": ([WHEEL, "--sides=3"], ("sides", "a list of whole numbers, got", "3")),
    "a number for a mapping": ([WHEEL, "--mapping=3"], ("mapping", "mapping", "3")),
    "a required class that is missing": ([], ("piece", "--config FILE", "--piece NAME")),
    "an unknown option": ([WHEEL, "--cuont=1"], ("cuont", "'count'")),
    "an unknown option of a group": ([WHEEL, "--group.dpth=1"], ("group.dpth", "'group.depth'")),
    "an option without a value": ([WHEEL, "--count"], ("count",)),
    "an option without a value before another": ([WHEEL, "--count", "--rate=1"], ("count",)),
    "a config without a file": ([WHEEL, "--config"], ("--config",)),
    "an argument of a class without a value": ([WHEEL, "--piece.size"], ("piece.size",)),
    "an argument of a class without a value after others": (
        [WHEEL, "--piece.rate", "-1", "--piece.mode=fast", "--piece.init_args.size", "--count=1"],
        ("piece.init_args.size",),
    ),
    "an option with an empty part": ([WHEEL, "--group..depth=1"], ("group..depth",)),
    "a word that is not an option": ([WHEEL, "stray"], ("command line", "'stray'", "--")),
    "a class that does not exist": (["--piece=Whel"], ("piece", "'Whel'")),
    "a module that does not exist": (["--piece=nowhere.Wheel"], ("piece", "nowhere.Wheel", "'nowhere'")),
    "a class that its module lacks": ([f"--piece={HERE}.Whel"], ("piece", f"{HERE}.Whel", "'Whel'")),
    "a class of another kind": (["--piece=datetime.timedelta"], ("piece", "datetime.timedelta", "Part")),
    "a list for a class": (["--piece=[1]"], ("piece", "class_path", "init_args", "Part", "[1]")),
    "an unknown argument of a class": ([WHEEL, "--piece.init_args.sise=3"], ("piece", "Wheel", "'sise'", "'size'")),
    "a wrong type within a class": ([WHEEL, "--piece.init_args.size=x"], ("piece.init_args.size", "whole number", "x")),
    "a wrong list within a class": ([WHEEL, "--piece.init_args.names=3"], ("piece.init_args.names", "a list of texts", "3")),
    "a wrong choice within a class": ([WHEEL, "--piece.init_args.mode=c"], ("piece.init_args.mode", "'c'", "fast, slow")),
    "a class within a class": ([WHEEL, f"--piece.init_args.part={HERE}.Whel"], ("piece.init_args.part", f"{HERE}.Whel")),
    "a required argument of a class": ([f"--piece={HERE}.Needy"], ("piece", "Needy", "rate", "piece.init_args")),
    "a number for the arguments of a class": ([WHEEL, "--piece.init_args=3"], ("piece.init_args", "mapping", "Wheel")),
    "a file for a group that does not exist": ([WHEEL, "--group=nofile"], ("group", "mapping", "nofile")),
}  # fmt: skip


@pytest.mark.parametrize("case", ARGUMENTS)
def test_of_a_command_line(case: str) -> None:
    arguments, refusal = ARGUMENTS[case]
    with explained(*refusal, arguments=arguments):
        make_parser().parse_args(arguments)


PIECE: dict[str, Any] = {"piece": f"{HERE}.Wheel"}
OBJECTS: dict[str, tuple[dict[Any, Any], tuple[str, ...]]] = {
    "an unknown key": ({**PIECE, "cuont": 2}, ("cuont", "'count'")),
    "an unknown key of a group": ({**PIECE, "group": {"dpth": 2}}, ("group.dpth", "'group.depth'")),
    "a key that is a number": ({**PIECE, 1: 2}, ("--config", "1", "quote")),
    "a key without a name": ({**PIECE, "": 2}, ("--config",)),
    "a required class that is null": ({"piece": None}, ("piece", "--config FILE", "--piece NAME")),
    "a class_path that is a number": ({"piece": {"class_path": 3}}, ("piece", "class_path", "init_args")),
    "a class_path that is null": ({"piece": {"class_path": None}}, ("piece", "class_path", "init_args")),
    "a class_path that is a list": ({"piece": {"class_path": [1]}}, ("piece", "class_path", "init_args")),
    "a list for the arguments of a class": (
        {"piece": {"class_path": f"{HERE}.Wheel", "init_args": [1]}},
        ("piece.init_args", "mapping", "Wheel"),
    ),
    "an unknown argument of a class": (
        {"piece": {"class_path": f"{HERE}.Wheel", "init_args": {"sise": 1}}},
        ("piece", "Wheel", "'sise'", "'size'"),
    ),
}


@pytest.mark.parametrize("case", OBJECTS)
def test_of_a_mapping(case: str) -> None:
    content, refusal = OBJECTS[case]
    with explained(*refusal):
        make_parser().parse_object(content)


FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "an unknown key": ("cuont: 2", ("cuont", "'count'")),
    "an unknown key of a group": ("group: {dpth: 2}", ("group.dpth", "'group.depth'")),
    "a wrong type": ("count: {x: 1}", ("count", "whole number", "{'x': 1}")),
}


@pytest.mark.parametrize("case", FILES)
def test_of_a_config_file_of_a_subcommand(case: str, tmp_path: Path) -> None:
    """The command line has a subcommand for each of Trainer's methods, and jsonargparse words its errors differently."""
    text, refusal = FILES[case]
    (tmp_path / "config.yaml").write_text(f"piece: {HERE}.Wheel\n{text}\n")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subcommands(dest="subcommand").add_subcommand("fit", make_parser())
    with explained(*refusal):
        parser.parse_args(["fit", "--config", str(tmp_path / "config.yaml")])


def test_a_required_argument_of_a_subcommand_has_no_prefix() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subcommands(dest="subcommand").add_subcommand("fit", make_parser())
    with explained("piece", "--piece NAME"):
        parser.parse_args(["fit"])


def test_an_option_that_a_config_cannot_set_is_not_called_unknown() -> None:
    """The parser knows it under another command."""
    with explained("other", "config", keys=["other"]):
        make_parser().parse_object({**PIECE, "other": 1})


def test_an_error_of_an_unknown_kind_keeps_its_words() -> None:
    check_message(str(explain("something new")), "--config", "something new")
    check_message(str(explain('Parser key "a.b":\n  something new')), "a.b", "something new")
