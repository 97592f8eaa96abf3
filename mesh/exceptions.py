"""Every error that mesh raises.

One root, families below it; each carries its facts as fields and ends with the remedy.
"""

from __future__ import annotations

import builtins
from typing import Any


class MeshError(Exception):
    """The root of all errors that mesh raises itself."""


def _behind(where: str) -> str:
    return f" {where}" if where else ""


# --- what the user wrote -------------------------------------------------------------------------


class ImproperlyConfigured(MeshError):
    """A setting, URL or option that can't be used as it stands."""


class UnsupportedURL(ImproperlyConfigured):
    """A broker or backend URL of a scheme that mesh does not speak."""

    def __init__(self, url: str, option: str, instead: str, where: str = "") -> None:
        self.url, self.option, self.instead, self.where = url, option, instead, where
        super().__init__(
            f"{option}={url!r}{_behind(where)} is not a URL that mesh can use: mesh has no broker. "
            f"Write {option}={instead!r} instead."
        )


class InvalidMeshName(ImproperlyConfigured):
    """A mesh name or directory that can't hold sockets."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"the mesh {name!r} can't be used: {reason}")


class UnknownSetting(ImproperlyConfigured):
    """A key that is no setting. `where` is a phrase, such as "in mesh.toml"; empty for what the code says."""

    def __init__(self, key: str, suggestion: str | None, where: str = "") -> None:
        self.key, self.suggestion, self.where = key, suggestion, where
        hint = f"did you mean {suggestion!r}?" if suggestion else "see docs/settings.md for the list."
        super().__init__(f"unknown setting {key!r}{_behind(where)}: {hint}")


class InvalidSetting(ImproperlyConfigured):
    """A known setting with a value outside what it allows."""

    def __init__(self, key: str, value: object, allowed: str, where: str = "") -> None:
        self.key, self.value, self.allowed, self.where = key, value, allowed, where
        super().__init__(f"setting {key}={value!r}{_behind(where)} is not allowed: give {allowed}.")


class SettingNotAvailable(ImproperlyConfigured):
    """A setting of Celery's that mesh does not have, or not yet."""

    def __init__(self, key: str, instead: str, where: str = "") -> None:
        self.key, self.instead, self.where = key, instead, where
        super().__init__(f"setting {key!r}{_behind(where)} is not available: {instead}.")


class SettingsFileUnusable(ImproperlyConfigured):
    """A file of settings that is named and not there, or can't be read."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"the settings file {path} can't be used: {reason}.")


class SettingsModuleNotFound(ImproperlyConfigured, ImportError):
    """What `config_from_object` names does not import."""

    def __init__(self, target: str, reason: str) -> None:
        self.target, self.reason = target, reason
        super().__init__(f"no settings found at {target!r}: {reason.rstrip('.')}.")


class SettingsVariableUnset(ImproperlyConfigured):
    """The variable of `config_from_envvar` names no module."""

    def __init__(self, variable: str) -> None:
        self.variable = variable
        super().__init__(
            f"the environment variable {variable!r} is not set: let it name the module that holds the settings, "
            "or write config_from_envvar(..., silent=True)."
        )


class SettingsInUse(ImproperlyConfigured):
    """A setting that the app's client already works with."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(
            f"setting {key!r} can't change any more: this app's client is connected. "
            "Set it before the first call, or after app.close()."
        )


class UnknownOption(ImproperlyConfigured, TypeError):
    """A keyword that is no option of what was called."""

    def __init__(self, where: str, option: str, suggestion: str | None) -> None:
        self.where, self.option, self.suggestion = where, option, suggestion
        hint = f"did you mean {suggestion!r}?" if suggestion else "leave it out."
        super().__init__(f"{where} has no option {option!r}: {hint}")


class OptionNotAvailable(ImproperlyConfigured, NotImplementedError):
    """An option of Celery's that mesh does not have, or not yet."""

    def __init__(self, where: str, option: str, instead: str) -> None:
        self.where, self.option, self.instead = where, option, instead
        super().__init__(f"option {option!r} of {where} is not available: {instead}.")


class UnknownAttribute(ImproperlyConfigured, AttributeError):
    """A name that an app does not have."""

    def __init__(self, where: str, attribute: str, instead: str) -> None:
        self.where, self.attribute, self.instead = where, attribute, instead
        super().__init__(f"{where} has no attribute {attribute!r}: {instead}.")


class PoolNotAvailable(ImproperlyConfigured):
    """A node was asked for a pool that is not there."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"pool {name!r} can't be used: {reason}.")


class OptionRefused(ImproperlyConfigured):
    """A node was given what its pool can't do."""

    def __init__(self, option: str, setting: str | None, pool: str, reason: str) -> None:
        """`setting`: what says it, where that is not the option itself."""
        self.option = option
        self.setting = setting
        self.pool = pool
        self.reason = reason
        said = option if setting is None else f"the setting {setting} ({option})"
        super().__init__(f"{said} can't be honoured by pool {pool}: {reason}.")


class NoCurrentApp(ImproperlyConfigured):
    """Something needs the process's app and none was made."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f'{what} needs an app, and this process has none yet. Import the module that makes one: app = Mesh("proj").'
        )


class TaskNameTaken(ImproperlyConfigured):
    """Two functions registered under one task name."""

    def __init__(self, name: str, first: str, second: str) -> None:
        self.name, self.first, self.second = name, first, second
        super().__init__(
            f"the task name {name!r} belongs to {first}; {second} needs another: write @app.task(name=...)."
        )


class WrongArguments(MeshError, TypeError):
    """Arguments that the task's function does not take. Nothing was sent."""

    def __init__(self, task: str, reason: str) -> None:
        self.task, self.reason = task, reason
        super().__init__(f"{reason} (task {task!r}; nothing was sent)")


class AppNotFound(ImproperlyConfigured):
    """`-A` names nothing that holds a Mesh instance."""

    def __init__(self, target: str, reason: str) -> None:
        self.target, self.reason = target, reason
        super().__init__(f"no mesh app found at {target!r}: {reason}")


class TaskModuleNotFound(ImproperlyConfigured):
    """A module named in `include` that does not import."""

    def __init__(self, module: str, reason: str) -> None:
        self.module, self.reason = module, reason
        super().__init__(
            f"the task module {module!r} does not import: {reason.rstrip('.')}. "
            "Run from the directory that holds it (or set PYTHONPATH), and mend the error above."
        )


class NotRegistered(MeshError, KeyError):
    """A task name that nobody registered."""

    def __init__(self, name: str, where: str = "") -> None:
        self.name, self.where = name, where
        at = f" on {where}" if where else ""
        super().__init__(
            f"task {name!r} is not registered{at}. "
            "Import its module there: name it in Mesh(include=[...]), or use the decorator @app.task."
        )

    def __str__(self) -> str:
        return str(self.args[0])


class InvalidCall(MeshError, ValueError):
    """Call options that contradict each other or are out of range."""

    def __init__(self, option: str, value: object, allowed: str) -> None:
        self.option, self.value, self.allowed = option, value, allowed
        super().__init__(f"{option}={value!r} is not possible: give {allowed}.")


class UnserialisableArgument(MeshError, TypeError):
    """An argument or return value that no registered type can carry."""

    def __init__(self, where: str, type_name: str, reason: str) -> None:
        self.where, self.type_name, self.reason = where, type_name, reason
        super().__init__(f"{where} of type {type_name} can't be sent: {reason}")


# --- reaching the mesh ---------------------------------------------------------------------------


class OperationalError(MeshError):
    """The mesh can't take or answer something at the moment; the call may be tried again."""


class RouterUnreachable(OperationalError, ConnectionError):
    """No router answered in time."""

    def __init__(self, mesh: str, waited_s: float, tried: str, reason: str = "") -> None:
        self.mesh, self.waited_s, self.tried, self.reason = mesh, waited_s, tried, reason
        why = f" ({reason})" if reason else ""
        super().__init__(
            f"no router of mesh {mesh!r} answered in {waited_s:.1f} s (tried {tried}){why}. "
            'Start one with "mesh router" and read what it says.'
        )


class RouterNotPermitted(RouterUnreachable, PermissionError):
    """The mesh's directory exists and is somebody else's."""

    def __init__(self, mesh: str, directory: str, reason: str) -> None:
        OperationalError.__init__(
            self,
            f"the directory {directory} of mesh {mesh!r} can't be used: {reason}. "
            "Ask its owner for access, or use another mesh name.",
        )
        self.mesh, self.directory, self.reason = mesh, directory, reason


class SubmitBlocked(OperationalError):
    """The bounded table of calls the router has not confirmed stayed full."""

    def __init__(self, limit: int, waited_s: float) -> None:
        self.limit, self.waited_s = limit, waited_s
        super().__init__(
            f"{limit} calls wait for the router's confirmation and none came in {waited_s:.1f} s. "
            'See "mesh status"; raise publish_unconfirmed_max if bursts are meant to be larger.'
        )


class QueueFull(OperationalError):
    """The router refused a task."""

    def __init__(self, queue: str, reason: str) -> None:
        self.queue, self.reason = queue, reason
        super().__init__(f"the router refused a task for queue {queue!r}: {reason}")


class TaskIdTaken(OperationalError):
    """The router refused a task because it knows another one of the same id."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        super().__init__(
            f"the router refused a task: task_id {task_id!r} is taken by an earlier call. "
            f"Read that one with app.AsyncResult({task_id!r}), or give another id."
        )


class JournalUnavailable(OperationalError):
    """The disk did not take, or did not give back, what is to survive the router. Nothing of it is half there."""

    def __init__(self, path: str, reason: str, remedy: str) -> None:
        self.path, self.reason, self.remedy = path, reason, remedy
        super().__init__(f"the journal {path} can't be used: {reason}. {remedy}")


class NotJournaled(JournalUnavailable):
    """The router refused a task because its journal does not take it now."""

    def __init__(self, task: str, reason: str) -> None:
        self.task = task
        remedy = "Send it again when that is mended, or with durability='none', which needs no disk."
        self.path, self.reason, self.remedy = "", reason, remedy
        OperationalError.__init__(self, f"the router refused task {task!r}: {reason.rstrip('.')}. {remedy}")


class NewerJournal(MeshError):
    """A journal that a later release of mesh has written. It was left as it is."""

    def __init__(self, path: str, found: int, known: int) -> None:
        self.path, self.found, self.known = path, found, known
        super().__init__(
            f"the journal {path} has schema {found}, and this release knows up to {known}; nothing was changed. "
            "Install the release that wrote it or a later one; or move the file away, and the tasks in it wait there."
        )


class TimeoutError(MeshError, builtins.TimeoutError):
    """A wait that ended before what it waited for. The task itself goes on."""

    def __init__(self, what: str, waited_s: float, remedy: str) -> None:
        self.what, self.waited_s, self.remedy = what, waited_s, remedy
        super().__init__(f"{what} did not come within {waited_s:g} s. {remedy}")


# --- what became of a task -----------------------------------------------------------------------


class TaskError(MeshError):
    """A task that ended without a value, for a reason outside its own code."""


class WorkerLostError(TaskError):
    """The process that ran the task died, more often than the crash budget allows."""


class TaskTooOld(TaskError):
    """The task waited for a slot for longer than `queue_max_age`, and was given up."""


class TaskRevokedError(TaskError):
    """The task was revoked or expired before it began."""


class TaskLost(TaskError):
    """The router that had confirmed the task died without a journal, and the caller no longer held its body."""


class Retry(TaskError):
    """Raised by `self.retry()`: the task ends this run and asks for another."""

    def __init__(
        self, reason: BaseException | None, eta_wall_s: float, call: tuple[bytes, list[Any] | None] | None
    ) -> None:
        self.reason, self.eta_wall_s, self.call = reason, eta_wall_s, call
        super().__init__(f"the task asks to be run again: {reason!r}" if reason else "the task asks to be run again")


class MaxRetriesExceededError(TaskError):
    """The task asked for one more run than `max_retries` allows."""

    def __init__(self, name: str, retries: int) -> None:
        self.name, self.retries = name, retries
        super().__init__(f"task {name} has been retried {retries} times, and max_retries allows no more.")


class TimeLimitExceeded(TaskError):
    """The task ran longer than its hard time limit."""


class SoftTimeLimitExceeded(TaskError):
    """Raised inside a task that runs longer than its soft time limit."""

    def __init__(self, message: str = "the task has reached its soft time limit") -> None:
        super().__init__(message)


class WouldDeadlock(TaskError):
    """A task that waits for another one would keep the slot that the other one needs."""


class TaskInterrupted(BaseException):
    """Raised inside a task whose node is stopped cold, or that is terminated: a moment is left to put things in order.

    Not an Exception, so that a task that catches those does not go on. Where the task then raises, whatever that is, it
    is as if its slot had been killed in the middle of it; where it returns all the same, that is its value.
    """

    def __init__(self, message: str = "the node ends, or the task was terminated") -> None:
        super().__init__(message)


class RemoteError(TaskError):
    """A remote exception whose class is not known here; its subclasses bear the remote name."""


class ResultExpired(MeshError):
    """The outcome existed and was removed by age or size."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        super().__init__(
            f"the outcome of {task_id} was removed. Read results sooner, or raise result_expires or results_max_bytes; "
            "with result_persistent=True one that its caller has survives the router too."
        )


# --- the wire ------------------------------------------------------------------------------------


class ProtocolError(MeshError):
    """Bytes that are no message of this protocol."""


class MalformedMessage(ProtocolError):
    """Frames that don't decode, or decode to the wrong shape."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"malformed message: {reason}")


class VersionRefused(ProtocolError):
    """The other side speaks another major version of the protocol."""

    def __init__(self, theirs: int, ours: int) -> None:
        self.theirs, self.ours = theirs, ours
        super().__init__(
            f"the other side speaks protocol {theirs}, this one {ours}. Install the same mesh-tasks release on both."
        )


class UndecodableBody(ProtocolError):
    """A task body or result that can't be turned into values here."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the body can't be decoded: {reason}")


class IllegalTransition(MeshError):
    """A state move that the table does not list: a defect of mesh."""

    def __init__(self, machine: str, state: Any, event: str) -> None:
        self.machine, self.state, self.event = machine, state, event
        super().__init__(f"{machine} in state {state!r} can't take {event!r}. Please report this.")
