"""What arrives of Python Nodepool's launcher and builder, by the same rules: whatever does must arrive of ours, too."""
import contextlib
import json
import pathlib
import tempfile

import lives
import mapping
from harness import UPSTREAM, records, wait_for
from harness.services import Builder, Launcher, ZooKeeper
from harness.statsd import Statsd


def metrics(found):
    """{(name, its labels' names)} of Nodepool's."""
    return {(name, tuple(key for key, _ in labels)) for name, labels in found if name.startswith('nodepool_')}


def live(stack, directory):
    """One image, two launches, a static host; returns what the exporter shows then."""
    relay = stack.enter_context(Statsd())
    exporter = stack.enter_context(lives.Exporter(directory, mapping.rules(lives.DOCUMENTATION), relay))
    zookeeper = stack.enter_context(ZooKeeper(directory / 'zookeeper'))
    client = zookeeper.client()
    stack.callback(client.stop)
    build = directory / 'build-image'
    build.write_text(lives.BUILD)
    build.chmod(0o755)
    (directory / 'images').mkdir()
    env = {'OS_CLIENT_CONFIG_FILE': str(UPSTREAM / 'nodepool/tests/fixtures/clouds.yaml'), **exporter.variables()}
    config = directory / 'nodepool.yaml'
    config.write_text(json.dumps({
        **zookeeper.config(), 'webapp': {'port': lives.free_port(), 'listen_address': '127.0.0.1'},
        'images-dir': str(directory / 'images'), 'build-log-dir': str(directory / 'logs'),
        'tenant-resource-limits': [{'tenant-name': 'tenant.one', 'max-cores': 64, 'max-servers': 10}],
        'labels': [{'name': 'small'}, {'name': 'host'}],
        'diskimages': [{'name': 'jammy', 'dib-cmd': str(build), 'formats': ['qcow2'], 'env-vars': {'FORMATS': 'qcow2'}}],
        'providers': [
            {'name': 'cloud-a', 'driver': 'fake', 'cloud': 'fake', 'region-name': 'fake-region', 'rate': 0.001,
             'diskimages': [{'name': 'jammy'}], 'cloud-images': [{'name': 'image', 'image-id': 'image', 'username': 'zuul'}],
             'pools': [{'name': 'main', 'max-servers': 20, 'host-key-checking': False, 'availability-zones': ['az1'],
                        'labels': [{'name': 'small', 'cloud-image': 'image', 'min-ram': 8192}]}]},
            {'name': 'machines', 'driver': 'static', 'pools': [{'name': 'main', 'nodes': [
                {'name': '127.0.0.1', 'labels': ['host'], 'connection-port': zookeeper.port,
                 'host-key-checking': False}]}]},
        ]}))
    builder = stack.enter_context(lives.named(
        Builder(config, directory / 'builder.log', python=True, env=env), lives.BUILDER_HOST))
    launcher = stack.enter_context(lives.named(
        Launcher(config, directory / 'launcher.log', python=True, env=env, arguments=['--no-webapp']), lives.LAUNCHER_HOST))
    asked = []

    def arrived():
        for process in (builder, launcher):
            if not process.running():
                raise AssertionError(f'{process.log.stem} ended:\n{process.tail()}')
        if not asked and records.children(client, 'components/pool'):
            asked.extend(records.submit(client, ['small'], requestor=lives.REQUESTOR) for _ in range(2))
        found = lives.page(exporter.port)
        names = {name for name, _ in found}
        there = lives.value(found, 'nodepool_launch_ready_count') == 2 and {
            'nodepool_image_update_count', 'nodepool_image_image_build_requests', 'nodepool_nodes',
            'nodepool_builder_image_build_state', 'nodepool_tenant_limits',
            'nodepool_launcher_zk_node_cache_event_queue'} <= names
        return found if there else None
    return wait_for("arrived: Python Nodepool's metrics", arrived, 60, 0.2)


def everything_that_arrives_of_pythons_arrives_of_ours(site):
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='np-monitoring-python-')))
        theirs = metrics(live(stack, directory))
    assert len(theirs) > 20, theirs
    missing = theirs - metrics(site.exported)
    assert not missing, f'of ours nothing arrives as: {sorted(missing)}'


CASES_ON_SITE = [everything_that_arrives_of_pythons_arrives_of_ours]
