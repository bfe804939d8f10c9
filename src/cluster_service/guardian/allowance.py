"""Rate limit of one worker: token buckets for messages, bytes, and the CPU time that the guardian spends on them."""

from __future__ import annotations

MESSAGES_PER_SECOND, MESSAGE_BURST = 2_000.0, 10_000.0
BYTES_PER_SECOND, BYTE_BURST = 2.0 * 1024 * 1024, 16.0 * 1024 * 1024
PROCESSOR_SHARE, PROCESSOR_BURST = 0.25, 2.0
"""Rate in CPU seconds per second, and burst in CPU seconds."""
DESCRIPTOR_COST = 200
"""Number of messages that one datagram with descriptors counts as, since closing them requires another process."""


class Allowance:
    """Remaining allowance of one worker. Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._messages, self._bytes, self._seconds, self._at = MESSAGE_BURST, BYTE_BURST, PROCESSOR_BURST, now

    def __repr__(self) -> str:
        return f"<Allowance: {self._messages:.0f} messages, {self._bytes:.0f} bytes>"

    def take(self, size: int, now: float, messages: int = 1) -> None:
        """Charge *messages* received messages of *size* bytes in all."""
        self._refill(now)
        self._messages -= messages
        self._bytes -= size

    def spend(self, seconds: float) -> None:
        """Charge *seconds* of CPU time."""
        self._seconds -= seconds

    def wait(self, now: float) -> float:
        """Return the seconds until the next message may be read; 0: now."""
        self._refill(now)
        return max(
            0.0,
            (1.0 - self._messages) / MESSAGES_PER_SECOND,
            -self._bytes / BYTES_PER_SECOND,
            -self._seconds / PROCESSOR_SHARE,
        )

    def _refill(self, now: float) -> None:
        passed = max(0.0, now - self._at)
        self._messages = min(MESSAGE_BURST, self._messages + passed * MESSAGES_PER_SECOND)
        self._bytes = min(BYTE_BURST, self._bytes + passed * BYTES_PER_SECOND)
        self._seconds = min(PROCESSOR_BURST, self._seconds + passed * PROCESSOR_SHARE)
        self._at = now
