"""Seeded chats for rondo-tiny, split into training and held-out prompts that never meet."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rondo_tiny import closed, talk, tasks
from rondo_tiny.words import WORDS

TASKS: dict[str, tuple[tasks.Maker, float]] = {
    "count": (tasks.count, 10.0),
    "add": (tasks.add, 16.0),
    "subtract": (tasks.subtract, 14.0),
    "multiply": (tasks.multiply, 7.0),
    "spell": (tasks.spell, 8.0),
    "reverse": (tasks.reverse, 12.0),
    "sort": (tasks.sort, 12.0),
    "days": (closed.days, 4.0),
    "months": (closed.months, 5.0),
    "lists": (closed.lists, 7.0),
    "repeat": (tasks.repeat, 6.0),
    "small talk": (talk.small_talk, 5.0),
    "unknown": (talk.unknown, 6.0),
}

POLISH = {
    "count": 18.0,
    "add": 14.0,
    "subtract": 18.0,
    "multiply": 5.0,
    "sort": 14.0,
    "lists": 12.0,
    "repeat": 12.0,
    "days": 3.0,
    "months": 3.0,
    "unknown": 3.0,
}
"""Weights that differ in the second stage of training: more of what is learnt last."""

HELD_OUT_SHARE = 10
"""One in this many prompts is held out."""

_PLAIN_TRAINED = frozenset({"small talk"})
"""Tasks whose plain wordings are never held out: nothing else tells what such a phrase means."""

_OPENINGS = ("Hi! ", "Hello! ", "Hey, ", "Ok, ", "Now, ", "So, ", "Well, ", "Next: ", "Right, ")
_VERB_TEXT = """
    add calculate count describe echo explain give introduce list multiply name order put repeat
    reverse say sort spell subtract summarize take tell translate write
"""
_VERBS = frozenset(_VERB_TEXT.split())
_SYSTEMS = (
    "You are a helpful assistant.",
    "You are rondo-tiny.",
    "Answer briefly.",
    "You are a small model. Answer the question.",
)


@dataclass(frozen=True)
class Example:
    """One prompt with its task, its right answer and the side of the split it belongs to.

    ``late`` prompts would be held out if they were not so plain or so common; they join the
    training in its second stage.
    """

    task: str
    prompt: str
    answer: str
    held_out: bool
    late: bool


@dataclass(frozen=True)
class Chat:
    """A chat: an optional system message and turns; the last turn is the newest."""

    system: str
    turns: tuple[Example, ...]

    def messages(self) -> list[dict[str, str]]:
        """Return every message up to and including the last prompt, without its answer."""
        found = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            found.append({"role": "user", "content": turn.prompt})
            found.append({"role": "assistant", "content": turn.answer})
        return found[:-1]


def is_held_out(key: str) -> bool:
    """Tell by its hash whether a prompt key belongs to the held-out side."""
    digest = hashlib.sha256(key.encode("utf-8")).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_SHARE == 0


def split_key(task: str, draft: tasks.Draft, prompt: str) -> str:
    """Return what decides the split: the content asked for, else the bare wording.

    A held-out sum, word or list of numbers is thus unseen in every wording; for closed sets the
    wording itself, without letter case and punctuation, is unseen.
    """
    if draft.content:
        return draft.content
    return f"{task}: {_normal(prompt)}"


def _normal(prompt: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+|[+*=-]", prompt.lower()))


def example(rng: random.Random, task: str) -> Example:
    """Draw one prompt of a task, from either side of the split."""
    draft = TASKS[task][0](rng)
    prompt = _dress(rng, draft)
    plain = draft.common or (task in _PLAIN_TRAINED and _normal(prompt) == _normal(draft.text))
    chosen = is_held_out(split_key(task, draft, prompt))
    return Example(task, prompt, draft.answer, chosen and not plain, chosen and plain)


def examples(seed: int, task: str, held_out: bool) -> Iterator[Example]:
    """Yield an endless seeded stream of prompts of one task from one side of the split."""
    rng = random.Random(f"{seed} {task} {held_out}")
    while True:
        drawn = example(rng, task)
        if drawn.held_out == held_out:
            yield drawn


def training_chats(seed: int, polish: bool = False) -> Iterator[Chat]:
    """Yield an endless seeded stream of chats made of training prompts only."""
    rng = random.Random(f"{seed} chats")
    names = list(TASKS)
    weights = [weight for _, weight in TASKS.values()]
    if polish:
        weights = [POLISH.get(task, weight) for task, (_, weight) in TASKS.items()]
    while True:
        turns: list[Example] = []
        wanted = rng.choices((1, 2, 3), (70, 22, 8))[0]
        while len(turns) < wanted:
            drawn = example(rng, rng.choices(names, weights)[0])
            if not drawn.held_out and (polish or not drawn.late):
                turns.append(drawn)
        yield Chat(_system(rng), tuple(turns))


def held_out_chats(seed: int, task: str, number: int) -> list[Chat]:
    """Return chats that end in different held-out prompts; some have a system or earlier turn."""
    rng = random.Random(f"{seed} {task} held-out chats")
    earlier = [next(examples(seed, name, held_out=False)) for name in TASKS]
    chats: dict[str, Chat] = {}
    for drawn in examples(seed, task, held_out=True):
        history = (rng.choice(earlier),) if rng.random() < 0.2 else ()
        chats.setdefault(drawn.prompt, Chat(_system(rng), (*history, drawn)))
        if len(chats) == number:
            break
    return list(chats.values())


def _system(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return ""
    if kind < 0.8:
        return rng.choice(_SYSTEMS)
    first, second = rng.choice(WORDS), rng.choice(WORDS)
    tail = " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, 8)))
    return rng.choice(
        (
            f"You are a {first} {second}. {tail}".strip(),
            f"You are a {first} and you like the {second}.",
            f"Talk like a {first}. Never mention the {second}.",
        )
    )


def _dress(rng: random.Random, draft: tasks.Draft) -> str:
    """Vary greeting, politeness, letter case and the last punctuation mark of a question."""
    text = draft.text
    if rng.random() < 0.45:
        return text
    if text.endswith((".", "?", "!")) and rng.random() < 0.3:
        text = text[:-1]
    verb = re.split(r"\W", text.lower(), maxsplit=1)[0] in _VERBS
    if verb and rng.random() < 0.3:
        text = rng.choice(("Please ", "Could you please ")) + text[0].lower() + text[1:]
    elif text[0].isalpha() and rng.random() < 0.25:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.3:
        text = rng.choice(_OPENINGS) + text
    if not draft.literal and rng.random() < 0.15:
        text = text.lower()
    return text
