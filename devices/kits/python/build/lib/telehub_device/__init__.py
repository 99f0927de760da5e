"""A device of a telehub: sends readings, keeps them until they are safe, answers commands."""

from .client import CommandFailed, Device
from .core import Command, Core, Dropped, Fault, Note, Rejected, Renumbered, Stopped, Welcome
from .queue import MemoryQueue, SqliteQueue
from .blocking import BlockingDevice

__all__ = [
    "BlockingDevice",
    "Command",
    "CommandFailed",
    "Core",
    "Device",
    "Dropped",
    "Fault",
    "MemoryQueue",
    "Note",
    "Rejected",
    "Renumbered",
    "SqliteQueue",
    "Stopped",
    "Welcome",
]
