"""Ranges and lists of numbers, as llama-bench spells them."""

from __future__ import annotations

import pytest

from jrtcli.bench.ranges import names, numbers
from jrtcli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("16", (16,)),
        ("1,16", (1, 16)),
        ("2048-32768*2", (2048, 4096, 8192, 16384, 32768)),
        ("512-2000+512", (512, 1024, 1536)),
        ("3-5", (3, 4, 5)),
        ("7-7", (7,)),
        ("4,1-4*2, 4", (4, 1, 2)),
        ("5-100*7", (5, 35)),
    ],
)
def test_numbers(text: str, found: tuple[int, ...]) -> None:
    assert numbers("--length", text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-3",
        "a",
        "1.5",
        "4-2",
        "1-8*1",
        "1-8*0",
        "1-8+0",
        "0-8",
        "1-8/2",
        "1,,2",
        "1-9999999",
        "1-2-3",
    ],
)
def test_what_is_no_number_is_said_with_its_option(text: str) -> None:
    with pytest.raises(UsageError, match="--length"):
        numbers("--length", text)


def test_names() -> None:
    assert names("--op", "ssd, gla,ssd", ("gla", "ssd")) == ("ssd", "gla")
    with pytest.raises(UsageError, match="--op gala: choose from gla, ssd"):
        names("--op", "gla,gala", ("gla", "ssd"))
    with pytest.raises(UsageError, match="--op"):
        names("--op", " , ", ("gla",))
