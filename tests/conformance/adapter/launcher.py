"""Our nodepool-launcher behind the interface that upstream's tests expect of nodepool.launcher.NodePool.

What the tests ask of that object beside what daemon.py has, and where the answer comes from:

  config                None until our launcher answers /ready
  getProviderManager    upstream's manager with the FakeAdapter that fakecloud.py serves to our launcher
  getPoolWorkers        our launcher's /pool-list: paused and active requests of each pool
"""
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import nodepool.launcher as upstream

from harness import free_port

from .daemon import THREAD, Daemon, Stopped


class PoolWorker:
    """One of our launcher's pools, as upstream's PoolWorker would look to a test."""

    def __init__(self, nodepool, provider_name, pool_name):
        self._nodepool = nodepool
        self.provider_name = provider_name
        self.pool_name = pool_name

    def getPoolConfig(self):
        """As upstream's own loader has read it."""
        return self._nodepool.config.providers[self.provider_name].pools[self.pool_name]

    def _requests(self, key):
        for pool in self._nodepool.poolList():
            if (pool['provider'], pool['pool']) == (self.provider_name, self.pool_name):
                return [SimpleNamespace(request=SimpleNamespace(id=i)) for i in pool[key]]
        return []

    @property
    def paused_handlers(self):
        return self._requests('paused_requests')

    @property
    def request_handlers(self):
        return self._requests('active_requests')


class NodePool(Daemon):
    log = logging.getLogger('nodepool.NodePool')
    program = 'nodepool-launcher'

    def __init__(self, securefile, configfile, watermark_sleep=upstream.WATERMARK_SLEEP):
        super().__init__(configfile, securefile)
        # Ours is woken by events; nothing to set.
        self.watermark_sleep = watermark_sleep
        self.cleanup_interval = 60
        self.delete_interval = 5
        self.stats_interval = 5
        self.port = free_port()
        self._cleanup_thread = self._delete_thread = self._stats_thread = Stopped()
        self._up = False
        self._placeholder = None

    @property
    def config(self):
        if not self._up:
            self.check_running()
            self._up = self._get('/ready') is not None
        return self._config if self._up else None

    def setConfig(self, config):
        self._config = config

    @property
    def ready(self):
        return self._get('/ready') is not None

    def getZK(self):
        """Tests wait here until the caches have what the web port is to show: those are our launcher's."""
        return SimpleNamespace(_request_cache=SimpleNamespace(getNodeRequestIds=self._request_ids))

    def _request_ids(self):
        answer = self._get('/request-list')
        return [request['id'] for request in json.loads(answer)] if answer else []

    # Our launcher's own view of its pools.

    def _get(self, path):
        request = urllib.request.Request(f'http://127.0.0.1:{self.port}{path}', headers={'Accept': 'application/json'})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.read()
        except (urllib.error.URLError, OSError):
            return None

    def poolList(self):
        answer = self._get('/pool-list')
        return json.loads(answer) if answer else []

    def getPoolWorkers(self, provider_name):
        return [w for w in self._pool_threads.values() if w.provider_name == provider_name]

    @property
    def _pool_threads(self):
        return {f"{p['provider']}-{p['pool']}": PoolWorker(self, p['provider'], p['pool']) for p in self.poolList()}

    # Start and stop.

    def arguments(self):
        # Just before the port is ours.
        self._end_placeholder()
        return [
            # Deleted nodes are followed by events: delete_interval has no counterpart.
            '--cleanup-interval', self.cleanup_interval,
            '--request-lock-age', upstream.LOCK_CLEANUP,
            '--web-address', '127.0.0.1', '--web-port', self.port,
        ]

    def _end_placeholder(self):
        if self._placeholder:
            self._placeholder.stop()

    def stop(self):
        self._end_placeholder()
        super().stop()


class WebApp:
    """The HTTP port of the launcher that belongs to this NodePool."""

    def __init__(self, nodepool, port=8005, listen_address='', cache_expiry=1):
        self.nodepool = nodepool
        port = nodepool.port
        # Ours keeps an answer that long, and cannot be told to forget it.
        self.cache = SimpleNamespace(cache=SimpleNamespace(clear=lambda: time.sleep(cache_expiry + 0.1)))
        self.server = SimpleNamespace(socket=SimpleNamespace(getsockname=lambda: ('127.0.0.1', port)))

    def start(self):
        # Upstream's webapp may run before its pool is started, and is not ready then.
        if self.nodepool._process is None:
            self.nodepool._placeholder = NotReady(self.nodepool.port)

    def stop(self):
        pass


class NotReady:
    """Answers 503 where our launcher is going to listen."""

    def __init__(self, port):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_error(503)

            def log_message(self, *arguments):
                pass
        self._server = HTTPServer(('127.0.0.1', port), Handler)
        threading.Thread(target=self._server.serve_forever, name=f'{THREAD}-placeholder', daemon=True).start()

    def stop(self):
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
