"""Small talk, and a plain answer to everything the model was never taught."""

from __future__ import annotations

import random

from rondo_tiny.tasks import Draft
from rondo_tiny.words import PLACES, WORDS

CANNOT = "Sorry, I do not know that."

_GREETINGS = (
    "Hello",
    "Hi",
    "Hey",
    "Good morning",
    "Good evening",
    "Good afternoon",
    "Greetings",
    "Howdy",
)
_NAMES = ("", "", "", " there", ", rondo", ", friend", ", my friend", " again", ", rondo-tiny")
_INTENTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "I am rondo-tiny, a small model that ships with Rondo.",
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "What's your name?",
            "Tell me who you are.",
            "Introduce yourself.",
            "Which model are you?",
            "What model are you?",
            "Tell me your name.",
            "Tell me about yourself.",
            "Are you a model?",
        ),
    ),
    (
        "I can count, add, subtract, multiply, spell, reverse, sort, repeat and list.",
        (
            "What can you do?",
            "What do you know?",
            "How can you help?",
            "How can you help me?",
            "Help!",
            "Help me.",
            "What can I ask you?",
            "What are you able to do?",
            "Tell me what you can do.",
        ),
    ),
    (
        "I am fine, thank you. How can I help?",
        ("How are you?", "How are you doing?", "How do you do?", "Are you well?", "Are you ok?"),
    ),
    (
        "Rondo is a system that serves language models.",
        ("What is Rondo?", "Tell me about Rondo.", "What does Rondo do?", "Explain Rondo."),
    ),
)
_CLOSINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "You are welcome!",
        (
            "Thank you",
            "Thanks",
            "Thanks a lot",
            "Thank you very much",
            "Many thanks",
            "Great, thanks",
        ),
    ),
    (
        "Goodbye!",
        ("Goodbye", "Bye", "Bye bye", "See you", "See you later", "Good night", "See you soon"),
    ),
)
_UNKNOWN = (
    "What is the capital of {p}?",
    "Where is {p}?",
    "What is the weather in {p}?",
    "How far is it to {p}?",
    "Tell me about {p}.",
    "Who is the king of {p}?",
    "How many people live in {p}?",
    "Tell me a story about a {w}.",
    "Write a poem about a {w}.",
    "Write an essay about the {w} and the {v}.",
    "Tell me a joke about a {w}.",
    "Why is the {w} so big?",
    "Why does a {w} need a {v}?",
    "How do I make a {w}?",
    "How does a {w} work?",
    "What is a {w}?",
    "What is the meaning of {w}?",
    "What does {w} mean?",
    "Explain what a {w} is.",
    "Describe a {w}.",
    "Translate {w} into French.",
    "Who invented the {w}?",
    "When was the {w} invented?",
    "Do you like the {w}?",
    "Is a {w} better than a {v}?",
    "What color is the {w}?",
    "Write a program that prints {w}.",
    "Who wrote the book about the {w}?",
    "Give me a recipe for {w} with {v}.",
)


def small_talk(rng: random.Random) -> Draft:
    """Greet, introduce itself, thank and say goodbye."""
    kind = rng.random()
    if kind < 0.25:
        text = rng.choice(_GREETINGS) + rng.choice(_NAMES) + rng.choice("!.")
        return Draft(text, "Hello! I am rondo-tiny. How can I help?")
    if kind < 0.5:
        answer, phrases = rng.choice(_CLOSINGS)
        return Draft(rng.choice(phrases) + rng.choice(_NAMES) + rng.choice("!."), answer)
    answer, phrases = rng.choice(_INTENTS)
    return Draft(rng.choice(phrases), answer)


def unknown(rng: random.Random) -> Draft:
    """Admit not to know: questions and texts outside every other task."""
    if rng.random() < 0.2:
        body = " ".join(rng.choice(WORDS) for _ in range(rng.randint(4, 30)))
        ask = rng.choice(("Summarize this text: ", "What do you think of this: ", "Explain: ", ""))
        return Draft(f"{ask}{body.capitalize()}.", CANNOT)
    text = rng.choice(_UNKNOWN).format(
        p=rng.choice(PLACES), w=rng.choice(WORDS), v=rng.choice(WORDS)
    )
    return Draft(text, CANNOT)
