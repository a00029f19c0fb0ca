"""What the Python scripts under tests/ share: where things are, processes, services, waiting.

Standard library only (kazoo where ZooKeeper is read), so that `make demo` runs on Debian's own Python.
"""
import os
import pathlib
import socket
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = ROOT / 'tests'
CACHE = pathlib.Path(os.environ.get('NODEPOOL_TEST_CACHE', ROOT / '.cache'))
VENV = CACHE / 'venv'
UPSTREAM = CACHE / 'nodepool-11.0.0'
TARGET = pathlib.Path(os.environ.get('CARGO_TARGET_DIR', ROOT / 'target'))


def binary(name):
    """One of our binaries: NODEPOOL_LAUNCHER_BIN, NODEPOOL_BIN, … or the debug build."""
    variable = name.upper().replace('-', '_') + '_BIN'
    return pathlib.Path(os.environ.get(variable, TARGET / 'debug' / name))


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def wait_for(what, condition, timeout=60, interval=0.05):
    """Waits until condition() is true and returns its value; says what did not happen otherwise."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f'after {timeout} s: not {what}')
        time.sleep(interval)
