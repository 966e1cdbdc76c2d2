"""Every message of the protocol. See docs/wire.md for who sends what to whom."""

from __future__ import annotations

from typing import TypeAlias

from rondo.wire.base import Wire
from rondo.wire.commands import (
    CancelRun,
    Command,
    HandOver,
    Rejoin,
    SendFullReport,
    TurnExtend,
    TurnRevoke,
    TurnToken,
)
from rondo.wire.records import InstanceRecord, MacroRecord, ScalingRecord, StoredResponse
from rondo.wire.reports import Report, StepReport, TurnBegan, TurnEnded
from rondo.wire.requests import (
    MOVED,
    Admitted,
    Cancel,
    FirstToken,
    Rejected,
    Resync,
    Run,
    Submit,
    TokenDelta,
    TokenFrame,
)
from rondo.wire.status import Event, Fields, InstanceStatus, StatusReply, StatusRequest

__all__ = [
    "MOVED",
    "Admitted",
    "Cancel",
    "CancelRun",
    "Command",
    "Event",
    "Fields",
    "FirstToken",
    "HandOver",
    "InstanceRecord",
    "InstanceStatus",
    "MacroRecord",
    "Message",
    "Rejected",
    "Rejoin",
    "Report",
    "Resync",
    "Run",
    "ScalingRecord",
    "SendFullReport",
    "StatusReply",
    "StatusRequest",
    "StepReport",
    "StoredResponse",
    "Submit",
    "TokenDelta",
    "TokenFrame",
    "TurnBegan",
    "TurnEnded",
    "TurnExtend",
    "TurnRevoke",
    "TurnToken",
    "Wire",
]

Message: TypeAlias = (
    Submit
    | Admitted
    | Rejected
    | Cancel
    | Run
    | Resync
    | TokenFrame
    | TurnToken
    | TurnExtend
    | TurnRevoke
    | CancelRun
    | SendFullReport
    | Rejoin
    | HandOver
    | StepReport
    | TurnBegan
    | TurnEnded
    | InstanceRecord
    | MacroRecord
    | ScalingRecord
    | StoredResponse
    | Event
    | StatusRequest
    | StatusReply
)
