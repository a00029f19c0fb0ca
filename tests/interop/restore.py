"""After a restore: an empty ZooKeeper beside live servers, uploaded images and image files."""
import json
import os
import socket
import subprocess
import time
import urllib.request
import uuid

from harness import binary, free_port, records, wait_for
from harness.services import Launcher
from harness.statsd import Statsd
from images import Site
from world import FakeCloud, Skip, check, fake_provider, passed

SERVERS, IMAGES = 200, 20


def marked(provider, **marks):
    return {'nodepool_provider_name': provider, **{f'nodepool_{key}': value for key, value in marks.items()}}


def server(server_id, metadata):
    return {'document': {'id': server_id, 'name': server_id, 'metadata': metadata}, 'boots_at': 0.0, 'volume_size': None}


def image(image_id, **marks):
    return {'id': image_id, 'name': image_id, 'status': 'active', **marks}


class Restored:
    """What was there before ZooKeeper lost its data: some of it ours, some of it others'."""

    def __init__(self, cloud):
        self.cloud = cloud
        # Of a time when many nodes had been numbered, and of its beginning.
        numbers = [*range(SERVERS // 2), *range(52_000, 52_000 + SERVERS // 2)]
        self.servers = {f'ours-{n:010}': marked('restored', node_id=f'{n:010}', pool_name='main') for n in numbers}
        self.foreign_servers = {'unmarked': {}, 'theirs': marked('their-provider', node_id='0000000007'),
                                'somebody': {'nodepool_node_id': '0000000008'}}
        self.builds = [uuid.uuid4().hex for _ in range(IMAGES)]
        self.images = {f'image-{n}': marked('restored', build_id=build, upload_id='0000000001')
                       for n, build in enumerate(self.builds)}
        self.foreign_images = {'base': {}, 'their-image': marked('their-provider', build_id='1' * 32,
                                                                 upload_id='0000000001')}
        self.write('restored', self.servers | self.foreign_servers, self.images | self.foreign_images)
        # Fewer than any bound.
        self.small = {f'small-{n}': marked('small', node_id=f'{n:010}') for n in (60_001, 60_002)}
        self.write('small', self.small, {})

    def write(self, provider, servers, images):
        state = {'servers': {i: server(i, metadata) for i, metadata in servers.items()},
                 'images': {i: image(i, **marks) for i, marks in images.items()}}
        (self.cloud.state_dir / f'{provider}.json').write_text(json.dumps(state))

    def servers_now(self, provider='restored'):
        self.cloud.provider = provider
        return set(self.cloud.servers())

    def files(self):
        """The names of the old builds' files."""
        return {f'image-{build}.{suffix}' for build in self.builds for suffix in ('raw', 'raw.md5', 'raw.sha256')}


def after_a_restore(world):
    """Nothing is removed, and that is said in the log, in /ready, in the metrics and by `nodepool leaks`; what that lists goes
    when it is allowed, and nothing else."""
    if world.python:
        raise Skip('upstream removes everything')
    unlimited = dict.fromkeys(('cores', 'instances', 'ram', 'volumes', 'volume-gb'), -1)
    cloud = FakeCloud(world.directory, 'restored', quota=unlimited, down_ports=0)
    old = Restored(cloud)
    providers = [{**fake_provider('restored', ['label']), 'diskimages': [{'name': 'image'}]}, fake_provider('small', ['other'])]
    for provider in providers:
        provider['pools'][0]['max-servers'] = 500
    diskimage = {'name': 'image', 'formats': ['raw'], 'env-vars': {'RUNS': str(world.directory / 'runs')}}
    site = Site(world, 'restored', [diskimage], providers, labels=['label', 'other'])
    config = json.loads(site.config.read_text())
    config['labels'][0]['min-ready'] = 3
    site.config.write_text(json.dumps(config))
    their_file = site.images_dir / f'notes-{uuid.uuid4().hex}.raw'
    for name in [*old.files(), their_file.name]:
        (site.images_dir / name).write_text('x')
    client = world.zuul.zk.kazoo_client
    statsd = world.stack.enter_context(Statsd())
    port = free_port()

    def launcher(number):
        log = world.directory / f'launcher-{number}.log'
        process = Launcher(site.config, log, env={**cloud.env, **statsd.env()}, arguments=[
            '--cleanup-interval', '1', '--web-address', '127.0.0.1', '--web-port', str(port)])
        world.stack.enter_context(process)
        wait_for('ready: the launcher', lambda: ready(port), 60)
        return process, log

    def held(name, number):
        wait_for(f'reported: {name}', lambda: statsd.gauge(name) == number, 60)

    first, log = launcher(1)
    builder = site.start(env={**cloud.env, **statsd.env()}, ours=['--cleanup-interval', '1', '--retry-interval', '1'])

    def new_nodes():
        found = records.nodes(client)
        return found if len(found) == 3 and all(node['state'] == 'ready' for node in found.values()) else None
    nodes = wait_for('ready: three nodes', new_nodes, 60)
    wait_for('ready: a new build', lambda: site.ready_builds('image'), 60)
    wait_for('ready: its upload', lambda: [u for u in records.uploads(client).values() if u['state'] == 'ready'], 60)

    def all_is_there(what):
        check(old.servers.keys() <= old.servers_now(), f'{what}: servers were removed')
        check(old.small.keys() <= old.servers_now('small'), f'{what}: servers of the small provider were removed')
        check(old.images.keys() <= cloud.images('restored').keys(), f'{what}: images were removed')
        check(old.files() <= site.files(), f'{what}: files were removed')

    # The four places.
    held('nodepool.provider.restored.held_back.instances', SERVERS)
    held('nodepool.provider.restored.held_back.images', IMAGES)
    held('nodepool.provider.small.held_back.instances', 2)
    builder_gauge = f'nodepool.builder.{socket.getfqdn()}.held_back.files'
    held(builder_gauge, IMAGES)
    metrics = get(port, '/metrics')
    for line in (f'nodepool_leaks_held_back{{provider="restored",resource="instances"}} {SERVERS}',
                 f'nodepool_leaks_held_back{{provider="restored",resource="images"}} {IMAGES}'):
        check(line in metrics, f'{line} is not in /metrics')
    first_line, *remarks = ready(port).splitlines()
    check(first_line.startswith('OK'), first_line)
    for words in (f'Provider restored holds back the removal of {IMAGES} images, {SERVERS} instances', 'Provider small holds back'):
        check([line for line in remarks if words in line], f'/ready does not say "{words}": {remarks}')
    time.sleep(5)  # several searches, in which nothing may happen
    all_is_there('before anything was allowed')
    for name, words in ((log, 'Nothing is removed of what has leaked from provider restored'),
                        (log, 'Nothing is removed of what has leaked from provider small'),
                        (builder.log, 'No file of images-dir')):
        said = [line for line in name.read_text().splitlines() if words in line]
        check(len(said) == 1 and ' ERROR ' in said[0], f'the log says {len(said)} times "{words}": {said[:2]}')
    check(not set(nodes) & {m['nodepool_node_id'] for m in old.servers.values()}, 'a new node has an old one\'s number')
    passed(f'{SERVERS} servers, {IMAGES} images, {IMAGES} builds\' files and two servers of a small site stay; said once in the '
           'log, in /ready, in the metrics')

    # A launcher that starts when there are records already knows it, too.
    check(first.stop() == 0, 'it did not end with status 0')
    records_before = {child: client.get(f'/nodepool/leaks/provider/{child}')
                      for child in client.get_children('/nodepool/leaks/provider')}
    second, log = launcher(2)
    wait_for('said: again', lambda: 'Nothing is removed of what has leaked from provider small' in log.read_text(), 60)
    time.sleep(3)
    all_is_there('after a restart')
    check({child: client.get(f'/nodepool/leaks/provider/{child}') for child in records_before} == records_before,
          'the record was written although nothing had changed')
    passed('a restarted launcher holds the same back; the record is written only when something changes')

    listed = nodepool(site, 'leaks', env=cloud.env)
    rows = table(listed.stdout)
    expected = {('restored', 'instances', i) for i in old.servers} | {('restored', 'images', i) for i in old.images}
    expected |= {('small', 'instances', i) for i in old.small}
    files = {(f'images-dir of {socket.gethostname()}', 'files', f'image-{build}') for build in old.builds}
    check({row[:3] for row in rows} == expected | files, f'{len(rows)} rows are not what is held back')
    check(all(row[4].startswith('held back since') for row in rows), f'{rows[:3]}')
    check('lets those that are listed here be removed' in listed.stderr, listed.stderr)
    passed(f'`nodepool leaks` lists {len(rows)}')

    # What comes to light after the permission stays.
    allowed = nodepool(site, 'leaks', '--remove')
    check({row[:3] for row in table(allowed.stdout)} == expected | files, 'it allows something else than it lists')
    late = {'late': marked('restored', node_id='0000052999')}
    state_path = cloud.state_dir / 'restored.json'

    def add_late():
        """Between two writes of the launcher's own."""
        state = json.loads(state_path.read_text())
        state['servers']['late'] = server('late', late['late'])
        aside = state_path.with_suffix('.late')
        aside.write_text(json.dumps(state))
        aside.rename(state_path)
        time.sleep(0.3)
        return 'late' in old.servers_now()
    wait_for('there: a late find', add_late, 30)
    on_record = {node['external_id'] for node in records.nodes(client).values()}
    wait_for('removed: ours', lambda: old.servers_now() == on_record | old.foreign_servers.keys() | {'late'}, 120)
    wait_for('removed: the small provider\'s', lambda: not old.servers_now('small'), 60)
    uploads = {upload['external_id'] for upload in records.uploads(client).values()}
    wait_for('removed: our images', lambda: cloud.images('restored').keys() == uploads | old.foreign_images.keys(), 60)
    wait_for('removed: the files', lambda: not old.files() & site.files(), 60)
    check(their_file.name in site.files(), 'somebody\'s file was deleted')
    held('nodepool.provider.restored.held_back.instances', 1)
    held(builder_gauge, 0)
    time.sleep(3)
    check('late' in old.servers_now(), 'what was found later was removed')
    check(records.nodes(client).keys() == nodes.keys(), 'a node that is in order was removed')
    wait_for('gone: the records of what is held back no longer', lambda: client.get_children('/nodepool/leaks/provider') ==
             ['restored'] and not client.get_children('/nodepool/leaks/builder'), 60)
    passed('after `nodepool leaks --remove` exactly those are gone; foreign ones and a later find are there')

    nodepool(site, 'leaks', '--remove', '--provider', 'restored')
    wait_for('removed: the late one', lambda: 'late' not in old.servers_now(), 60)
    wait_for('gone: all records', lambda: not client.get_children('/nodepool/leaks/provider'), 60)
    check(ready(port).strip() == 'OK', ready(port))
    check(nodepool(site, 'leaks', '--remove').stdout.strip() == 'Nothing is held back.', 'something is')

    # And from then on a leak goes as ever.
    leaked = next(iter(nodes))
    client.delete(f'/nodepool/nodes/{leaked}', recursive=True)
    wait_for('removed: a leak', lambda: nodes[leaked]['external_id'] not in old.servers_now(), 60)
    check(second.stop() == 0 and builder.stop() == 0, 'they did not end with status 0')
    passed('all clear: a later leak is removed without a question')


def get(port, path):
    with urllib.request.urlopen(f'http://127.0.0.1:{port}{path}', timeout=10) as answer:
        return answer.read().decode()


def ready(port):
    """The body of /ready; None while it is not ready."""
    try:
        return get(port, '/ready')
    except OSError:
        return None


def nodepool(site, *arguments, env=None):
    return subprocess.run([binary('nodepool'), '-c', site.config, *arguments], check=True, capture_output=True, text=True,
                          env={**os.environ, **(env or {})})


def table(text):
    rows = [line for line in text.splitlines() if line.startswith('|')]
    return [tuple(cell.strip() for cell in row.strip('|').split('|')) for row in rows[1:]]


SCENARIOS = (after_a_restore,)
