"""Processes that a script starts and ends by their own ids: ZooKeeper, launchers, builders."""
import os
import pathlib
import re
import signal
import socket
import subprocess

from . import TESTS, VENV, binary, free_port, wait_for

# Upstream's tests replace subprocess.Popen.
_popen = subprocess.Popen


class Process:
    """A child in a process group of its own, output in a file; ended with the block, whatever happens."""

    def __init__(self, command, log, env=None, stop_signal=signal.SIGTERM, grace=10, cwd=None):
        self.command = [str(c) for c in command]
        self.log = pathlib.Path(log)
        self.env = env
        self.cwd = cwd
        self.stop_signal = stop_signal
        self.grace = grace
        self.child = None

    def start(self):
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, 'ab') as out:
            self.child = _popen(self.command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                env=self.env, cwd=self.cwd, start_new_session=True)
        return self

    @property
    def pid(self):
        return self.child.pid

    def running(self):
        return self.child is not None and self.child.poll() is None

    def kill(self, signum=signal.SIGKILL):
        """Signals the whole group and waits for the child."""
        if self.running():
            os.killpg(self.child.pid, signum)
        if self.child is not None:
            self.child.wait(self.grace)

    def stop(self):
        """The orderly end; a child that does not end in time is killed. Returns its status."""
        if self.child is None:
            return None
        if self.running():
            self.child.send_signal(self.stop_signal)
            try:
                self.child.wait(self.grace)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.child.returncode

    def tail(self, lines=30):
        try:
            return '\n'.join(self.log.read_text(errors='replace').splitlines()[-lines:])
        except OSError:
            return ''

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()


class ZooKeeper(Process):
    """A real ZooKeeper in a directory of its own, plain and TLS; `java`: options in place of those for a test's short life."""

    def __init__(self, directory, tls_port=None, java=None):
        self.directory = pathlib.Path(directory)
        self.port = free_port()
        self.tls_port = tls_port or free_port()
        tls = self.directory / 'tls'
        self.ca, self.cert, self.key = tls / 'ca.pem', tls / 'client.pem', tls / 'client.key'
        super().__init__([TESTS / 'services/zookeeper/run', directory, self.port, self.tls_port],
                         self.directory / 'run.log',
                         env={**os.environ, 'NODEPOOL_TEST_ZOOKEEPER_JAVA': java} if java else None)

    def four_letters(self, word):
        """ZooKeeper's one-word queries (ruok, mntr, cons), or '' while it does not answer."""
        try:
            with socket.create_connection(('127.0.0.1', self.port), 2) as s:
                s.settimeout(5)
                s.sendall(word.encode())
                answer = b''
                while chunk := s.recv(65536):
                    answer += chunk
                return answer.decode()
        except OSError:
            return ''

    def version(self):
        """`3.8.0`, as the server says."""
        return re.match(r'Zookeeper version: ([0-9.]+)', self.four_letters('srvr'))[1]

    def start(self):
        super().start()

        def up():
            if not self.running():
                raise RuntimeError(f'ZooKeeper ended:\n{self.tail()}')
            # `ruok` is answered before the server serves.
            if 'Mode:' not in self.four_letters('srvr'):
                return False
            # The secure port is opened after the plain one.
            with socket.socket() as s:
                return s.connect_ex(('127.0.0.1', self.tls_port)) == 0
        try:
            wait_for(f'up: ZooKeeper in {self.directory}', up, 60)
        except BaseException:
            self.stop()
            raise
        return self

    def client(self, chroot=''):
        """A connected kazoo client on the plain port."""
        import kazoo.client
        client = kazoo.client.KazooClient(hosts=f'127.0.0.1:{self.port}{chroot}', timeout=20)
        client.start(timeout=60)
        return client

    def tls_client(self, chroot=''):
        import kazoo.client
        client = kazoo.client.KazooClient(hosts=f'127.0.0.1:{self.tls_port}{chroot}', timeout=20, use_ssl=True,
                                          ca=str(self.ca), certfile=str(self.cert), keyfile=str(self.key))
        client.start()
        return client

    def config(self, chroot=''):
        """The zookeeper sections of a nodepool.yaml."""
        return {
            'zookeeper-servers': [dict(host='127.0.0.1', port=self.tls_port, **({'chroot': chroot} if chroot else {}))],
            'zookeeper-tls': {'ca': str(self.ca), 'cert': str(self.cert), 'key': str(self.key)},
        }


class Launcher(Process):
    """A nodepool-launcher in the foreground: ours, or with python=True upstream's."""

    def __init__(self, config, log, python=False, env=None, arguments=(), debug=True):
        executable = VENV / 'bin/nodepool-launcher' if python else binary('nodepool-launcher')
        arguments = [*(['-d'] if debug else []), '-c', config, *arguments]
        super().__init__([executable, '-f', *arguments], log,
                         env={**os.environ, **(env or {})}, stop_signal=signal.SIGINT, grace=30)


class Builder(Process):
    """A nodepool-builder in the foreground: ours, or with python=True upstream's at the pace of a test."""

    def __init__(self, config, log, python=False, env=None, arguments=(), within=()):
        """`within`: a command that becomes the one that stands behind it."""
        executable = [VENV / 'bin/python', TESTS / 'harness/upstream_builder.py'] if python else [binary('nodepool-builder')]
        # Upstream knows only SIGINT, and waits for a pass of each worker.
        super().__init__([*within, *executable, '-f', '-d', '-c', config, *arguments], log, env={**os.environ, **(env or {})},
                         stop_signal=signal.SIGINT if python else signal.SIGTERM, grace=30)
