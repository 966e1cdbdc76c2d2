"""One HTTP request, checked and tokenised, and the prompts of its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rondo import tracing
from rondo_gateway.attempt import Prompt
from rondo_gateway.lengths import OutputLengths
from rondo_gateway.limits import check_prompt_logprobs, output_limit
from rondo_gateway.plan import GenerationPlan
from rondo_gateway.responses import Kind
from rondo_gateway.text.assembler import TextRules
from rondo_gateway.text.model_files import ModelFiles


@dataclass(frozen=True, slots=True)
class Job:
    """What a `Completion` runs. `prompts` are token ids, one or several; `texts` what an echo of
    each shows; `traceparent` is the client's trace, if it has one."""

    kind: Kind
    model: ModelFiles
    max_model_len: int
    prompts: Sequence[list[int]]
    prompt_param: str
    plan: GenerationPlan
    arrival_s: float
    texts: Sequence[str] = ()
    traceparent: str = ""

    @property
    def per_prompt(self) -> int:
        """Candidates of each prompt."""
        return len(self.plan.samplings) // len(self.prompts)

    def candidates(
        self, response_id: str, span: tracing.Span, lengths: OutputLengths
    ) -> list[Prompt]:
        """A prompt for each candidate, in the order of the choices' indices.

        Raises:
            ApiError: prompt and answer do not fit into the context.
        """
        plan, name = self.plan, self.model.name
        limits = [self._limit(tokens) for tokens in self.prompts]
        # A trained predictor reads the whole prompt: once for all its candidates.
        predicted = [
            lengths.predict(name, tokens, limit, exact=plan.ignore_eos)
            for tokens, limit in zip(self.prompts, limits, strict=True)
        ]
        return [
            Prompt(
                request_id=f"{response_id}-{index}",
                model=name,
                tokens=self.prompts[index // self.per_prompt],
                max_tokens=limits[index // self.per_prompt],
                sampling=sampling,
                slo=plan.slo,
                rules=TextRules(
                    stops=plan.stops,
                    stop_token_ids=sampling.stop_token_ids,
                    min_tokens=sampling.min_tokens,
                    include_stop=plan.include_stop,
                    hide_special=plan.hide_special,
                    scored=sampling.logprobs is not None,
                ),
                ignore_eos=plan.ignore_eos,
                arrival_s=self.arrival_s,
                grammar_param=plan.grammar_param,
                span=span,
                background=plan.background,
                predicted_tokens=predicted[index // self.per_prompt],
            )
            for index, sampling in enumerate(plan.samplings)
        ]

    def _limit(self, prompt: Sequence[int]) -> int:
        """Tokens of each answer to a prompt at most."""
        plan = self.plan
        check_prompt_logprobs(len(prompt), plan.samplings[0].prompt_logprobs)
        return output_limit(
            len(prompt),
            plan.max_tokens,
            self.max_model_len,
            default=plan.default_max_tokens,
            min_tokens=plan.samplings[0].min_tokens,
            prompt_param=self.prompt_param,
        )
