"""Tasks on closed sets, days, months and short lists, where only the wording can be new."""

from __future__ import annotations

import random

from rondo_tiny.tasks import Draft
from rondo_tiny.words import CATEGORIES, DAYS, MONTHS, NUMBER_WORDS, ORDINALS, SEASONS


def days(rng: random.Random) -> Draft:
    """Name the days of the week and their neighbours."""
    if rng.random() < 0.15:
        wording = rng.choice(_list_all("days of the week"))
        return Draft(wording, ", ".join(DAYS))
    if rng.random() < 0.06:
        return Draft(rng.choice(_how_many("days", "in a week")), "7")
    index, side = rng.randrange(7), rng.choice((1, -1))
    other = {1: "tomorrow", -1: "yesterday"}[side]
    extra = (
        f"If today is {DAYS[index]}, what day is {other}?",
        f"Today is {DAYS[index]}. What day is {other}?",
    )
    wording = rng.choice((*_neighbour("day", DAYS[index], side), *extra))
    return Draft(wording, DAYS[(index + side) % 7])


def months(rng: random.Random) -> Draft:
    """Name the months, their neighbours and their places in the year."""
    if rng.random() < 0.12:
        wording = rng.choice(_list_all("months of the year"))
        return Draft(wording, ", ".join(MONTHS))
    if rng.random() < 0.04:
        return Draft(rng.choice(_how_many("months", "in a year")), "12")
    index = rng.randrange(12)
    if rng.random() < 0.2:
        ask = rng.choice(("What is", "Which is", "Name", "Tell me"))
        mark = "?" if ask.endswith("is") else "."
        return Draft(f"{ask} the {ORDINALS[index]} month of the year{mark}", MONTHS[index])
    side = rng.choice((1, -1))
    wording = rng.choice(_neighbour("month", MONTHS[index], side))
    return Draft(wording, MONTHS[(index + side) % 12])


def _neighbour(unit: str, name: str, side: int) -> tuple[str, ...]:
    word = {1: "after", -1: "before"}[side]
    return (
        f"What {unit} comes {word} {name}?",
        f"What {unit} is {word} {name}?",
        f"Which {unit} comes {word} {name}?",
        f"Which {unit} is {word} {name}?",
        f"What is the {unit} {word} {name}?",
        f"What comes {word} {name}?",
        f"Name the {unit} {word} {name}.",
        f"Tell me the {unit} {word} {name}.",
    )


def _list_all(things: str) -> tuple[str, ...]:
    asks = (
        "List",
        "Name",
        "Tell me",
        "Write",
        "Say",
        "Give me",
        "What are",
        "Name all",
        "List all",
    )
    return tuple(f"{ask} the {things}{'?' if ask == 'What are' else '.'}" for ask in asks)


def _how_many(things: str, where: str) -> tuple[str, ...]:
    return (f"How many {things} are {where}?", f"How many {things} are there {where}?")


def lists(rng: random.Random) -> Draft:
    """Name the first few things of a kind, always in the same order."""
    if rng.random() < 0.1:
        name, items = rng.choice(
            (
                ("seasons", SEASONS),
                ("planets", CATEGORIES["planets"]),
                ("letters of the alphabet", tuple("abcdefghijklmnopqrstuvwxyz")),
            )
        )
        return Draft(rng.choice(_list_all(name)), ", ".join(items))
    kind = rng.choice(sorted(CATEGORIES))
    number = rng.randint(1, 8)
    shown = str(number) if rng.random() < 0.6 else NUMBER_WORDS[number - 1]
    noun = kind if number > 1 else kind[:-1]
    wording = rng.choice(
        (
            "Name {n} {k}.",
            "List {n} {k}.",
            "Give me {n} {k}.",
            "Tell me {n} {k}.",
            "Write {n} {k}.",
            "Can you name {n} {k}?",
            "Say {n} {k}.",
        )
    )
    return Draft(wording.format(n=shown, k=noun), ", ".join(CATEGORIES[kind][:number]))
