"""Secrets and configuration change under a launcher that goes on: no request fails, and it is never started again."""
import json
import shutil

from cloud import give_back
from harness import wait_for
from world import FULFILLED, FakeCloud, Skip, check, fake_provider, passed


class Mounted:
    """A directory as the kubelet mounts a secret: `..data` leads to the present version, and is replaced at once."""

    FILES = {'ca.crt': 'ca.pem', 'tls.crt': 'client.pem', 'tls.key': 'client-operator.key'}

    def __init__(self, directory):
        self.directory = directory
        self._version = 0
        directory.mkdir()
        for name in self.FILES:
            (directory / name).symlink_to(f'..data/{name}')

    def take(self, tls):
        """What the server's side has made becomes what the launcher sees."""
        self._version += 1
        version = self.directory / f'..{self._version}'
        version.mkdir()
        for name, source in self.FILES.items():
            shutil.copy(tls / source, version / name)
        aside = self.directory / '..data_tmp'
        aside.symlink_to(version.name)
        aside.rename(self.directory / '..data')


def rotation_zookeeper(world):
    """A new authority, new certificates of both sides and a restart of ZooKeeper, in the middle of fifty launches.

    The order is that of the operator's `rotate-secrets`: ZooKeeper is started again with the new authority, and only some
    time later the new files are in the launcher's container. Zuul's side has the new ones at once: the operator restarts it.
    """
    if world.python:
        raise Skip('Python Nodepool is restarted by hand')
    zookeeper = world.zookeeper
    tls = zookeeper.ca.parent
    secret = Mounted(world.directory / 'tls-client')
    secret.take(tls)
    cloud = FakeCloud(world.directory, 'our-cloud', boot_delay=4, api_delay=0.05, quota={'instances': -1, 'cores': -1})
    paths = {'ca': 'ca.crt', 'cert': 'tls.crt', 'key': 'tls.key'}
    tls_section = {'zookeeper-tls': {key: str(secret.directory / name) for key, name in paths.items()}}

    def configure(*labels):
        return world.write_config('rotation', labels, [fake_provider('our-cloud', labels, **{'max-servers': 60})], **tls_section)
    launcher = world.launcher(configure('our-label'), env=cloud.env)
    pid = launcher.pid
    old = zookeeper.ca.read_bytes()

    requests = [world.zuul.request(['our-label']) for _ in range(50)]
    wait_for('in the cloud: half of the servers', lambda: len(cloud.servers()) >= 25)
    zookeeper.stop()
    shutil.rmtree(tls)
    zookeeper.start()
    check(zookeeper.ca.read_bytes() != old, 'the authority is the old one')
    wait_for('refused: a connection with the old files', lambda: 'certificate' in launcher.tail(400), 30)
    check(not any(r.id in world.zuul.provisioned() for r, _ in requests[-1:]), 'all was over before the rotation')
    secret.take(tls)
    wait_for("connected again: Zuul's side", lambda: world.zuul.zk.kazoo_client.connected, 60)
    done = [(world.zuul.wait(request, 120), nodeset) for request, nodeset in requests]
    states = [request.state for request, _ in done]
    check(states == [FULFILLED] * 50, f'{states.count(FULFILLED)} of 50 requests were fulfilled')
    check(launcher.running() and launcher.pid == pid, 'it was started again')
    passed('50 of 50 requests fulfilled: new authority, new certificates, ZooKeeper started again, no restart of ours')
    for request, nodeset in done:
        world.zuul.accept(request, nodeset)
    give_back(world, [nodeset for _, nodeset in done])

    requests = [world.zuul.request(['our-label']) for _ in range(50)]
    wait_for('in the cloud: some servers', lambda: cloud.servers())
    configure('our-label', 'new-label')
    late, late_nodes = world.zuul.request(['new-label'])
    done = [(world.zuul.wait(request, 120), nodeset) for request, nodeset in (*requests, (late, late_nodes))]
    states = [request.state for request, _ in done]
    if done[-1][0].state != FULFILLED:
        record = json.loads(world.zuul.zk.kazoo_client.get(f'/nodepool/requests/{late.id}')[0])
        check(False, f"the new label's request ended {done[-1][0].state}: {record.get('decline_reasons')}")
    check(states == [FULFILLED] * 51, f'{states.count(FULFILLED)} of 51 requests were fulfilled')
    for request, nodeset in done:
        world.zuul.accept(request, nodeset)
    give_back(world, [nodeset for _, nodeset in done])
    world.zuul.wait_until_empty(120)
    check(launcher.running() and launcher.pid == pid, 'it was started again')
    passed('51 of 51 requests fulfilled: one of them on a label that nodepool.yaml has had since their middle')


SCENARIOS = (rotation_zookeeper,)
