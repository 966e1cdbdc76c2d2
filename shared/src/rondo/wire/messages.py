"""Every message of the protocol. See docs/wire.md for who sends what to whom."""

from __future__ import annotations

from typing import TypeAlias

from rondo.wire.base import Wire
from rondo.wire.commands import (
    CancelRun,
    Command,
    HandOver,
    MayBeat,
    Rejoin,
    ReportOften,
    SendFullReport,
    TurnExtend,
    TurnRevoke,
    TurnToken,
)
from rondo.wire.files import BatchProblem, BatchRecord, FileChunk, FileRecord
from rondo.wire.records import InstanceRecord, MacroRecord, ScalingRecord, StoredResponse
from rondo.wire.reports import Beat, Report, StepReport, TurnBegan, TurnEnded
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
from rondo.wire.status import (
    Event,
    FaultKind,
    FaultTaken,
    Fields,
    InjectFault,
    InstanceStatus,
    StatusReply,
    StatusRequest,
    Watching,
)

__all__ = [
    "MOVED",
    "Admitted",
    "BatchProblem",
    "BatchRecord",
    "Beat",
    "Cancel",
    "CancelRun",
    "Command",
    "Event",
    "FaultKind",
    "FaultTaken",
    "Fields",
    "FileChunk",
    "FileRecord",
    "FirstToken",
    "HandOver",
    "InjectFault",
    "InstanceRecord",
    "InstanceStatus",
    "MacroRecord",
    "MayBeat",
    "Message",
    "Rejected",
    "Rejoin",
    "Report",
    "ReportOften",
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
    "Watching",
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
    | ReportOften
    | MayBeat
    | Rejoin
    | HandOver
    | StepReport
    | TurnBegan
    | TurnEnded
    | Beat
    | InstanceRecord
    | MacroRecord
    | ScalingRecord
    | StoredResponse
    | FileRecord
    | FileChunk
    | BatchRecord
    | Event
    | StatusRequest
    | StatusReply
    | Watching
    | InjectFault
    | FaultTaken
)
