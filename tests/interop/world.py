"""What the interop scenarios share: a ZooKeeper with Zuul's classes on one side, and launchers on the other."""
import json
import pathlib
import tempfile
from types import MappingProxyType

import zuul.model

from harness import UPSTREAM, wait_for
from harness.services import Launcher, ZooKeeper
from zuul_client import Zuul

FULFILLED, FAILED, REQUESTED = zuul.model.STATE_FULFILLED, zuul.model.STATE_FAILED, zuul.model.STATE_REQUESTED


class Skip(Exception):
    pass


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def passed(what):
    print(f'  {what}', flush=True)


class World:
    """A directory, a ZooKeeper and Zuul's side of it; launchers come and go."""

    def __init__(self, stack, python):
        self.stack = stack
        self.python = python
        self.directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='np-interop-')))
        self.zookeeper = stack.enter_context(ZooKeeper(self.directory / 'zookeeper'))
        self.zuul = Zuul(self.zookeeper)
        stack.callback(self.zuul.stop)

    def write_config(self, name, labels, providers, label=MappingProxyType({}), **more):
        """`label`: what all labels say beside their names."""
        path = self.directory / f'{name}.yaml'
        # JSON is YAML.
        path.write_text(json.dumps({**self.zookeeper.config(), **more, 'webapp': {'port': 0},
                                    'labels': [{'name': n, **label} for n in labels], 'providers': providers}, indent=1))
        return path

    def launcher(self, config, python=None, env=None, arguments=()):
        """A running launcher that has registered a pool."""
        python = self.python if python is None else python
        before = {p.id for p in self.pools()}
        # Upstream's fake driver looks its cloud up here.
        env = env or {'OS_CLIENT_CONFIG_FILE': str(UPSTREAM / 'nodepool/tests/fixtures/clouds.yaml')}
        launcher = Launcher(config, self.directory / f'{config.stem}.log', python=python, env=env,
                            arguments=['--no-webapp', *arguments])
        self.stack.enter_context(launcher)

        def registered():
            check(launcher.running(), f'{launcher.command[0]} ended:\n{launcher.tail()}')
            return {p.id for p in self.pools()} - before
        wait_for(f'registered: {config.stem}', registered, 60)
        return launcher

    def pools(self):
        return self.zuul.zk.getRegisteredLaunchers()


def fake_provider(name, labels, **pool):
    """A provider on the fake driver whose labels boot from an image that the fake cloud has."""
    return {
        'name': name, 'driver': 'fake', 'cloud': 'fake', 'region-name': 'fake-region', 'rate': 0.001,
        'cloud-images': [{'name': 'fake-image', 'image-id': 'fake-image-id', 'username': 'zuul'}],
        'pools': [{'name': 'main', 'max-servers': 50, 'host-key-checking': False, **pool,
                   'labels': [{'name': n, 'cloud-image': 'fake-image', 'min-ram': 8192} for n in labels]}],
    }
