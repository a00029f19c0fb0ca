"""What a launcher is measured with: a warm ZooKeeper with TLS, an emulated OpenStack, the launcher's configuration."""
import json
import pathlib
import time
import urllib.request

from harness import TARGET, UPSTREAM, VENV, free_port, wait_for
from harness.services import Launcher, Process

# What a launcher does beside its work when it starts is not measured.
SETTLE_S = 3
LABEL = 'bench-label'
PROVIDER = 'bench-provider'
NODEPOOL = '/nodepool'
# As in production, in place of what is good for a test's short life: the disk is waited for, the compiler optimizes.
ZOOKEEPER_JAVA = '-Xms1g -Xmx1g -Dzookeeper.forceSync=yes'
# As our image and our unit for systemd set it.
OUR_ENVIRONMENT = {'MALLOC_TRIM_THRESHOLD_': '131072'}
# Whom the certificate of tests/services/zookeeper is for.
ZOOKEEPER_NAME = 'server.zookeeper.invalid'


def program(name):
    """One of programs/, as `tests/run bench` builds them."""
    return TARGET / 'release' / name


def tls_arguments(zookeeper):
    """For programs/: ZooKeeper as launchers reach it."""
    return ['--zk', f'127.0.0.1:{zookeeper.tls_port}', '--tls-ca', zookeeper.ca, '--tls-cert', zookeeper.cert,
            '--tls-key', zookeeper.key, '--tls-name', ZOOKEEPER_NAME]


class Cloud(Process):
    """programs/' bench-cloud; boot_delay: seconds from a server's creation until it is ACTIVE."""

    def __init__(self, directory, boot_delay=0.5):
        address = f'127.0.0.1:{free_port()}'
        self.url = f'http://{address}'
        super().__init__([program('bench-cloud'), '--listen', address, '--boot-delay', boot_delay],
                         directory / 'cloud.log')

    def ask(self, what, body=None):
        """One of its own verbs (bench.rs); with a body it is a POST."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f'{self.url}/_bench/{what}', data) as answer:
            return json.load(answer)

    def start(self):
        super().start()

        def up():
            if not self.running():
                raise RuntimeError(f'the emulated cloud ended:\n{self.tail()}')
            try:
                return self.ask('counters')
            except OSError:
                return None
        wait_for('up: the emulated cloud', up, 10)
        return self


class Site:
    """One launcher, ours or Python's, on one provider of the driver `openstack` (with a cloud of its own) or `fake`."""

    def __init__(self, stack, directory, zookeeper, python=False, driver='openstack', max_servers=2500, boot_delay=0.5,
                 arguments=()):
        self.stack, self.directory, self.zookeeper, self.python = stack, pathlib.Path(directory), zookeeper, python
        self.driver, self.max_servers = driver, max_servers
        # Of our launcher.
        self.arguments = () if python else arguments
        self.directory.mkdir(parents=True, exist_ok=True)
        self.client = zookeeper.client()
        stack.callback(self.client.stop)
        # What the one before has left.
        if self.client.exists(NODEPOOL):
            self.client.delete(NODEPOOL, recursive=True)
        self.cloud = stack.enter_context(Cloud(self.directory, boot_delay)) if driver == 'openstack' else None
        self.launcher = None

    def _provider(self):
        label = {'name': LABEL}
        provider = {'name': PROVIDER, 'driver': self.driver, 'rate': 0}
        pool = {'name': 'main', 'max-servers': self.max_servers, 'host-key-checking': False, 'labels': [label]}
        if self.driver == 'openstack':
            provider |= {'cloud': 'bench', 'region-name': 'bench', 'boot-timeout': 60, 'launch-timeout': 300,
                         'launch-retries': 3, 'cloud-images': [{'name': 'bench-image', 'image-name': 'bench-image',
                                                                'username': 'bench'}]}
            pool |= {'networks': ['public'], 'auto-floating-ip': False}
            label |= {'cloud-image': 'bench-image', 'flavor-name': 'bench.small'}
        else:
            # Python's fake cloud wants a rate.
            provider |= {'cloud': 'fake', 'region-name': 'fake-region', 'rate': 0.001,
                         'cloud-images': [{'name': 'fake-image', 'image-id': 'fake-image-id', 'username': 'zuul'}]}
            label |= {'cloud-image': 'fake-image', 'min-ram': 8192}
        return provider | {'pools': [pool]}

    def environment(self):
        if self.driver == 'fake':
            script = self.directory / 'cloud.json'
            script.write_text(json.dumps({'*': {'boot_delay': 0, 'api_delay': 0, 'quota': {
                'cores': -1, 'instances': -1, 'ram': -1}}}))
            return {'OS_CLIENT_CONFIG_FILE': str(UPSTREAM / 'nodepool/tests/fixtures/clouds.yaml'),
                    'NODEPOOL_FAKE_CLOUD_SCRIPT': str(script)}
        clouds = self.directory / 'clouds.yaml'
        clouds.write_text(json.dumps({'clouds': {'bench': {
            'region_name': 'bench', 'identity_api_version': '3',
            'auth': {'auth_url': f'{self.cloud.url}/identity', 'username': 'bench', 'password': 'bench',
                     'project_name': 'bench', 'project_domain_name': 'Default', 'user_domain_name': 'Default'}}}}))
        return {'OS_CLIENT_CONFIG_FILE': str(clouds)}

    def configure(self):
        """The site's nodepool.yaml."""
        config = self.directory / 'nodepool.yaml'
        config.write_text(json.dumps({
            **self.zookeeper.config(), 'webapp': {'port': free_port(), 'listen_address': '127.0.0.1'},
            'labels': [{'name': LABEL}], 'providers': [self._provider()]}))
        return config

    def start_launcher(self):
        """Returns when it was started, in seconds since the epoch."""
        self.launcher = Launcher(self.configure(), self.directory / 'launcher.log', python=self.python, debug=False,
                                 env=self.environment() | ({} if self.python else OUR_ENVIRONMENT),
                                 arguments=self.arguments)
        if self.python and self.driver == 'fake':
            self.launcher.command[:1] = [VENV / 'bin/python', pathlib.Path(__file__).parent / 'python_fake_launcher.py']
        began = time.time()
        self.stack.enter_context(self.launcher)
        return began

    def launch(self):
        """Starts the launcher, waits until its pool is on record, that is until it serves, and then until it is quiet."""
        self.start_launcher()

        def registered():
            if not self.launcher.running():
                raise RuntimeError(f'the launcher ended:\n{self.launcher.tail()}')
            pools = f'{NODEPOOL}/components/pool'
            return self.client.exists(pools) and self.client.get_children(pools)
        wait_for('registered: the launcher', registered, 120)
        time.sleep(SETTLE_S)

    def quiet(self):
        """Ends our own session, whose pings would be counted as the launcher's."""
        self.client.stop()

    def populate(self, count):
        """So many ready nodes, and their servers where there is a cloud."""
        ids = [f'{i:010d}' for i in range(count)]
        servers = {}
        for some in (ids[i:i + 500] for i in range(0, count, 500)):
            if self.cloud:
                made = self.cloud.ask('seed', {'nodes': [{'id': i, 'provider': PROVIDER, 'pool': 'main'} for i in some]})
                servers |= dict(zip(some, made['servers'], strict=True))
        self.client.ensure_path(f'{NODEPOOL}/nodes')
        for some in (ids[i:i + 500] for i in range(0, count, 500)):
            writes = [self.client.create_async(f'{NODEPOOL}/nodes/', self._ready_node(i, servers.get(i)), sequence=True)
                      for i in some]
            for node_id, write in zip(some, writes, strict=True):
                # Those of the cloud's servers carry these ids.
                assert write.get().endswith(node_id), write.get()

    def _ready_node(self, node_id, server):
        now, address = time.time(), server['address'] if server else '127.100.0.1'
        return json.dumps({
            'state': 'ready', 'state_time': now, 'created_time': now, 'cloud': 'bench', 'provider': PROVIDER,
            'pool': 'main', 'type': [LABEL], 'allocated_to': None, 'az': 'nova', 'region': 'bench',
            'public_ipv4': address, 'private_ipv4': address, 'public_ipv6': '', 'host_id': 'bench',
            'interface_ip': address, 'connection_port': 22, 'ssh_port': 22, 'image_id': 'bench-image',
            'launcher': 'bench', 'hostname': f'np{node_id}', 'external_id': server['id'] if server else f'fake-{node_id}',
            'comment': None, 'user_data': None, 'hold_job': None, 'host_keys': [], 'username': 'bench',
            'connection_type': 'ssh', 'shell_type': None, 'hold_expiration': None,
            'resources': {'instances': 1, 'cores': 1, 'ram': 2048}, 'slot': None, 'attributes': None,
            'python_path': 'auto', 'tenant_name': None, 'driver_data': None, 'requestor': 'NodePool:min-ready',
            'node_properties': {}}).encode()
