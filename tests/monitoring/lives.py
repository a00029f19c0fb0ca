"""A launcher and two builders that live through everything they have a metric for, and the operator's statsd_exporter.

The daemons run under host names of their own (in UTS namespaces): builders report theirs, and one has dots.
"""
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import time
import urllib.request

import yaml
import guide
import mapping
from harness import CACHE, UPSTREAM, free_port, records, wait_for
from harness.services import Builder, Launcher, Process, ZooKeeper
from harness.statsd import Statsd

EXPORTER = CACHE / 'statsd_exporter/statsd_exporter'
DOCUMENTATION = UPSTREAM / 'doc/source/operation.rst'
LAUNCHER_HOST, BUILDER_HOST, DOTTED_HOST = 'nl01', 'nb01', 'nb02.example.test'
REQUESTOR = 'zuul.example:8'
# How often each label is requested whose nodes come, and the labels whose launches fail.
READY = {'small': 3, 'plain': 2, 'short': 1, 'ubuntu-22.04': 1, 'dotted': 1}
FAILING = ('full', 'refused', 'mute')
# One of each at a time.
WAITING = ('host', 'tight')
# disk-image-create's stand-in: EXIT is its status.
BUILD = """#!/bin/sh
echo "building $DIB_IMAGE_NAME"
[ "${EXIT:-0}" = 0 ] || exit "$EXIT"
for format in ${FORMATS:-raw}; do head -c 100000 /dev/urandom >"$DIB_IMAGE_FILENAME.$format"; done
"""


def can_name_hosts():
    """Whether this machine lets us give a process a host name of its own."""
    return subprocess.run(on_host('x', ['true']), capture_output=True).returncode == 0


def on_host(name, command):
    return ['unshare', '--uts', 'sh', '-c', 'hostname "$0" && exec "$@"', name, *command]


def named(process, host):
    process.command = on_host(host, process.command)
    return process


SAMPLE = re.compile(r'(\w+)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def samples(text):
    """{(name, ((label, value), …)): value} of a page in Prometheus' text format."""
    found = {}
    for line in text.splitlines():
        if not line.startswith('#'):
            name, labels, number = SAMPLE.match(line).groups()
            found[name, tuple(sorted(LABEL.findall(labels or '')))] = float(number)
    return found


def labelled(found, name, **labels):
    """The samples of that name that have these labels."""
    return {has: v for (sample, has), v in found.items() if sample == name and labels.items() <= dict(has).items()}


def value(found, name, **labels):
    """The sum over all samples of that name that have these labels."""
    return sum(labelled(found, name, **labels).values())


def page(port):
    with urllib.request.urlopen(f'http://127.0.0.1:{port}/metrics', timeout=10) as answer:
        return samples(answer.read().decode())


class Exporter(Process):
    """statsd_exporter as the operator starts it, relaying what it receives (`statsdTarget`)."""

    def __init__(self, directory, rules, relay):
        self.port, self.udp = free_port(), free_port(socket.SOCK_DGRAM)
        file = directory / 'mapping.yaml'
        file.write_text(yaml.safe_dump(mapping.mapping(rules)))
        self.check = [EXPORTER, '--check-config', f'--statsd.mapping-config={file}']
        super().__init__([EXPORTER, f'--statsd.mapping-config={file}', f'--statsd.listen-udp=127.0.0.1:{self.udp}',
                          '--statsd.listen-tcp=', f'--web.listen-address=127.0.0.1:{self.port}',
                          f'--statsd.relay.address={relay.address()}'], directory / 'exporter.log')

    def start(self):
        super().start()

        def up():
            if not self.running():
                raise RuntimeError(f'statsd_exporter ended:\n{self.tail()}')
            with contextlib.suppress(OSError):
                return page(self.port)
        wait_for('up: statsd_exporter', up, 30)
        return self

    def variables(self):
        return {'STATSD_HOST': '127.0.0.1', 'STATSD_PORT': str(self.udp)}


class Site:
    """Lives its life in the constructor. What was seen is in `exported` (by the exporter), `native` (by the launcher, at
    the end), `waiting` (likewise, while a request waited), `lines` (what the exporter received) and `answers` (to the
    guide's commands)."""

    def __init__(self, stack, directory, commands=()):
        self.directory = directory
        relay = stack.enter_context(Statsd())
        self.rules = mapping.rules(DOCUMENTATION, ['clouds.one'])
        self.exporter = stack.enter_context(Exporter(directory, self.rules, relay))
        self.zookeeper = stack.enter_context(ZooKeeper(directory / 'zookeeper'))
        self.client = self.zookeeper.client()
        stack.callback(self.client.stop)
        (directory / 'cloud').mkdir()
        (directory / 'build-image').write_text(BUILD)
        (directory / 'build-image').chmod(0o755)
        script = directory / 'cloud.json'
        script.write_text(json.dumps(self.script()))
        self.env = {'NODEPOOL_FAKE_CLOUD_SCRIPT': str(script), **self.exporter.variables()}
        self.builder_configs = []
        self.builders = [self.builder(stack, BUILDER_HOST, {'jammy': 'raw qcow2', 'broken': 'qcow2'}, EXIT={'broken': '3'}),
                         self.builder(stack, DOTTED_HOST, {'noble': 'qcow2'})]
        self.launcher = self.start_launcher(stack)
        self.images()
        self.requests()
        self.wait_in_vain()
        self.leaks()
        self.answers = {command: guide.run(
            command, self.launcher_config, self.builder_configs[0], LAUNCHER=f'127.0.0.1:{self.web_port}', IMAGE='jammy',
            PROVIDER='cloud-a') for command in commands}
        self.exported, self.native = None, page(self.web_port)
        for process in (self.launcher, *self.builders):
            if process.stop() != 0:
                raise AssertionError(f'{process.log.stem} ended with status {process.child.returncode}:\n{process.tail()}')
        self.settle(relay)

    def settle(self, relay):
        """Waits until the exporter has counted and relayed all that it has received."""
        def all_of_it():
            exported = page(self.exporter.port)
            received = value(exported, 'statsd_exporter_lines_total')
            self.exported, self.lines = exported, relay.lines()
            handled = (value(exported, 'statsd_exporter_events_actions_total')
                       + value(exported, 'statsd_exporter_events_unmapped_total'))
            return received == handled == sum(self.lines.values())
        wait_for('counted: every line that was received', all_of_it, 15, 0.2)

    @staticmethod
    def script():
        """What the simulated clouds do."""
        every = {'boot_delay': 0.05}
        quota = {'times': 1, 'message': 'Quota exceeded for instances'}
        return {'*': every, 'cloud-b': {'azs': []}, 'cloud-full': {'azs': ['az1'], 'full_azs': ['az1']},
                'cloud-short': {'azs': ['az1'], 'fail_create': quota},
                'cloud-refused': {'fail_create': {'message': 'not today', 'status': 400}},
                'cloud-mute': {'fail_host_keys': True}}

    def shown(self):
        """All that there was to see in Prometheus."""
        return {**self.waiting, **self.native, **self.exported}

    def settings(self):
        return {**self.zookeeper.config(), 'zookeeper-timeout': 10}

    def builder(self, stack, host, images, EXIT=None):
        directory = self.directory / host.partition('.')[0]
        (directory / 'images').mkdir(parents=True)
        diskimages = [{'name': image, 'dib-cmd': str(self.directory / 'build-image'), 'formats': formats.split(),
                       'env-vars': {'FORMATS': formats, 'EXIT': (EXIT or {}).get(image, '0')}}
                      for image, formats in images.items()]
        config = directory / 'nodepool.yaml'
        config.write_text(json.dumps({
            **self.settings(), 'images-dir': str(directory / 'images'), 'build-log-dir': str(directory / 'logs'),
            'labels': [], 'diskimages': diskimages,
            'providers': [{'name': 'cloud-a', 'driver': 'fake', 'cloud': 'fake', 'pools': [],
                           'diskimages': [{'name': image} for image in images]}]}))
        self.builder_configs.append(config)
        return stack.enter_context(named(Builder(config, directory / 'builder.log', env=self.env, arguments=[
            '--cleanup-interval', 1, '--retry-interval', 60]), host))

    def start_launcher(self, stack):
        def provider(name, *labels, zones=('az1',), **pool):
            pool = {'name': 'main', 'max-servers': 20, 'host-key-checking': False, **pool}
            if zones:
                pool['availability-zones'] = list(zones)
            return {'name': name, 'driver': 'fake', 'cloud': 'fake', 'launch-retries': 1, 'port-cleanup-interval': 1,
                    'cloud-images': [{'name': 'image', 'username': 'zuul'}],
                    'pools': [{**pool, 'labels': [{'name': label, 'cloud-image': 'image', 'min-ram': 8192}
                                                  for label in labels]}]}
        self.web_port = free_port()
        config = self.launcher_config = self.directory / 'nodepool.yaml'
        labels = [*READY, *FAILING, *WAITING]
        config.write_text(json.dumps({
            **self.settings(), 'webapp': {'port': self.web_port, 'listen_address': '127.0.0.1'},
            'tenant-resource-limits': [{'tenant-name': 'tenant.one', 'max-cores': 64, 'max-servers': 10}],
            'labels': [{'name': label} for label in labels],
            'diskimages': [{'name': 'jammy'}],
            'providers': [
                # The builders do not know the second one: it never gets the image.
                {**provider('cloud-a', 'small', 'ubuntu-22.04'), 'diskimages': [{'name': 'jammy'}]},
                {**provider('cloud-b', 'plain', zones=()), 'diskimages': [{'name': 'jammy'}]},
                provider('cloud.dotted', 'dotted'), provider('cloud-full', 'full'), provider('cloud-short', 'short'),
                provider('cloud-refused', 'refused', zones=()), provider('cloud-tight', 'tight', **{'max-servers': 1}),
                provider('cloud-mute', 'mute', **{'host-key-checking': True}),
                {'name': 'machines', 'driver': 'static', 'pools': [{'name': 'main', 'nodes': [
                    {'name': '127.0.0.1', 'labels': ['host'], 'connection-port': self.zookeeper.port,
                     'host-key-checking': False}]}]},
            ]}))
        return stack.enter_context(named(Launcher(config, self.directory / 'launcher.log', env=self.env, arguments=[
            '--cleanup-interval', 1]), LAUNCHER_HOST))

    def wait(self, what, condition, timeout=40):
        def checked():
            for process in (self.launcher, *self.builders):
                if not process.running():
                    raise AssertionError(f'{process.log.stem} ended:\n{process.tail()}')
            return condition()
        return wait_for(what, checked, timeout)

    def images(self):
        def done():
            states = {(key[0], record['state']) for key, record in records.builds(self.client).items()}
            uploaded = {key[0] for key, record in records.uploads(self.client).items() if record['state'] == 'ready'}
            return ('broken', 'failed') in states and {'jammy', 'noble'} <= uploaded
        self.wait('built, uploaded and failed: the images', done)

    def requests(self):
        """Every label as often as the tables above say; all nodes but one are used and deleted."""
        self.kept, self.began = None, time.time()
        asked = {records.submit(self.client, [label], requestor=REQUESTOR, tenant='tenant.one'): label
                 for label in [*(label for label, n in READY.items() for _ in range(n)), *FAILING]}

        def ended():
            found = {i: records.request(self.client, i) for i in asked}
            return found if all(r['state'] in ('fulfilled', 'failed') for r in found.values()) else None
        found = self.wait('fulfilled or failed: the requests', ended)
        for request_id, record in found.items():
            wanted = 'fulfilled' if asked[request_id] in READY else 'failed'
            if record['state'] != wanted:
                raise AssertionError(f'request for {asked[request_id]}: {record}\n{self.launcher.tail(60)}')
            if wanted == 'failed':
                self.client.delete(f'/nodepool/requests/{request_id}', recursive=True)
            elif asked[request_id] == 'small' and self.kept is None:
                [self.kept] = record['nodes']
                self.client.delete(f'/nodepool/requests/{request_id}', recursive=True)
            else:
                records.release(self.client, request_id)
        self.wait('deleted: the used nodes', lambda: {
            i for i, node in records.nodes(self.client).items() if node['provider'] != 'machines'} == {self.kept})

    def wait_in_vain(self):
        """Two requests for the one static host, two for a pool with room for one: the second ones wait."""
        asked = [records.submit(self.client, [label], requestor=REQUESTOR) for label in WAITING for _ in range(2)]

        def states():
            return sorted(records.request(self.client, i)['state'] for i in asked)
        self.wait('served: one of two requests each', lambda: states() == [
            'fulfilled', 'fulfilled', 'pending', 'requested'])

        def shown():
            self.waiting = page(self.web_port)
            labels = labelled(self.waiting, 'nodepool_oldest_request_timestamp_seconds')
            return ({dict(pairs)['label'] for pairs in labels} == set(WAITING)
                    and value(self.waiting, 'nodepool_pool_paused', provider='cloud-tight'))
        self.wait('shown: the requests that wait, and the pool that is full', shown)
        served = [i for i in asked if records.request(self.client, i)['state'] == 'fulfilled']
        for request_id in (set(asked) - set(served)):
            self.client.delete(f'/nodepool/requests/{request_id}', recursive=True)
        for request_id in served:
            records.release(self.client, request_id)
        self.wait('gone: all nodes but the host', lambda: {
            (node['provider'], node['state']) for i, node in records.nodes(self.client).items() if i != self.kept
        } == {('machines', 'ready')})

    def leaks(self):
        """A server whose record vanishes, and the two ports that the simulated cloud has from the beginning."""
        self.client.delete(f'/nodepool/nodes/{self.kept}', recursive=True)

        def removed():
            native = page(self.web_port)
            return all(value(native, 'nodepool_leaked_resources_total', provider='cloud-a', resource=kind)
                       for kind in ('instances', 'ports'))
        self.wait('removed: a leaked server and leaked ports', removed)
        # Gauges are reported at most once a second.
        time.sleep(1.5)


@contextlib.contextmanager
def site(commands):
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(os.environ.get('NODEPOOL_MONITORING_DIR') or stack.enter_context(
            tempfile.TemporaryDirectory(prefix='np-monitoring-')))
        yield Site(stack, directory, commands)
