"""Upstream's nodepool-builder, unchanged but for its pace: a pass every second, a clean-up every two.

Its command line has no way to say so, and with its own intervals (10 s and 60 s) a test of twenty builds takes an hour.
"""
import sys

# This directory has modules of Python's libraries' names.
sys.path.pop(0)
import nodepool.builder  # noqa: E402
import nodepool.cmd.builder  # noqa: E402

_made = nodepool.builder.NodePoolBuilder.__init__


def _make(self, *arguments, **named):
    _made(self, *arguments, **named)
    self.build_interval = self.upload_interval = 1
    self.cleanup_interval = 2


nodepool.builder.NodePoolBuilder.__init__ = _make
nodepool.cmd.builder.main()
