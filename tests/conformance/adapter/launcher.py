"""Our nodepool-launcher behind the interface that upstream's tests expect of nodepool.launcher.NodePool.

What the tests ask of that object, and where the answer comes from:

  config                the file, read by upstream's own loader; None until our launcher answers /ready
  zk                    upstream's ZooKeeper class on the same servers and chroot
  getProviderManager    upstream's manager with the FakeAdapter that fakecloud.py serves to our launcher
  getPoolWorkers        our launcher's /pool-list: paused and active requests of each pool
  stop                  SIGINT, as an operator would; the launcher has to end by itself

Our launcher's log is written again through Python's logging under the logger names found in its lines, so that
assertLogs works and a failed test's output has everything in order.
"""
import json
import logging
import os
import re
import shutil
import signal
import tempfile
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import openstack.config.loader

import nodepool.launcher as upstream
from nodepool import config as nodepool_config
from nodepool.zk import ZooKeeperClient
from nodepool.zk import zookeeper as zk

from harness import binary, free_port
from harness.services import Process

from .fakecloud import FakeCloud

log = logging.getLogger('conformance.launcher')

# Upstream's tests wait until every thread is gone whose name they don't know; they know this prefix.
THREAD = 'Thread-conformance'
# 2026-11-23 03:00:00,123 INFO nodepool.PoolWorker.fake-provider-main: message
LINE = re.compile(r'^\d{4}-\d\d-\d\d[ T][\d:.,]+\S* +([A-Z]+) +([\w.\-\[\]]+): (.*)$')


class PoolWorker:
    """One of our launcher's pools, as upstream's PoolWorker would look to a test."""

    def __init__(self, nodepool, provider_name, pool_name):
        self._nodepool = nodepool
        self.provider_name = provider_name
        self.pool_name = pool_name

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


class Stopped:
    """Stands for upstream's worker threads, which some tests stop: ours cannot be stopped one by one."""

    def stop(self):
        pass

    def join(self):
        pass


class NodePool:
    log = logging.getLogger('nodepool.NodePool')

    def __init__(self, securefile, configfile, watermark_sleep=upstream.WATERMARK_SLEEP):
        self.securefile = securefile
        self.configfile = configfile
        # Ours is woken by events; nothing to set.
        self.watermark_sleep = watermark_sleep
        self.cleanup_interval = 60
        self.delete_interval = 5
        self.stats_interval = 5
        self.port = free_port()
        self.zk = None
        self._cleanup_thread = self._delete_thread = self._stats_thread = Stopped()
        self._config = None
        self._lock = threading.RLock()
        self._process = None
        self._stopping = threading.Event()
        self._threads = []
        self._up = False
        self._placeholder = None

    # The configuration, followed as upstream's main loop follows it.

    def loadConfig(self):
        config = nodepool_config.loadConfig(self.configfile)
        if self.securefile:
            nodepool_config.loadSecureConfig(config, self.securefile)
        return config

    def updateConfig(self):
        """Reads the files again if they changed. Called by a timer and whenever our launcher greets a provider."""
        with self._lock:
            if self._config and nodepool_config.checkRecentConfig(self._config, self.configfile, self.securefile):
                return
            config = self.loadConfig()
            self.cloud.reconfigure(self._config, config, self.zk)
            self._config = config

    @property
    def config(self):
        if not self._up:
            if self._process and not self._process.running():
                raise RuntimeError(f'nodepool-launcher ended:\n{self._process.tail()}')
            self._up = self._get('/ready') is not None
        return self._config if self._up else None

    def setConfig(self, config):
        self._config = config

    @property
    def ready(self):
        return self._get('/ready') is not None

    def getZK(self):
        return self.zk

    def getProviderManager(self, provider_name):
        with self._lock:
            return self._config.provider_managers.get(provider_name)

    # Our launcher's own view of its pools.

    def _get(self, path):
        try:
            with urllib.request.urlopen(f'http://127.0.0.1:{self.port}{path}', timeout=10) as answer:
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

    def start(self):
        self._start_connection()
        # Not in the test's temporary directory: the path of a Unix socket is short.
        self._directory = tempfile.mkdtemp(prefix='np', dir='/tmp')
        self.cloud = FakeCloud(f'{self._directory}/cloud', self)
        self.updateConfig()
        self.cloud.start()
        if self._placeholder:
            self._placeholder.stop()
        command = [
            binary('nodepool-launcher'), '-f', '-d', '-c', self.configfile,
            # Deleted nodes are followed by events: delete_interval has no counterpart.
            '--cleanup-interval', self.cleanup_interval,
            '--request-lock-age', upstream.LOCK_CLEANUP,
            '--web-address', '127.0.0.1', '--web-port', self.port,
        ]
        if self.securefile:
            command += ['-s', self.securefile]
        env = {**os.environ, 'NODEPOOL_FAKE_CLOUD': f'unix:{self.cloud.path}',
               # Where the tests point upstream's loader of clouds.yaml.
               'OS_CLIENT_CONFIG_FILE': openstack.config.loader.CONFIG_FILES[0]}
        self._process = Process(command, f'{self._directory}/launcher.log', env=env, stop_signal=signal.SIGINT, grace=30)
        self._process.start()
        log.info('started %s as process %s', ' '.join(map(str, command)), self._process.pid)
        self._thread(self._follow_config)
        self._thread(self._follow_log)

    def _start_connection(self):
        config = self.loadConfig()
        self.zk_client = ZooKeeperClient(
            config.zookeeper_servers, tls_cert=config.zookeeper_tls_cert, tls_key=config.zookeeper_tls_key,
            tls_ca=config.zookeeper_tls_ca, timeout=config.zookeeper_timeout)
        self.zk_client.connect()
        self.zk = zk.ZooKeeper(self.zk_client)

    def _thread(self, target):
        thread = threading.Thread(target=target, name=f'{THREAD}-{len(self._threads)}', daemon=True)
        thread.start()
        self._threads.append(thread)

    def _follow_config(self):
        while not self._stopping.wait(0.1):
            try:
                self.updateConfig()
            except Exception:
                log.exception('reading %s', self.configfile)

    def _follow_log(self):
        """Until the process has ended and its log is read to the end."""
        process = self._process
        logger = logging.getLogger('nodepool')
        with open(process.log, errors='replace') as lines:
            rest = ''
            while True:
                ended = not process.running()
                chunk = rest + lines.read()
                *whole, rest = chunk.split('\n')
                for line in whole:
                    level, message = 'DEBUG', line
                    if found := LINE.match(line):
                        level, name, message = found.groups()
                        logger = logging.getLogger(name)
                    number = logging.getLevelName(level.replace('TRACE', 'DEBUG'))
                    logger.log(number if isinstance(number, int) else logging.INFO, '%s', message)
                if ended:
                    return
                time.sleep(0.05)

    def stop(self):
        """As often as a test likes."""
        if self._placeholder:
            self._placeholder.stop()
        if not self._process:
            return
        process, self._process = self._process, None
        status = process.stop()
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)
        self.cloud.stop()
        self.zk.disconnect()
        shutil.rmtree(self._directory, ignore_errors=True)
        if status != 0:
            raise RuntimeError(f'nodepool-launcher ended with status {status}')


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
