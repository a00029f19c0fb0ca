"""The fault proxy of crates/testing, for scripts: counts what passes, and lets go wrong what it is told to."""
import json
import urllib.request

from . import binary, wait_for
from .services import Process


def answer(status, body='', **headers):
    """The fault that answers so; Retry_After=2 is a header."""
    headers = {name.replace('_', '-'): str(value) for name, value in headers.items()}
    return {'answer': {'status': status, 'body': body, 'headers': headers}}


class FaultProxy(Process):
    """Before one HTTP service. Rules: crates/testing/src/faults.rs, as dict(path=…, fault=…, method=…, times=…, …)."""

    def __init__(self, upstream, log):
        super().__init__([binary('fault-proxy'), upstream], log)

    def start(self):
        super().start()
        said = json.loads(wait_for(f'listening: the proxy before {self.command[1]}',
                                   lambda: self.log.read_text().partition('\n')[0]))
        self.url, self._control = said['url'], said['control']
        return self

    def _ask(self, method, path, data=None):
        data = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f'{self._control}/{path}', data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.read()

    def rules(self, *rules):
        """These and no others."""
        self._ask('PUT', 'rules', rules)

    def clear(self):
        self._ask('DELETE', 'rules')

    def calls(self):
        """Since the start or `forget`: {'calls': {call: {end: count}}, 'faults': n, 'tokens': […]}."""
        return json.loads(self._ask('GET', 'calls'))

    def forget(self):
        self._ask('DELETE', 'calls')

    def down(self):
        self._ask('PUT', 'down')

    def up(self):
        self._ask('DELETE', 'down')
