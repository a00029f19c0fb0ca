"""What the interop scenarios share: a ZooKeeper with Zuul's classes on one side, and launchers on the other."""
import json
import pathlib
import tempfile
import time
from types import MappingProxyType

import zuul.model

from harness import UPSTREAM, records, wait_for
from harness.services import Builder, Launcher, ZooKeeper
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

    def builder(self, config, python=None, env=None, arguments=(), ours=(), registered=True, within=()):
        """A running builder; `ours`: arguments that upstream does not know; `registered`: it has begun its work; `within`:
        a command that becomes it."""
        python = self.python if python is None else python
        # The fake driver of either looks its clouds up here.
        env = {'OS_CLIENT_CONFIG_FILE': str(UPSTREAM / 'nodepool/tests/fixtures/clouds.yaml'), **(env or {})}
        builder = Builder(config, self.directory / f'{config.stem}.log', python=python, env=env,
                          arguments=[*arguments, *([] if python else ours)], within=within)
        client = self.zuul.zk.kazoo_client
        before = set(records.children(client, 'components/builder'))
        self.stack.enter_context(builder)

        def started():
            check(builder.running(), f'{builder.command[0]} ended:\n{builder.tail()}')
            return set(records.children(client, 'components/builder')) - before
        if registered:
            wait_for(f'registered: {config.stem}', started, 60)
        return builder


def fake_provider(name, labels, **pool):
    """A provider on the fake driver whose labels boot from an image that the fake cloud has."""
    return {
        'name': name, 'driver': 'fake', 'cloud': 'fake', 'region-name': 'fake-region', 'rate': 0.001,
        'cloud-images': [{'name': 'fake-image', 'image-id': 'fake-image-id', 'username': 'zuul'}],
        'pools': [{'name': 'main', 'max-servers': 50, 'host-key-checking': False, **pool,
                   'labels': [{'name': n, 'cloud-image': 'fake-image', 'min-ram': 8192} for n in labels]}],
    }


class FakeCloud:
    """Our fake driver's clouds, whose servers and images outlive a process (crates/drivers/src/fake/script.rs)."""

    def __init__(self, directory, provider, **script):
        self.provider = provider
        self.state_dir = directory / 'cloud'
        self.state_dir.mkdir()
        self._script = directory / 'cloud.json'
        self.env = {'NODEPOOL_FAKE_CLOUD_SCRIPT': str(self._script)}
        self.script(**script)

    def script(self, providers=MappingProxyType({}), **every):
        """What the clouds of all providers do from now on, and those of some."""
        aside = self._script.with_suffix('.new')
        aside.write_text(json.dumps({'*': {'state_dir': str(self.state_dir), **every}, **providers}))
        aside.rename(self._script)

    def _state(self, kind, provider):
        path = self.state_dir / f'{provider or self.provider}.json'
        return json.loads(path.read_text())[kind] if path.exists() else {}

    def servers(self):
        return [i for i, r in self._state('servers', None).items()
                if r.get('gone_at') is None or r['gone_at'] > time.time()]

    def images(self, provider=None):
        """Glance's documents by their ids."""
        return self._state('images', provider)
