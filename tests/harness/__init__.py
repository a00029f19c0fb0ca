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


_reserved = []


def free_port(kind=socket.SOCK_STREAM):
    """A port on 127.0.0.1 where nobody listens. It stays reserved while this process lives: the system gives it to no
    outgoing connection and to nobody else who asks for any port. Servers listen on it all the same, and after a stop
    again, as they set SO_REUSEADDR. Those of SOCK_DGRAM do not: such a port is only free now."""
    if kind == socket.SOCK_DGRAM:
        return _free_datagram_port()
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(('127.0.0.1', 0))
    _reserved.append(held)
    return held.getsockname()[1]


def _free_datagram_port():
    """None of those that the system gives to clients: one of them would often be taken before its server has started."""
    while True:
        port = random.randrange(16000, 32000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            try:
                s.bind(('127.0.0.1', port))
            except OSError:
                continue
            return port


# Of a wait, however short: on a machine with much else to do, what usually takes a second may take half a minute.
LEAST_TIMEOUT = 60


def wait_for(what, condition, timeout=LEAST_TIMEOUT, interval=0.05):
    """Waits until condition() is true and returns its value; says what did not happen otherwise. It waits for a minute at
    least: a test that has to see that something is fast measures it."""
    timeout = max(timeout, LEAST_TIMEOUT)
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f'after {timeout} s: not {what}')
        time.sleep(interval)
