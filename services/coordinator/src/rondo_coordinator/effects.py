"""Effects of a policy become messages: answers to gateways, commands to workers, events for all."""

from __future__ import annotations

from rondo.bus import subjects
from rondo.policy import events
from rondo.policy.events import AnyEffect, Decision
from rondo.service.outbox import Outbox
from rondo.service.watched import Watched
from rondo.wire import messages as m
from rondo_coordinator.admission_span import Respond, traced
from rondo_coordinator.metrics import CoordinatorMetrics


class Effects:
    """Performs effects for one macro-instance under one epoch."""

    def __init__(
        self,
        macro_id: str,
        epoch: int,
        outbox: Outbox,
        metrics: CoordinatorMetrics,
        watched: Watched,
    ) -> None:
        self._macro_id = macro_id
        self._epoch = epoch
        self._outbox = outbox
        self._metrics = metrics
        self._watched = watched
        self._replies: dict[str, Respond] = {}
        self._event_seq = 0

    def expect_reply(self, request_id: str, respond: Respond, traceparent: str = "") -> None:
        """The latest way to answer a request; an earlier one is no longer listened to."""
        if traceparent:
            respond = traced(respond, traceparent, self._replies.get(request_id))
        self._replies[request_id] = respond

    def forget_reply(self, request_id: str) -> None:
        """Nobody waits for an answer any more."""
        self._replies.pop(request_id, None)

    def hand_back(self) -> None:
        """We decide no longer: whoever waits for an answer asks again, and may ask others."""
        for request_id in list(self._replies):
            self._reply(
                m.Rejected(
                    request_id=request_id,
                    reason=m.MOVED,
                    detail="the macro-instance has another owner, or is no more",
                    retry_after_s=0.0,
                )
            )

    def perform(self, effect: AnyEffect) -> None:
        """Sends what the effect asks for."""
        match effect:
            case events.Admit():
                self._admit(effect)
            case events.Reject():
                self._metrics.rejected.labels(effect.reason).inc()
                fields = {"request": effect.request_id, "reason": effect.reason}
                self.publish("rejected", {**fields, "detail": effect.detail})
                self._reply(
                    m.Rejected(
                        request_id=effect.request_id,
                        reason=effect.reason,
                        detail=effect.detail,
                        retry_after_s=effect.retry_after_s,
                    )
                )
            case events.GrantTurn() | events.ExtendTurn():
                kind = m.TurnToken if isinstance(effect, events.GrantTurn) else m.TurnExtend
                self._metrics.turns.labels(kind.__name__).inc()
                command = kind(
                    epoch=self._epoch,
                    macro_id=self._macro_id,
                    turn=effect.turn,
                    request_ids=effect.request_ids,
                    budget_s=effect.budget_s,
                    batching=effect.batching,
                )
                self.command(effect.instance_id, command)
            case events.RevokeTurn():
                turn, macro_id = effect.turn, self._macro_id
                revoke = m.TurnRevoke(epoch=self._epoch, macro_id=macro_id, turn=turn)
                self.command(effect.instance_id, revoke)
            case events.CancelOn():
                cancel = m.CancelRun(
                    epoch=self._epoch, macro_id=self._macro_id, request_id=effect.request_id
                )
                self.command(effect.instance_id, cancel)
            case events.Observed():
                self._metrics.observed(effect)

    def explain(self, event: events.Event, decision: Decision) -> None:
        """While somebody watches: why a request that has come was neither admitted nor refused."""
        if not decision.reasons or not isinstance(event, events.RequestArrived):
            return
        if self._watched:
            request, reasons = event.request, list(decision.reasons)
            fields: m.Fields = {
                "request": request.request_id,
                "prompt_tokens": request.prompt_tokens,
                "reasons": reasons,
            }
            self.publish("pending", fields)

    def _admit(self, effect: events.Admit) -> None:
        self._metrics.admitted.inc()
        self._reply(
            m.Admitted(
                request_id=effect.request_id,
                instance_id=effect.instance_id,
                epoch=self._epoch,
                turn=effect.turn,
                predicted_ttft_s=effect.predicted_ttft_s,
                predicted_tpot_s=effect.predicted_tpot_s,
                reasons=effect.reasons,
            )
        )
        fields: m.Fields = {
            "request": effect.request_id,
            "instance": effect.instance_id,
            "turn": effect.turn,
            "predicted_ttft_s": effect.predicted_ttft_s,
            "predicted_tpot_s": effect.predicted_tpot_s,
            "reasons": list(effect.reasons),
        }
        self.publish("admitted", fields)

    def _reply(self, answer: m.Admitted | m.Rejected) -> None:
        if respond := self._replies.pop(answer.request_id, None):
            self._outbox.call("reply", lambda: respond(answer))

    def command(self, instance_id: str, command: m.Command) -> None:
        """Sends a command to an instance."""
        self._outbox.send(subjects.command(instance_id), command)

    def publish(self, kind: str, fields: m.Fields) -> None:
        """Publishes an event for the console, the journal and `rondo events`."""
        self._outbox.send_waiting()  # so that events come in order of their numbers
        self._outbox.send(subjects.event(kind), self._event(kind, fields))

    def _event(self, kind: str, fields: m.Fields) -> m.Event:
        self._event_seq += 1
        return m.Event(kind=kind, source_id=self._macro_id, seq=self._event_seq, fields=fields)

    def publish_turn(self, kind: str, report: m.TurnBegan | m.TurnEnded, value_s: float) -> None:
        """Publishes what an instance says of its turn; nobody acts on it."""
        fields: m.Fields = {
            "instance": report.instance_id,
            "turn": report.turn,
            "seconds": value_s,
        }
        self._outbox.send_later(subjects.event(kind), self._event(kind, fields))
