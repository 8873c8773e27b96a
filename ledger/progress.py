"""A progress bar for management commands: one line, on terminals only."""

import time
from typing import IO

REDRAW_SECONDS = 0.1
WIDTH = 30


class ProgressBar:
    """Shows done, total, rate and time left; silent when the stream is not a terminal."""

    def __init__(self, unit: str, *, stream: IO[str]) -> None:
        self.unit = unit
        self.stream = stream
        self.started = time.monotonic()
        self.drawn = 0.0
        self.line = ""

    def show(self, done: int, total: int) -> None:
        """Draw the bar, at most ten times a second."""
        now = time.monotonic()
        if now - self.drawn < REDRAW_SECONDS and done < total:
            return
        self.drawn = now
        rate = done / max(now - self.started, 0.001)
        filled = WIDTH * done // max(total, 1)
        left = (total - done) / rate if rate else 0
        self.line = (
            f"\r[{'#' * filled}{'.' * (WIDTH - filled)}] {done:,}/{total:,} {self.unit} "
            f"{rate:,.0f}/s {left:.0f} s left "
        )
        if self.stream.isatty():
            self.stream.write(self.line)
            self.stream.flush()

    def close(self) -> None:
        """End the line."""
        if self.line and self.stream.isatty():
            self.stream.write("\n")
