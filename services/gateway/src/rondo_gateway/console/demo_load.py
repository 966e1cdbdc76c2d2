"""Load for demonstrations: requests of random tokens, at a rate that somebody sets by hand."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid

from rondo.bus import subjects
from rondo.bus.protocol import Incoming
from rondo.bus.tasks import end_task
from rondo.errors import RondoError
from rondo.types import Sampling
from rondo.wire.messages import Watching
from rondo_gateway.attempt import Links, Prompt
from rondo_gateway.generation import Generation
from rondo_gateway.served import ServedModels
from rondo_gateway.slo import standard_of
from rondo_gateway.text.assembler import TextRules
from rondo_gateway.text.model_files import ModelFiles

MAX_RATE = 200.0
#: The load ends by itself when nobody has set it for so long.
LEASE_S = 120.0
#: Requests under way at once; those beyond are not sent.
MAX_LIVE = 2000
#: Lengths in tokens: medians and spreads of lognormal distributions, and the largest.
PROMPT_TOKENS = (200.0, 0.8, 1500)
ANSWER_TOKENS = (60.0, 0.6, 400)


class DemoLoad:
    """Requests as from clients, to the gateway's first model; their answers are thrown away."""

    def __init__(self, links: Links, served: ServedModels) -> None:
        self._links = links
        self._served = served
        self._slo = standard_of(links.settings)
        self._random = random.Random()
        self._until_s = 0.0
        self._clock: asyncio.Task[None] | None = None
        self._live: set[asyncio.Task[None]] = set()
        self.rate = 0.0
        """Requests/s."""

    async def start(self) -> None:
        """Listens for other gateways, whose turn it may be to make the load."""
        await self._links.bus.subscribe(subjects.WATCH, self._on_watching)

    async def set_rate(self, rate: float) -> None:
        """Begins, changes or ends the load of the whole cluster: this gateway makes it all.

        Raises:
            PeerError: the bus is not there, so the others cannot be told.
        """
        gateway_id = self._links.gateway_id
        await self._links.bus.publish(
            subjects.WATCH, Watching(gateway_id=gateway_id, demo_rate=rate)
        )
        self.rate = min(rate, MAX_RATE)
        self._until_s = time.monotonic() + LEASE_S
        if self._clock:
            self._clock.cancel()  # it may sleep for long, at the rate before
        if self.rate > 0:
            self._clock = asyncio.create_task(self._run())

    def _on_watching(self, incoming: Incoming) -> None:
        message = incoming.message
        if not isinstance(message, Watching) or message.demo_rate is None:
            return
        if message.gateway_id != self._links.gateway_id:
            self.rate = 0.0

    async def close(self) -> None:
        """Ends what is under way, too."""
        self.rate = 0.0
        await end_task(self._clock, *self._live)

    async def _run(self) -> None:
        model = self._served.find(self._served.names[0])
        while self.rate > 0 and time.monotonic() < self._until_s:
            await asyncio.sleep(self._random.expovariate(self.rate))
            if self.rate > 0 and len(self._live) < MAX_LIVE:
                task = asyncio.create_task(self._one(model))
                self._live.add(task)
                task.add_done_callback(self._live.discard)
        self.rate = 0.0

    async def _one(self, model: ModelFiles) -> None:
        generation = Generation(self._links, self._prompt(model), model.tokenizer)
        try:
            with contextlib.suppress(RondoError):  # the console shows it, as that of any request
                await generation.start()
                async for _ in generation.pieces():
                    pass
        finally:
            generation.close()

    def _prompt(self, model: ModelFiles) -> Prompt:
        longest = self._served.max_model_len(model)
        max_tokens = min(self._length(ANSWER_TOKENS), max(1, longest // 4))
        num = max(1, min(self._length(PROMPT_TOKENS), longest - max_tokens))
        return Prompt(
            request_id=f"demo-{uuid.uuid4().hex}-0",
            model=model.name,
            tokens=[self._random.randrange(model.vocab_size) for _ in range(num)],
            max_tokens=max_tokens,
            sampling=Sampling(temperature=1.0, seed=self._random.getrandbits(32)),
            slo=self._slo,
            rules=TextRules(),
            ignore_eos=True,
            arrival_s=time.monotonic(),
        )

    def _length(self, distribution: tuple[float, float, int]) -> int:
        median, spread, largest = distribution
        return max(1, min(largest, round(median * self._random.lognormvariate(0.0, spread))))
