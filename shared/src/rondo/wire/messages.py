"""Every message of the protocol. See docs/wire.md for who sends what to whom."""

from __future__ import annotations

from typing import TypeAlias

from rondo.wire.base import Wire
from rondo.wire.commands import (
    CancelRun,
    Command,
    Rejoin,
    SendFullReport,
    TurnExtend,
    TurnRevoke,
    TurnToken,
)
from rondo.wire.records import InstanceRecord, MacroRecord
from rondo.wire.reports import Report, StepReport, TurnBegan, TurnEnded
from rondo.wire.requests import (
    Admitted,
    Cancel,
    Rejected,
    Resync,
    Run,
    Submit,
    TokenDelta,
    TokenFrame,
)
from rondo.wire.status import Event, Fields, InstanceStatus, StatusReply, StatusRequest

__all__ = [
    "Admitted",
    "Cancel",
    "CancelRun",
    "Command",
    "Event",
    "Fields",
    "InstanceRecord",
    "InstanceStatus",
    "MacroRecord",
    "Message",
    "Rejected",
    "Rejoin",
    "Report",
    "Resync",
    "Run",
    "SendFullReport",
    "StatusReply",
    "StatusRequest",
    "StepReport",
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
    | StepReport
    | TurnBegan
    | TurnEnded
    | InstanceRecord
    | MacroRecord
    | Event
    | StatusRequest
    | StatusReply
)
