"""Every message on the wire, in one place.

`codec` turns them into frames and back; docs/protocol.md tells who sends what when.

A message is a NamedTuple; on the wire it is the msgpack array `[kind, *fields]`. Fields added by a later minor
version stand at the end and are ignored by those who don't know them. Batches hold *records*, which are plain lists
on the wire and stay lists in the hot path; their fields are named here. Buffers of large bodies follow the message as
frames of their own, in the order of the records that own them (`n_frames` each).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

PROTOCOL_MAJOR: Final = 1
PROTOCOL_MINOR: Final = 0

#: Buffers that may follow one message.
FRAMES_MAX: Final = 4000
#: No time limit is longer: the slot page counts nanoseconds.
LIMIT_MAX_S: Final = 1e9

Buffer: TypeAlias = Any  #: bytes, memoryview or zmq.Frame: whatever the transport can send and hand over
Ranges: TypeAlias = list[list[int]]  #: [[first, last], ...], ascending, disjoint, both ends included


def are_ranges(value: Any, limit: int) -> bool:
    """Whether a value is `Ranges` of whole numbers from 1 below `limit`."""
    if type(value) is not list:
        return False
    previous = 0
    for one in value:
        if type(one) is not list or len(one) != 2:
            return False
        first, last = one
        if not (type(first) is int and type(last) is int and previous < first <= last < limit):
            return False
        previous = last
    return True


class Role(IntEnum):
    """What the sender of a HELLO is."""

    CLIENT = 1
    SLOT = 2
    NODE = 3


class Flag:
    """What a call asks for beyond the ordinary. Bits of a plain int: an enum's cost a microsecond at each look."""

    NONE: Final = 0
    IGNORE_RESULT: Final = 1  #: no outcome is sent to the caller or kept, unless it is a failure of mesh itself
    TRACK_STARTED: Final = 2  #: the slot tells the owner when it begins
    EARLY_ACK: Final = 4  #: at most once (`acks_late=False`)
    REDELIVERED: Final = 8  #: the router's word to the slot: an earlier attempt had begun
    TRANSIENT: Final = 16  #: durability "none": it is not journaled
    SYNCED: Final = 32  #: durability "synced": its confirm waits until the disk has it
    KEEP_RESULT: Final = 64  #: its outcome stays in the journal until it expires, though its caller has it
    RECEIVED: Final = 128  #: the router's own: the caller has an outcome of it, before the router has
    AGAIN_ON_TIMEOUT: Final = 256  #: killed for its time limit it is run again (`acks_on_timeout=False`)


class Durability(IntEnum):
    """Which level a confirm vouches for."""

    NONE = 0  #: held in the router's memory; the caller keeps the body until the outcome
    JOURNALED = 1  #: survives the death of every process of the host
    SYNCED = 2  #: survives the loss of power


class Code:
    """Why a HELLO is refused."""

    VERSION: Final = "version"  #: another protocol
    MESH: Final = "mesh"  #: another mesh
    DUPLICATE: Final = "duplicate"  #: another process bears this name or incarnation
    DRAINING: Final = "draining"  #: the router is about to exit: try again
    STARTING: Final = "starting"  #: the router reads its journal: try again, for as long as it says so
    #: No later HELLO of the same process is answered otherwise.
    FINAL: Final = frozenset({VERSION, MESH, DUPLICATE})


class Refused:
    """Why a router does not take a call."""

    FULL: Final = "full"  #: it holds as many tasks or bytes as it may
    ID: Final = "id"  #: its custom id is taken
    DISK: Final = "disk"  #: it can't be journaled now
    WAITS: Final = "waits"  #: not refused: it was taken, and can't be confirmed before the disk works again


class Unrunnable:
    """Why a slot could not run a task: a text, as later releases may know further reasons."""

    UNKNOWN: Final = "unknown task"  #: no function of that name is registered there
    UNDECODABLE: Final = "undecodable"  #: its arguments can't be read there


#: Characters of such a reason.
CAUSE_CHARS_MAX: Final = 200


# --- records: lists on the wire ------------------------------------------------------------------


class Call(NamedTuple):
    """A task as the caller publishes it."""

    sequence: int  #: within the client's incarnation, from 1
    name: str
    queue: str
    priority: int  #: 0-9, higher first
    flags: int  #: Flag
    body: bytes  #: opaque to the router
    n_frames: int
    options: (
        dict[str, Any] | None
    )  #: rare ones: `eta`, `expires` (wall seconds), `id` (custom), `retries`, `root`, `parent`, `headers`


class Assignment(NamedTuple):
    """A task as a slot gets it. Its lease number is the batch's `first_lease` plus its index."""

    task_id: bytes
    name: str
    attempt: int  #: from 0
    flags: int
    body: bytes
    n_frames: int
    options: dict[str, Any] | None


class Outcome(NamedTuple):
    """How one lease ended, as the slot tells the owner."""

    lease: int
    task_id: bytes
    status: int  #: states.Status
    runtime_us: int
    body: bytes
    n_frames: int
    delivered: bool  #: the slot has sent it to the caller itself; else the router passes it on
    # Status RETRY has an eighth field, [eta_wall_s, body]: the task is to run again then. `body` replaces that of the
    # call where it is not None, with the frames of this record; the record's own body is why, an exception.
    # Status FAILURE may have an eighth field, one of `Unrunnable`: the slot could not run it, and it is a dead letter.


class Result(NamedTuple):
    """What the caller learns of a task."""

    task_id: bytes
    status: int
    body: bytes
    n_frames: int


# --- every link ----------------------------------------------------------------------------------


class Hello(NamedTuple):
    """The first message on every link; anything before it is dropped."""

    major: int
    minor: int
    role: int
    mesh: str
    incarnation: int  #: of the sending process: random, 34 bits
    pid: int
    info: dict[str, Any]


class HelloOk(NamedTuple):
    """The link is up."""

    minor: int
    boot: bytes  #: 8 random bytes of this router process
    owner_tag: bytes
    pid: int
    info: dict[str, Any]


class HelloRefused(NamedTuple):
    """The link stays closed."""

    major: int
    code: str  #: of `Code`
    reason: str


class NeedHello(NamedTuple):
    """The receiver knows nothing of the sender: say HELLO, then resend what was not confirmed."""

    boot: bytes


class Bye(NamedTuple):
    """The sender leaves in good order."""

    reason: str


class Malformed(NamedTuple):
    """A message of the receiver's was dropped; both sides log it."""

    reason: str


# --- client and router ---------------------------------------------------------------------------


class Publish(NamedTuple):
    """Calls, in ascending order of sequence."""

    confirm_now: bool  #: somebody waits for the confirm
    calls: list[list[Any]]  #: records: Call
    received: Ranges = []  # noqa: RUF012  #: as in Received


class Confirm(NamedTuple):
    """The router answers for these sequences from now on, except for the refused."""

    durability: int
    confirmed: Ranges
    refused: list[list[Any]]  #: [[sequence, code of `Refused`, reason], ...]


class Received(NamedTuple):
    """The caller has these outcomes."""

    sequences: Ranges


class Results(NamedTuple):
    """Outcomes for a caller: from a slot over the direct path, or from the router."""

    results: list[list[Any]]  #: records: Result


class Reconcile(NamedTuple):
    """The caller still waits for these sequences.

    Answered with Results for those that ended and Missing for the unknown.
    """

    outstanding: Ranges


class Missing(NamedTuple):
    """The router has never heard of these sequences."""

    sequences: Ranges


class Ask(NamedTuple):
    """Where are these tasks?

    Answered at once with States, and Results for those that ended; `watch` asks for later Results too.
    """

    request: int
    watch: bool
    ids: list[Any]  #: 16 bytes each, or a custom id as str


class States(NamedTuple):
    """Answer to Ask."""

    request: int
    states: list[list[Any]]  #: [[id as asked, 16-byte id or None, state name, info map or None], ...]


# --- slot and router -----------------------------------------------------------------------------


class Tasks(NamedTuple):
    """Leases for a slot, numbered upwards from `first_lease`."""

    first_lease: int
    receipt: int  #: as in Receipt
    tasks: list[list[Any]]  #: records: Assignment


class Outcomes(NamedTuple):
    """Finished leases, ascending; after a HELLO first those without a receipt, once more."""

    outcomes: list[list[Any]]  #: records: Outcome


class Receipt(NamedTuple):
    """The owner has the outcomes of all leases up to this number."""

    upto: int


class Started(NamedTuple):
    """The slot begins a task that is tracked."""

    lease: int
    wall_s: float


class Returned(NamedTuple):
    """The slot did not begin these leases and will not."""

    leases: list[int]


class Blocked(NamedTuple):
    """The slot's task waits for another one; or it did, and has ended. Meanwhile the slot begins nothing."""

    blocked: bool


# --- node and router -----------------------------------------------------------------------------


class Recall(NamedTuple):
    """Take back what this slot holds up to this lease and has not begun."""

    slot: int
    upto: int


class Terminate(NamedTuple):
    """End what this slot runs, if it still runs this lease."""

    slot: int
    slot_pid: int
    lease: int
    signal: int


class Demand(NamedTuple):
    """So many tasks wait in the node's queues: for a node that has as many slots as it needs."""

    tasks: int


class Recalled(NamedTuple):
    """Leases (begun, upto] of the slot are not begun and never will be."""

    slot: int
    slot_pid: int
    begun: int
    upto: int


class SlotLost(NamedTuple):
    """A slot's process is gone."""

    slot: int
    slot_pid: int
    begun: int  #: the last lease it began
    cause: str
    charged: bool  #: False for an ordered end
    limit_s: float = 0.0  #: the hard time limit that the begun lease was killed for; 0.0 for any other end


class Quiet(NamedTuple):
    """The node takes no more; what its slots have not begun comes back by Recalled."""

    node: str


# --- router and router -----------------------------------------------------------------------------


class AskAdoptions(NamedTuple):
    """A router that is back asks its peer: which calls of mine have you taken over meanwhile?"""

    owner_tag: bytes  #: of the asker: the ids of its calls begin with it


class Adoptions(NamedTuple):
    """Answer to AskAdoptions: these are the sender's to run."""

    adopted: list[list[Any]]  #: [[client prefix, Ranges of sequences], ...]


# --- control -------------------------------------------------------------------------------------


class Request(NamedTuple):
    """A control command, from a client to its router and from there to the nodes."""

    number: int
    command: str
    arguments: dict[str, Any]
    destination: list[str] | None  #: node names; None means all
    timeout_s: float


class Reply(NamedTuple):
    """One node's answer."""

    number: int
    ok: bool
    value: Any  #: or the error's text


class Replies(NamedTuple):
    """All answers, and who did not answer and why."""

    number: int
    values: dict[str, Any]  #: {node: value}
    errors: dict[str, str]  #: {node: why there is no value}


#: {kind on the wire: message}. Numbers are never reused.
KINDS: Final[dict[int, type[tuple[Any, ...]]]] = {
    1: Hello,
    2: HelloOk,
    3: HelloRefused,
    4: NeedHello,
    5: Bye,
    6: Malformed,
    10: Publish,
    11: Confirm,
    12: Received,
    13: Results,
    14: Reconcile,
    15: Missing,
    16: Ask,
    17: States,
    20: Tasks,
    21: Outcomes,
    22: Receipt,
    23: Started,
    24: Returned,
    25: Blocked,
    30: Recall,
    31: Recalled,
    32: SlotLost,
    33: Quiet,
    34: Terminate,
    37: Demand,
    35: AskAdoptions,
    36: Adoptions,
    40: Request,
    41: Reply,
    42: Replies,
}

Message: TypeAlias = (
    Hello | HelloOk | HelloRefused | NeedHello | Bye | Malformed
    | Publish | Confirm | Received | Results | Reconcile | Missing | Ask | States
    | Tasks | Outcomes | Receipt | Started | Returned | Blocked
    | Recall | Recalled | SlotLost | Quiet | Terminate | Demand | AskAdoptions | Adoptions
    | Request | Reply | Replies
)  # fmt: skip

Frames: TypeAlias = Sequence[Buffer]
