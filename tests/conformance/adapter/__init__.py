"""Puts our binaries in the place of upstream's classes, so that upstream's own unmodified tests test ours.

`install()` replaces four names, all of which upstream's tests look up when they use them:

  nodepool.launcher.NodePool          launcher.py   spawns our nodepool-launcher
  nodepool.webapp.WebApp              launcher.py   points to that launcher's HTTP port
  nodepool.cmd.nodepoolcmd.main       command.py    runs our nodepool with the test's arguments
  ConfigValidator.validate            command.py    runs our `nodepool config-validate`

The cloud stays upstream's in-process FakeAdapter, because the tests patch it: fakecloud.py serves those objects to
our launcher's fake driver over a Unix socket. The builder stays upstream's, in the test's process.

Nothing in here knows the name of a test.
"""
import logging


def install():
    import nodepool.launcher
    import nodepool.webapp
    from nodepool.cmd import config_validator, nodepoolcmd

    from . import command, launcher

    # In site-packages this logger is quiet; here it is part of the evidence.
    logging.getLogger('conformance').setLevel(logging.DEBUG)
    nodepool.launcher.NodePool = launcher.NodePool
    nodepool.webapp.WebApp = launcher.WebApp
    if command.available():
        nodepoolcmd.main = command.main
        config_validator.ConfigValidator.validate = command.validate
