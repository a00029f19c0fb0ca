"""What one of our daemons needs to stand in the place of upstream's class in a test's process.

Common to launcher.py and builder.py:

  configuration   read by upstream's own loader whenever its files change, as upstream's main loops do
  zk              upstream's ZooKeeper class on the same servers and chroot
  cloud           upstream's provider managers, served to our process by fakecloud.py
  stop            SIGINT, as an operator would; the process has to end by itself, and well

The process's log is written again through Python's logging under the logger names found in its lines, so that
assertLogs works and a failed test's output has everything in order.
"""
import logging
import os
import re
import shutil
import signal
import tempfile
import threading
import time

import openstack.config.loader

import nodepool
from nodepool import config as nodepool_config
from nodepool.zk import ZooKeeperClient
from nodepool.zk import zookeeper as zk

from harness import binary
from harness.services import Process

from .fakecloud import FakeCloud

log = logging.getLogger('conformance.daemon')

# Upstream's tests wait until every thread is gone whose name they don't know; they know this prefix.
THREAD = 'Thread-conformance'
# 2026-11-23 03:00:00,123 INFO nodepool.PoolWorker.fake-provider-main: message
LINE = re.compile(r'^\d{4}-\d\d-\d\d[ T][\d:.,]+\S* +([A-Z]+) +([\w.\-\[\]]+): (.*)$')


class Stopped:
    """Stands for upstream's worker threads, which some tests stop: ours cannot be stopped one by one."""

    def stop(self):
        pass

    def shutdown(self):
        pass

    def join(self):
        pass


class Daemon:
    # What differs between the two.
    program = None
    only_image_manager = False
    enable_cache = True

    def __init__(self, configfile, securefile):
        self.configfile = configfile
        self.securefile = securefile
        self.zk = None
        self._config = None
        self._lock = threading.RLock()
        self._process = None
        self._stopping = threading.Event()
        self._threads = []

    def arguments(self):
        """The command line after -f -d -c FILE [-s FILE]."""
        raise NotImplementedError

    # The configuration, followed as upstream's main loop follows it.

    def loadConfig(self):
        config = nodepool_config.loadConfig(self.configfile)
        if self.securefile:
            nodepool_config.loadSecureConfig(config, self.securefile)
        return config

    def updateConfig(self):
        """Reads the files again if they changed. Called by a timer and whenever our process greets a provider."""
        with self._lock:
            if self._config and nodepool_config.checkRecentConfig(self._config, self.configfile, self.securefile):
                return
            config = self.loadConfig()
            self.cloud.reconfigure(self._config, config, self.zk)
            self._config = config

    def getProviderManager(self, provider_name):
        with self._lock:
            return self._config.provider_managers.get(provider_name)

    def driverOf(self, provider_name):
        with self._lock:
            provider = self._config.providers.get(provider_name)
            return provider and provider.driver.name

    def scanner(self):
        """Upstream's host-key scanner, of whichever provider has one."""
        with self._lock:
            return next(m.nodescan_worker for m in self._config.provider_managers.values())

    # Start and stop.

    def start(self):
        self._stopping = threading.Event()
        self._start_connection()
        # Not in the test's temporary directory: the path of a Unix socket is short.
        self._directory = tempfile.mkdtemp(prefix='np', dir='/tmp')
        self.cloud = FakeCloud(f'{self._directory}/cloud', self, self.only_image_manager)
        self.updateConfig()
        self.cloud.start()
        command = [binary(self.program), '-f', '-d', '-c', self.configfile]
        if self.securefile:
            command += ['-s', self.securefile]
        command += self.arguments()
        env = {**os.environ, 'NODEPOOL_FAKE_CLOUD': f'unix:{self.cloud.path}',
               'NODEPOOL_PACKAGE_DIR': os.path.dirname(nodepool.__file__),
               # Where the tests point upstream's loader of clouds.yaml.
               'OS_CLIENT_CONFIG_FILE': openstack.config.loader.CONFIG_FILES[0]}
        self._process = Process(command, f'{self._directory}/{self.program}.log', env=env, stop_signal=signal.SIGINT,
                                grace=30)
        self._process.start()
        log.info('started %s as process %s', ' '.join(map(str, command)), self._process.pid)
        self._thread(self._follow_config)
        self._thread(self._follow_log)

    def check_running(self):
        if self._process and not self._process.running():
            raise RuntimeError(f'{self.program} ended:\n{self._process.tail()}')

    def _start_connection(self):
        config = self.loadConfig()
        self.zk_client = ZooKeeperClient(
            config.zookeeper_servers, tls_cert=config.zookeeper_tls_cert, tls_key=config.zookeeper_tls_key,
            tls_ca=config.zookeeper_tls_ca, timeout=config.zookeeper_timeout)
        self.zk_client.connect()
        self.zk = zk.ZooKeeper(self.zk_client, enable_cache=self.enable_cache)

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
            raise RuntimeError(f'{self.program} ended with status {status}')
