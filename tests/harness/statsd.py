"""A statsd server for scripts: it counts what launchers count, keeps gauges, and how often each metric comes."""
import collections
import socket
import threading


class Statsd:
    """Listens in a thread of its own. Values are kept of counters and gauges: a launch is counted beside its time."""

    def __init__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(('127.0.0.1', 0))
        self._counters = collections.Counter()
        self._lines = collections.Counter()
        self._gauges = {}
        self._thread = threading.Thread(target=self._run)

    def env(self):
        """For a launcher that is to tell it."""
        host, port = self._socket.getsockname()
        return {'STATSD_HOST': host, 'STATSD_PORT': str(port)}

    def counters(self, prefix=''):
        """{name without the prefix: count}."""
        return {name.removeprefix(prefix): count for name, count in self._counters.copy().items()
                if name.startswith(prefix)}

    def address(self):
        return '{}:{}'.format(*self._socket.getsockname())

    def lines(self):
        """{(name, kind): how many lines have come}; kinds are `c`, `g` and `ms`."""
        return self._lines.copy()

    def gauge(self, name):
        """The last value; None: nobody has set it."""
        return self._gauges.get(name)

    def _run(self):
        # An empty packet ends it.
        while packet := self._socket.recv(65536):
            for line in packet.decode().splitlines():
                name, _, rest = line.partition(':')
                value, _, kind = rest.partition('|')
                self._lines[name, kind] += 1
                if kind == 'c':
                    self._counters[name] += int(value)
                elif kind == 'g':
                    self._gauges[name] = float(value)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b'', self._socket.getsockname())
        self._thread.join()
        self._socket.close()
