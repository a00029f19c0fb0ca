"""Upstream's nodepool-builder, unchanged but for its pace: a pass every second, a clean-up every two.

Its command line has no way to say so, and with its own intervals (10 s and 60 s) a test of twenty builds takes an hour.
"""
import nodepool.builder
import nodepool.cmd.builder

_made = nodepool.builder.NodePoolBuilder.__init__


def _make(self, *arguments, **named):
    _made(self, *arguments, **named)
    self.build_interval = self.upload_interval = 1
    self.cleanup_interval = 2


nodepool.builder.NodePoolBuilder.__init__ = _make
nodepool.cmd.builder.main()
