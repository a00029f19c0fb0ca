"""What the Python scripts under tests/ share: where things are, processes, services, waiting.

Standard library only (kazoo where ZooKeeper is read), so that `make demo` runs on Debian's own Python.
"""
import os
import pathlib
import random
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
    """A port that nobody listens on now. None of those that the system gives to outgoing connections: one of them would
    often be taken before the service that it is meant for has started."""
    while True:
        port = random.randrange(16000, 32000)
        with socket.socket() as s:
            # As servers do: what is left of earlier connections is no obstacle.
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(('127.0.0.1', port))
            except OSError:
                continue
            return port


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
