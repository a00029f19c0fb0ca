"""What the Software Factory operator's own CI asserts of Nodepool, done to our programs; tests/operator.md has the rows.

Its containers, mounts and scripts are another matter (deploy/images). Here are a home with the same files, a base
configuration to which the user's file is appended, and the same questions.
"""
import json
import os
import subprocess
import urllib.request

import yaml

from builder_ansible import ADDRESS, ANSIBLE, ImageBuilder, key, needed
from harness import binary, free_port, records, wait_for
from harness.kube import OPERATOR_RULES
from harness.services import Builder, Launcher
from on_kube import cluster, finish
from world import FULFILLED, Skip, check, passed

# Clouds that no provider names, with what a site's file may say beside the login.
CLOUDS = """
cache:
  expiration:
    server: 5
    port: 5
metrics:
  statsd:
    prefix: site.openstack
clouds:
  one:
    profile: nowhere
    auth: {auth_url: 'https://one.example/v3', username: a, password: b, project_name: c, user_domain_name: d}
    regions: [{name: RegionOne, values: {networks: [{name: n, routes_externally: true}]}}]
    image_format: raw
    api_timeout: 60
    metrics: {statsd: {prefix: site.one}}
  two:
    auth: {auth_url: 'https://two.example/v3', application_credential_id: e, application_credential_secret: f}
    auth_type: v3applicationcredential
    verify: false
"""


class Service:
    """A daemon's file as `generate-config.sh` makes it: the base part, and the user's file behind it."""

    def __init__(self, world, name, home):
        self.path = world.directory / f'{name}.yaml'
        self.home = home
        self.port = free_port()
        self._base = '---\n' + yaml.safe_dump({
            'webapp': {'port': self.port, 'listen_address': '127.0.0.1'}, **world.zookeeper.config(),
            'images-dir': str(home / 'dib'), 'build-log-dir': str(home / 'builds/logs')})

    def generate(self, user):
        """Into the same file, as `cp` does."""
        self.path.write_text(self._base + user)

    def ready(self):
        return self.get('ready')

    def get(self, path):
        with urllib.request.urlopen(f'http://127.0.0.1:{self.port}/{path}', timeout=5) as reply:
            return reply.read().decode()


def config_check(world, user):
    """The job of the config repository, on the user's file alone and in an empty environment: whether it passes."""
    path = world.directory / 'checked.yaml'
    path.write_text(user)
    done = subprocess.run([binary('nodepool'), '-c', path, 'config-validate'], env={'PATH': '/usr/local/bin:/bin'},
                          capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr


def launcher_checks(world, home):
    kube = cluster()
    kube.namespace('nodepool')
    token = kube.service_account('nodepool', 'nodepool-sa', OPERATOR_RULES)
    (home / '.kube').mkdir()
    kube.kubeconfig(home / '.kube/config', {'openshiftpods': token})
    service = Service(world, 'nodepool', home)
    service.generate('')
    world.stack.enter_context(Launcher(service.path, world.directory / 'launcher.log', env={'HOME': str(home)}))

    def ready():
        try:
            return 'OK' in service.ready()
        except OSError:
            return False
    wait_for('OK: /ready, with clouds that nobody uses and no provider', ready)
    passed('/ready is OK with an empty configuration and a clouds.yaml of clouds that no provider names')

    accepted, said = config_check(world, 'labELz: {}\n')
    check(not accepted and 'labELz' in said, f'config-check takes labELz: {said}')
    user = yaml.safe_dump({'labels': [{'name': 'new-label'}], 'providers': [{
        'name': 'microshiftLocal', 'driver': 'openshiftpods', 'context': 'openshiftpods',
        'pools': [{'name': 'nodepool', 'labels': [
            {'name': 'new-label', 'image': 'registry.example/image:1', 'python-path': '/bin/python3'}]}]}]})
    accepted, said = config_check(world, user)
    check(accepted, f'config-check refuses it: {said}')
    service.generate(user)
    wait_for('in /label-list: the new label', lambda: 'new-label' in service.get('label-list'), 30)
    wait_for("in Zuul's list of labels: the new label",
             lambda: any('new-label' in pool.supported_labels for pool in world.pools()), 30)
    request, nodeset = world.zuul.request(['new-label'])
    done = world.zuul.wait(request, 60)
    check(done.state == FULFILLED, f'the request ended {done.state}')
    record = records.nodes(world.zuul.zk.kazoo_client)[done.nodes[0]]
    check(record['python_path'] == '/bin/python3' and record['connection_type'] == 'kubectl', record)
    finish(world, done, nodeset)
    world.zuul.wait_until_empty(60)
    check('OK' in service.ready(), 'it is not ready any more')
    passed('labELz is refused; a new label is in /label-list and known to Zuul, whose job gets its pod')


def builder_checks(world, home):
    needed()
    host = world.stack.enter_context(ImageBuilder(world.directory / 'host', key(home / 'priv')))
    directory = home / 'config/nodepool/dib-ansible'
    directory.mkdir(parents=True)
    (directory / 'inventory.yaml').write_text(json.dumps({'ungrouped': {'hosts': {'image-builder': {
        'ansible_host': ADDRESS, 'ansible_port': host.port, 'ansible_user': 'nodepool',
        'ansible_ssh_private_key_file': str(home / 'priv'),
        'ansible_ssh_common_args': f'-o UserKnownHostsFile={home}/known_hosts'}}}}))
    (directory / 'my-image.yaml').write_text(json.dumps([{'hosts': 'image-builder', 'tasks': [
        {'debug': {'msg': 'This is the message to look for'}},
        {'local_action': {'module': 'file', 'path': '{{ image_output }}.raw', 'state': 'touch'}}]}]))
    # By hand, as the operator's documentation has it, before anything is built.
    login = ['ssh', '-F', 'none', '-o', 'StrictHostKeyChecking=no', '-o', f'UserKnownHostsFile={home}/known_hosts', '-i',
             home / 'priv', '-p', str(host.port), f'nodepool@{ADDRESS}', 'hostname']
    done = subprocess.run(login, capture_output=True, text=True)
    check(done.returncode == 0 and done.stdout.strip() == os.uname().nodename, done.stdout + done.stderr)

    service = Service(world, 'nodepool-builder', home)
    service.generate('')
    env = {'HOME': str(home), 'NODEPOOL_ANSIBLE_DIRECTORY': str(directory), 'NODEPOOL_ANSIBLE_PLAYBOOK': str(ANSIBLE)}
    builder = world.stack.enter_context(Builder(service.path, world.directory / 'builder.log', env=env))
    accepted, said = config_check(world, 'DiskDisk: {}\n')
    check(not accepted and 'DiskDisk' in said, f'config-check takes DiskDisk: {said}')
    user = yaml.safe_dump({'diskimages': [{
        'name': 'my-cloud-image', 'dib-cmd': f'{binary("dib-ansible")} my-image.yaml', 'formats': ['raw'],
        'username': 'zuul-worker'}]})
    accepted, said = config_check(world, user)
    check(accepted, f'config-check refuses it: {said}')
    service.generate(user)

    def logs():
        return ''.join(path.read_text() for path in (home / 'builds/logs').glob('*'))
    wait_for("in the build's log: the message", lambda: 'This is the message to look for' in logs(), 30)

    def listed():
        done = subprocess.run([binary('nodepool'), '-c', service.path, 'dib-image-list'], capture_output=True, text=True)
        return [line for line in done.stdout.splitlines() if 'my-cloud-image' in line and 'ready' in line]
    wait_for('in dib-image-list: the image, ready', listed, 30)
    check('in callback plugin' not in logs(), 'a callback plugin has failed')
    check(builder.running(), builder.tail())
    passed('DiskDisk is refused; an empty image of no provider is built over SSH, in its log and ready in dib-image-list')


def operator_checks(world):
    if world.python:
        raise Skip('our programs')
    home = world.directory / 'home'
    for directory in ('dib', 'builds', '.config/openstack'):
        (home / directory).mkdir(parents=True)
    (home / '.config/openstack/clouds.yaml').write_text(CLOUDS)
    launcher_checks(world, home)
    builder_checks(world, home)


SCENARIOS = (operator_checks,)
