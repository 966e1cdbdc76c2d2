"""A gateway behind its HTTP surface, and answers run to their end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer, decoders, models

from rondo import tracing
from rondo.bus.protocol import Bus
from rondo.errors import RondoError
from rondo.types import FinishReason, Slo
from rondo_gateway.answers import Answers
from rondo_gateway.attempt import Links, Prompt
from rondo_gateway.directory import Directory
from rondo_gateway.generation import Generation
from rondo_gateway.lengths import OutputLengths
from rondo_gateway.metrics import GatewayMetrics
from rondo_gateway.settings import GatewaySettings
from rondo_gateway.text.assembler import TextRules
from tests.support.collect import eventually
from tests.support.services import EOS, GREEDY, MODEL, SLO, VOCAB_SIZE

#: Every token's text is one character of its own, so that a text says which tokens it was.
FIRST_CHAR = 0x4E00


def text_of(tokens: Sequence[int]) -> str:
    """The text of tokens; the end token has none."""
    return "".join(chr(FIRST_CHAR + token) for token in tokens if token != EOS)


def new_tokenizer() -> Tokenizer:
    """One character a token."""
    vocab = {chr(FIRST_CHAR + index): index for index in range(VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=chr(FIRST_CHAR)))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


@dataclass
class Gateway:
    """The parts of a gateway behind its HTTP surface."""

    links: Links
    directory: Directory
    registry: CollectorRegistry
    tokenizer: Tokenizer = field(default_factory=new_tokenizer)

    def generation(
        self,
        request_id: str,
        tokens: Sequence[int],
        max_tokens: int,
        *,
        stops: tuple[str, ...] = (),
        ignore_eos: bool = True,
        slo: Slo = SLO,
        span: tracing.Span = tracing.NOTHING,
        background: bool = False,
    ) -> Generation:
        """An answer that is not asked for yet."""
        prompt = Prompt(
            request_id=request_id,
            model=MODEL,
            tokens=list(tokens),
            max_tokens=max_tokens,
            sampling=GREEDY,
            slo=slo,
            rules=TextRules(stops=stops),
            ignore_eos=ignore_eos,
            arrival_s=time.monotonic(),
            span=span,
            background=background,
        )
        return Generation(self.links, prompt, self.tokenizer)


@dataclass
class Result:
    """How an answer ended."""

    text: str = ""
    num_tokens: int = 0
    finish: FinishReason | None = None
    error: RondoError | None = None


async def complete(generation: Generation) -> Result:
    """Runs an answer to its end, as the HTTP surface does."""
    result = Result()
    try:
        await generation.start()
        await read(generation, result)
    except RondoError as error:
        result.error = error
    finally:
        generation.close()
    return result


async def read(generation: Generation, result: Result) -> None:
    """Reads an admitted answer into `result`."""
    async for piece in generation.pieces():
        result.text += piece.text
        result.num_tokens, result.finish = piece.num_tokens, piece.finish


async def start_gateway(
    bus: Bus,
    gateway_id: str = "g0",
    *,
    stall_s: float = 0.5,
    max_attempts: int = 5,
    resume_timeout_s: float = 30.0,
) -> Gateway:
    """A gateway that listens and watches."""
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    answers = Answers(bus, gateway_id, metrics)
    directory = Directory(answers.instance_changed)
    settings = GatewaySettings(
        models=MODEL,
        stall_s=stall_s,
        max_attempts=max_attempts,
        resume_timeout_s=resume_timeout_s,
    )
    links = Links(bus, gateway_id, answers, directory, OutputLengths(), metrics, settings)
    await answers.start()
    await directory.start(bus)
    return Gateway(links, directory, registry)


async def servable(gateway: Gateway, num_instances: int = 1, timeout_s: float = 10.0) -> None:
    """Waits until a gateway sees so many instances in service."""

    def ready() -> bool:
        macros = gateway.directory.macros(MODEL)
        return sum(len(macro.instance_ids) for macro in macros) >= num_instances

    await eventually(ready, f"{num_instances} instances are in service", timeout_s)


async def gather_all(*generations: Generation) -> list[Result]:
    """Runs answers side by side."""
    return list(await asyncio.gather(*(complete(one) for one in generations)))
