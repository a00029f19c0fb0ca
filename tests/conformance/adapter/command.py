"""Our `nodepool` command behind upstream's nodepoolcmd.main and ConfigValidator.validate.

Upstream's tests look at the rows that go into a PrettyTable; so the table that our command printed is read back and
each row is handed to PrettyTable.add_row, where the tests wait for it.
"""
import logging
import os
import re
import subprocess
import sys

import prettytable
import yaml

from nodepool import exceptions

from harness import binary

log = logging.getLogger('conformance.command')


def available():
    return binary('nodepool').exists()


def _nodepool(arguments, env=None):
    command = [str(binary('nodepool')), *arguments]
    # check_output and run use subprocess.Popen, which the tests replace by a harmless subclass.
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, stdin=subprocess.DEVNULL)
    log.info('%s: status %s\n%s%s', ' '.join(command), done.returncode, done.stdout, done.stderr)
    return done


def rows(table):
    """The data rows of an ASCII table: below the second rule."""
    rules = 0
    for line in table.splitlines():
        if line.startswith('+-'):
            rules += 1
        elif line.startswith('|') and rules >= 2:
            yield [cell.strip() for cell in line.strip('|').split('|')]
        elif not line.startswith('|'):
            rules = 0


def main():
    # Logging at its default would go to stderr; the tests read none of it.
    done = _nodepool(sys.argv[1:])
    for row in rows(done.stdout):
        prettytable.PrettyTable().add_row(row)
    # Upstream's main returns the status of config-validate and of no command at all; everything else that goes wrong
    # leaves it as an exception, which a shell sees as status 1 and a text.
    if done.returncode and len(sys.argv) > 3 and 'config-validate' not in sys.argv:
        kind = exceptions.TimeoutException if re.search('timeout|could not lock', done.stderr) else Exception
        raise kind(done.stderr)
    return done.returncode


def validate(self, env=None):
    environment = {**os.environ, **(env or {})}
    done = _nodepool(['-c', self.config_file, 'config-validate'], environment)
    try:
        from nodepool import config
        self.config = config.openConfig(self.config_file, environment)
    except yaml.YAMLError:
        self.config = None
    return done.returncode
