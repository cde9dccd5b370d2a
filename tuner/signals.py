"""Signals that end a program: the first is never lost, the second ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

SHOW_CURSOR = b"\x1b[?25h"
AGAIN, AGAIN_SECONDS = signal.SIGURG, 0.1
"""The signal that stands in for one that was lost (nobody else sends it, and by itself it does nothing); and how often it is sent."""


class Signals:
    """Remembers which signal ended the program: servers swallow the exception that it raises. A second one ends it without ceremony.

    A terminal that is closed (SIGHUP) is one too, unless somebody has said that it is not to matter (`nohup`). It may be told of by the
    shell and by the kernel, and nothing can be written to it any more.

    A signal that comes while Python calls a finaliser or the callback of a weak reference (each thread that ends has one) is raised there
    and goes no further: then it is sent again until it is heard."""

    def __init__(self) -> None:
        self.status, self._unraisable = 0, sys.unraisablehook
        self._lost = self._told = False  # whether one was lost and is sent again; whether that is being told just now
        sys.unraisablehook = self._went_no_further
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, self._received)
        signal.signal(AGAIN, self._received_again)

    def _went_no_further(self, what: sys.UnraisableHookArgs) -> None:
        if not self.status or what.exc_type is not SystemExit:
            self._unraisable(what)
            return
        self._told = True
        try:
            if not self._lost:
                self._lost = True
                threading.Thread(target=self._send_again, daemon=True).start()
        finally:
            self._told = False

    def _send_again(self) -> None:
        while self._lost:
            time.sleep(AGAIN_SECONDS)
            os.kill(os.getpid(), AGAIN)

    def _received_again(self, *_: Any) -> None:
        if self._lost and not self._told:
            self._lost = False
            raise SystemExit(self.status)

    def _received(self, number: int, _: Any) -> None:
        if self._lost:
            self._received_again()
            return
        if number == signal.SIGHUP:
            if self.status:
                return
            for stream in (1, 2):
                if os.isatty(stream):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        if self.status:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), SHOW_CURSOR)  # a live table hides it
            os._exit(128 + number)  # asked twice: at once
        self.status = 128 + number
        raise SystemExit(self.status)
