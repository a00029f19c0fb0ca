"""Our nodepool-builder behind the interface that upstream's tests expect of nodepool.builder.NodePoolBuilder.

What the tests ask of that object beside what daemon.py has, and where the answer comes from:

  start             returns when our builder has its record among the components
  cleanup_interval  ours has the same, 0 for none included
  upload_interval   the first pause before something that failed is tried again: ours is woken by events, but for that
  build_interval    nothing
  _config           the configuration with upstream's managers, whose FakeAdapters fakecloud.py serves to our builder
  _build_workers, _upload_workers, _janitor
                    Stopped ones, whose configuration is that same one; _janitor._cleanup lets ours have its passes
"""
import logging
import socket
import time

from harness import wait_for

from .daemon import Daemon, Stopped

COMPONENTS = '/nodepool/components/builder'


class Worker(Stopped):
    """One of upstream's workers, as far as tests look at them."""

    def __init__(self, builder, name):
        self._builder = builder
        self.name = name

    @property
    def _config(self):
        return self._builder._config


class Janitor(Worker):
    def _cleanup(self):
        """Two of our passes may begin until this returns, so one has ended."""
        time.sleep(2 * self._builder.cleanup_interval)

    def _emitBuildRequestStats(self):
        """Ours does by itself."""


class NodePoolBuilder(Daemon):
    log = logging.getLogger('nodepool.builder.NodePoolBuilder')
    program = 'nodepool-builder'
    only_image_manager = True
    enable_cache = False

    def __init__(self, config_path, secure_path=None, num_builders=1, num_uploaders=4):
        super().__init__(config_path, secure_path)
        self.cleanup_interval = 60
        self.build_interval = 10
        self.upload_interval = 10
        self._build_workers = [Worker(self, f'BuildWorker.{n}') for n in range(num_builders)]
        self._upload_workers = [Worker(self, f'UploadWorker.{n}') for n in range(num_uploaders)]
        self._janitor = None

    def arguments(self):
        return [
            '--build-workers', len(self._build_workers), '--upload-workers', len(self._upload_workers),
            '--cleanup-interval', self.cleanup_interval, '--retry-interval', self.upload_interval,
        ]

    def _start_connection(self):
        super()._start_connection()
        self._others = self._components()

    def start(self):
        super().start()
        if self.cleanup_interval:
            self._janitor = Janitor(self, 'CleanupWorker.0')
        try:
            wait_for('up: our builder', lambda: self.check_running() or self._components() - self._others, 30)
        except BaseException:
            super().stop()
            raise

    def _components(self):
        """The records of builders on this host."""
        if not self.zk.kazoo_client.exists(COMPONENTS):
            return set()
        return {name for name in self.zk.kazoo_client.get_children(COMPONENTS)
                if name.startswith(socket.gethostname())}
