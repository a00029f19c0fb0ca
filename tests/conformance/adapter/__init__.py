"""Puts our binaries in the place of upstream's classes, so that upstream's own unmodified tests test ours.

`install()` replaces five names, all of which upstream's tests look up when they use them:

  nodepool.launcher.NodePool          launcher.py   spawns our nodepool-launcher
  nodepool.builder.NodePoolBuilder    builder.py    spawns our nodepool-builder
  nodepool.webapp.WebApp              launcher.py   points to that launcher's HTTP port
  nodepool.cmd.nodepoolcmd.main       command.py    runs our nodepool with the test's arguments
  ConfigValidator.validate            command.py    runs our `nodepool config-validate`

The cloud stays upstream's in-process FakeAdapter, because the tests patch it: fakecloud.py serves those objects to
our daemons' fake driver over Unix sockets. What the two daemons have in common is in daemon.py.

Nothing in here knows the name of a test.
"""
import logging


def install(builder=True):
    """With builder=False, the builder stays upstream's, in the test's process."""
    import nodepool.builder
    import nodepool.launcher
    import nodepool.webapp
    from nodepool.cmd import config_validator, nodepoolcmd

    from . import command, launcher
    from .builder import NodePoolBuilder

    # In site-packages this logger is quiet; here it is part of the evidence.
    logging.getLogger('conformance').setLevel(logging.DEBUG)
    nodepool.launcher.NodePool = launcher.NodePool
    nodepool.webapp.WebApp = launcher.WebApp
    if builder:
        nodepool.builder.NodePoolBuilder = NodePoolBuilder
    if command.available():
        nodepoolcmd.main = command.main
        config_validator.ConfigValidator.validate = command.validate
