"""Our builder alone and beside Python Nodepool's: killed, compared, with large images, without space."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import time

from harness import records, wait_for
from images import Site, check_quiet_locks, image_provider, images_of, quiet, record_state
from world import FakeCloud, Skip, check, passed

# When it is killed: so many seconds after this was first seen. A build takes 1 s, an upload 0.7 s or 1.2 s, a deletion
# 0.1 s; in one cloud it is refused at first and takes a second more.
MOMENTS = (
    *(('build building', delay) for delay in (0, 0.2, 0.4, 0.7, 0.9, 1.0)),
    *(('upload uploading', delay) for delay in (0, 0.1, 0.3, 0.5, 0.7, 0.9)),
    *(('upload deleting', delay) for delay in (0, 0.05, 0.1)),
    *(('build deleting', delay) for delay in (0, 0.05, 0.3, 0.7, 1.0)),
)


def builder_killed(world):
    if world.python:
        raise Skip("upstream's fake cloud dies with its builder")
    cloud = FakeCloud(world.directory, None, api_delay=0.1)
    image = {'name': 'image', 'formats': ['raw'], 'env-vars': {
        'RUNS': str(world.directory / 'runs'), 'STEPS': '5', 'STEP_SECONDS': '0.1'}}
    # A dead builder's locks last as long as its session.
    site = Site(world, 'killed', [image], [image_provider('cloud-a', 'image'), image_provider('cloud-b', 'image')],
                **{'zookeeper-timeout': 2.0})

    def start():
        return site.start(env=cloud.env, ours=['--cleanup-interval', 1, '--retry-interval', 1])
    builder = start()
    images_in = images_of(cloud)
    wait_for('ready: the first build', lambda: site.ready_builds('image'))
    quiet([site], images_in)
    # From here on something runs from the first build.
    [upload] = [key for key in records.uploads(site.client) if key[2] == 'cloud-a']
    [external] = cloud.images('cloud-a')
    records.create_node(site.client, '0000000001', state='in-use', provider='cloud-a', image_id=records.upload_path(upload))

    found = {}
    started = time.monotonic()
    for seen, delay in MOMENTS:
        before = site.ready_builds('image')[-1]
        # Written anew, so that each time one deletion is refused.
        cloud.script({'cloud-b': {'hang_upload': 0.8, 'fail_image_delete': {'times': 1}}}, api_delay=0.1, hang_upload=0.3)
        site.build('image')

        def reached(seen=seen):
            kind, state = seen.split()
            found = records.builds(site.client) if kind == 'build' else records.uploads(site.client)
            return any(record['state'] == state for record in found.values())
        wait_for(f'seen: {seen}', reached, 30, 0.01)
        time.sleep(delay)
        builder.kill()
        clouds = sum(len(cloud.images(provider)) for provider in site.providers)
        what = f'{record_state(site.client)}; {clouds} images, {"a" if site.processes() else "no"} build running'
        found[what] = found.get(what, 0) + 1
        builder = start()
        try:
            wait_for('ready: another build', lambda: site.ready_builds('image')[-1:] != [before], 60)
            quiet([site], images_in, [upload])
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f'killed {delay} s after {seen} ({what}): {error}') from error
    passed(f'{len(MOMENTS)} kills in {time.monotonic() - started:.0f} s; each time records, files and clouds agreed '
           'afterwards, a build asked for before was ready, and the image that a node runs from was there')
    for what, times in found.items():
        passed(f'  {times} killed at: {what}')
    check(len(found) >= 6, 'most kills hit the same moment')
    check(external in cloud.images('cloud-a'), 'the image in use was deleted')
    site.client.delete('/nodepool/nodes/0000000001', recursive=True)
    quiet([site], images_in)
    check(external not in cloud.images('cloud-a'), 'the image that nobody uses any more stays')
    check(builder.stop() == 0, 'it did not end with status 0')
    check_quiet_locks(site.client)
    runs = len((world.directory / 'runs').read_text().split())
    passed(f'the node gone, its image went too; {runs} builds were begun for {len(MOMENTS) + 1} that were wanted')


HERE = pathlib.Path(__file__).parent
MIB = 1 << 20
# What tells two builds, or two builders, apart: only the kind of value is compared.
OF_ITS_OWN = {'state_time', 'builder_id', 'external_id'}


class Recorded:
    """What a builder did with the images of the comparison: how it called others, what it wrote."""

    def __init__(self, world, name, python):
        self.name = name
        chroot = f'/{name}'
        world.zuul.zk.kazoo_client.ensure_path(chroot)
        wrapper = world.directory / 'bin' / 'dib-ansible'
        if not wrapper.exists():
            wrapper.parent.mkdir()
            wrapper.symlink_to(HERE / 'record_dib')
        recorder = HERE / 'record_dib'
        images = [
            {'name': 'base', 'abstract': True, 'dib-cmd': f'{recorder} first "second third"', 'release': 21,
             'elements': ['base-a', 'base-b'], 'metadata': {'from': 'base'}, 'rebuild-age': 3600,
             'env-vars': {'FROM_BASE': 'base', 'OVERRIDDEN': 'base', 'TMPDIR': '/opt/dib tmp'}},
            {'name': 'child', 'parent': 'base', 'elements': ['vm', 'fourth fifth'], 'formats': ['qcow2', 'raw'],
             'username': 'someone', 'python-path': '/usr/bin/python3.11', 'shell-type': 'sh',
             'env-vars': {'OVERRIDDEN': 'child', 'QUOTED': 'it\'s "so" $HOME', 'EMPTY': '', 'LATE': 'yes'}},
            {'name': 'wrapped', 'dib-cmd': f'{wrapper} playbook.yaml', 'formats': ['raw', 'qcow2']},
            {'name': 'failing', 'dib-cmd': str(recorder), 'formats': ['raw'], 'release': 'bookworm',
             'env-vars': {'EXIT': '3', 'DIB_IMAGE_NAME': 'of my own'}},
        ]
        hook = {'post-upload-hook': str(HERE / 'record_hook')}
        meta = [{'name': 'child', 'meta': {'key': 'value'}}]
        providers = [image_provider('cloud-qcow2', 'wrapped', cloud='fake-qcow2', **hook),
                     image_provider('cloud-raw', 'wrapped', cloud='fake-raw', **hook)]
        providers[0]['diskimages'] += meta
        self.site = Site(world, name, images, providers,
                         **world.zookeeper.config(chroot), **{'elements-dir': './elements'})
        self.site.client = self.client = world.zookeeper.client(chroot)
        world.stack.callback(self.client.stop)
        self.records = self.site.images_dir.parent / 'records'
        self.records.mkdir()
        # Python would set LC_CTYPE for its children where the locale is C.
        self.site.start(python=python, env={'LC_ALL': 'C.UTF-8'}, registered=False,
                        arguments=['--build-workers', 3, '--upload-workers', 3])

    def own(self, text):
        """A text without what is different each time."""
        text = text.replace(str(self.site.images_dir), 'IMAGES').replace(str(self.site.logs_dir), 'LOGS')
        return re.sub(r'\b[0-9a-f]{32}\b', 'ID', text)

    def called(self, image):
        """The arguments and the rest of a call; only the order of the formats is left open."""
        path = self.records / f'{image}.json'
        wait_for(f'called: the dib-cmd of {image} by {self.name}', path.exists)
        call = json.loads(self.own(path.read_text()))
        at = call['arguments'].index('-t') + 1
        call['arguments'][at] = ','.join(sorted(call['arguments'][at].split(',')))
        return call

    def hooked(self, provider, image):
        return json.loads(self.own((self.records / f'hook-{provider}-{image}.json').read_text()))

    def documents(self):
        """Each record's keys in their order, with their values, or the kind of those that are different each time."""
        found = {}
        for key, record in (*records.builds(self.client).items(), *records.uploads(self.client).items()):
            # Several numbers where one failed before: they are not compared.
            path = '/'.join((key[0], *key[2:3]))
            fields = []
            for name, value in record.items():
                if name in OF_ITS_OWN and value is not None:
                    value = type(value).__name__
                elif name == 'external_name' and value:
                    value = re.sub(r'[0-9]{10}$', 'SECONDS', value)
                elif name == 'formats':
                    value = ','.join(sorted(value.split(',')))
                fields.append((name, value))
            found[path] = fields
        return found

    def log(self, image):
        [path] = self.site.logs_dir.glob(f'{image}-*.log')
        return path.read_bytes()

    def files(self):
        """Names, but for the failing image's: upstream leaves them until its next clean-up."""
        return [self.own(name) for name in self.site.files() if not name.startswith('failing-')]

    def wait(self, states):
        """The documents once builds and uploads, as these name them, are in these states."""
        last = {}

        def reached():
            last.clear()
            last.update(self.documents())
            return all(path in last and dict(last[path])['state'] == state for path, state in states.items())
        try:
            wait_for(f'{self.name}: {states}', reached)
        except TimeoutError as error:
            raise AssertionError(f'{error}, but {last}') from error
        return dict(last)


def same(what, ours, theirs):
    if ours != theirs:
        if isinstance(ours, dict):
            changed = {k: (ours.get(k, '-'), theirs.get(k, '-')) for k in ours.keys() | theirs.keys()
                       if ours.get(k, '-') != theirs.get(k, '-')}
        else:
            changed = ours, theirs
        raise AssertionError(f'{what} differs (ours, upstream): {changed}')


def builder_command(world):
    both = [Recorded(world, 'ours', False), Recorded(world, 'upstream', True)]
    images = ('child', 'wrapped', 'failing')
    for image in images:
        ours, theirs = (one.called(image) for one in both)
        for part in ('arguments', 'environment', 'directory', 'umask', 'input'):
            same(f'{part} of the dib-cmd of {image}', ours[part], theirs[part])
        more = sorted(ours['environment'].keys() - os.environ.keys())
        passed(f'{image}: {" ".join(ours["arguments"])}')
        passed(f'  the same {len(ours["arguments"])} words and {len(ours["environment"])} variables, among them '
               f'{", ".join(more)}')

    building = dict.fromkeys(images, 'building')
    # Upstream builds the failing one again and again; what it leaves while the others are built is compared below.
    del building['failing']
    compared = [('while it is built', building)]
    uploading = {'child': 'ready', 'wrapped': 'ready', 'child/cloud-qcow2': 'uploading',
                 'wrapped/cloud-qcow2': 'uploading', 'wrapped/cloud-raw': 'uploading', 'failing': 'failed'}
    compared.append(('while it is uploaded', uploading))
    compared.append(('at the end', {path: state.replace('uploading', 'ready') for path, state in uploading.items()}))
    for (when, states), go in zip(compared, ('go-build', 'go-upload', None)):
        ours, theirs = (one.wait(states) for one in both)
        for path in states:
            if states[path] == 'failed':
                # Ours says why, in a key that upstream does not have.
                (key, reason) = ours[path].pop()
                check(key == 'reason' and reason.startswith('exit code 3'), f'{key} of {path}: {reason}')
            same(f'the record of {path} {when}', ours[path], theirs[path])
        if go:
            for one in both:
                (one.records / go).touch()
    passed(f'records of {len(building)} builds under way, {len(compared[2][1])} builds and uploads at two moments: the same '
           'keys in the same order, the same values')
    for upload in (('cloud-qcow2', 'child'), ('cloud-qcow2', 'wrapped'), ('cloud-raw', 'wrapped')):
        same(f'call of the post-upload-hook for {upload}', *(one.hooked(*upload) for one in both))
    passed(f'post-upload-hook: {" ".join(both[0].hooked("cloud-raw", "wrapped"))}')
    for image in ('child', 'wrapped'):
        same(f'the build log of {image}', *(one.log(image) for one in both))
    passed(f'build log: {both[0].log("child")}')
    same('the files', *(sorted(one.files()) for one in both))
    ours, theirs = ((one.site.images_dir / 'builder_id.txt').read_bytes() for one in both)
    check(len(ours) == len(theirs) == 36, f'builder_id.txt: {ours}, {theirs}')
    passed(f'files: {", ".join(sorted(set(both[0].files())))}')


def memory(pid):
    """What a process has in memory of its own, and the most that it ever had; MiB."""
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
    return [int(re.search(rf'{field}:\s+([0-9]+) kB', status)[1]) / 1024 for field in ('VmRSS', 'VmHWM')]


def large_image(world, size):
    """An image of so many GiB without data: read once for the checksums, once for each of two providers."""
    if world.python:
        raise Skip('Python Nodepool computes no checksums')
    cloud = FakeCloud(world.directory, None)
    image = {'name': 'image', 'formats': ['raw'], 'env-vars': {'SPARSE': f'{int(1024 * size)}M'}}
    site = Site(world, 'memory', [image], [image_provider(f'cloud-{one}', 'image', cloud='fake-raw') for one in 'ab'])
    pause = '/nodepool/images/image/pause'
    site.client.create(pause, b'', makepath=True)
    builder = site.start(env=cloud.env)
    time.sleep(1)
    idle, _ = memory(builder.pid)
    pathlib.Path(f'/proc/{builder.pid}/clear_refs').write_text('5')
    started = time.monotonic()
    site.client.delete(pause)
    patience = 300 + 300 * size
    wait_for('ready: the build', lambda: site.ready_builds('image'), patience, 0.5)
    built = time.monotonic() - started
    _, most_built = memory(builder.pid)
    wait_for('ready: two uploads',
             lambda: [u['state'] for u in records.uploads(site.client).values()] == ['ready', 'ready'], patience, 0.5)
    took = time.monotonic() - started
    _, most = memory(builder.pid)
    for provider in site.providers:
        [document] = cloud.images(provider).values()
        check(document['size'] == size * 1024 * MIB, f'{provider} has {document["size"]} bytes')
    used = sum(map(int, pathlib.Path(f'/proc/{builder.pid}/stat').read_text().split()[13:15])) / os.sysconf('SC_CLK_TCK')
    passed(f'{size} GiB: checksums after {built:.0f} s, two uploads after {took:.0f} s, {used:.0f} s of CPU; {idle:.1f} MiB '
           f'before, at most {most_built:.1f} MiB until it was built, {most:.1f} MiB in all: {most - idle:.1f} MiB more')
    check(most - idle < 64, f'it took {most - idle:.0f} MiB for an image of {size} GiB')


def builder_memory(world):
    large_image(world, 0.5)


def builder_memory_ten(world):
    large_image(world, 10)


class SmallDisk:
    """images-dir on a file system of so many MiB."""

    def __init__(self, world, size):
        self.path = world.directory / 'small'
        self.path.mkdir()
        mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}m', 'np-interop', self.path],
                                 capture_output=True, text=True)
        if mounted.returncode:
            raise Skip(f'no small file system can be mounted here: {mounted.stderr.strip()}')
        world.stack.callback(subprocess.run, ['umount', '-l', self.path])

    def free(self):
        return shutil.disk_usage(self.path).free // MIB

    def leave(self, free):
        """Somebody else takes all but so many MiB."""
        (self.path / 'ballast').unlink(missing_ok=True)
        with open(self.path / 'ballast', 'wb') as ballast:
            os.posix_fallocate(ballast.fileno(), 0, (self.free() - free) * MIB)


def builder_disk_full(world):
    if world.python:
        raise Skip('Python Nodepool does not look at the space')
    disk = SmallDisk(world, 300)
    cloud = FakeCloud(world.directory, None)
    size = world.directory / 'size'
    size.write_text(str(20 * MIB))
    runs = world.directory / 'runs'
    image = {'name': 'image', 'formats': ['raw'],
             'env-vars': {'STEP_BYTES': str(size), 'STEPS': '2', 'RUNS': str(runs)}}
    site = Site(world, 'full', [image], [image_provider('cloud', 'image', cloud='fake-raw')],
                images_dir=disk.path / 'images')
    images_in = images_of(cloud)

    def start():
        return site.start(env=cloud.env, ours=['--cleanup-interval', 1, '--retry-interval', 600])

    def failed():
        found = [(r['state_time'], key, r) for key, r in records.builds(site.client).items() if r['state'] == 'failed']
        return max(found, key=lambda one: one[0]) if found else None

    def next_failure(before):
        wait_for('failed: the build', lambda: (found := failed()) and found[1] != (before and before[1]) and found)
        return failed()
    builder = start()
    wait_for('ready: the first build', lambda: site.ready_builds('image'))
    quiet([site], images_in)
    first, files = site.ready_builds('image'), site.files()
    builder_id = (site.images_dir / 'builder_id.txt').read_text()
    documents = cloud.images('cloud')

    def untouched(when):
        check(site.ready_builds('image') == first, f'{when}: ready builds {site.ready_builds("image")}, before {first}')
        wait_for(f'gone: what is not of the first build ({when}): {sorted(site.files() - files)}',
                 lambda: site.files() == files)
        check(not site.wrong_checksums(), f'{when}: {site.wrong_checksums()} are wrong')
        check(cloud.images('cloud') == documents, f'{when}: the cloud has {cloud.images("cloud")}')
        check((site.images_dir / 'builder_id.txt').read_text() == builder_id, f'{when}: another builder id')

    disk.leave(60)
    site.build('image')
    failure = next_failure(None)
    reason = failure[2]['reason']
    for word in (str(site.images_dir), f'{disk.free()} MiB are free', '100 are needed', 'dib-image-delete'):
        check(word in reason, f'no {word} in the reason: {reason}')
    check(reason in builder.log.read_text(), f'not in the log: {reason}')
    untouched('too little space')
    check(len(runs.read_text().split()) == 1, 'dib-cmd was run all the same')
    passed(f'too little space: {reason}')

    disk.leave(140)
    size.write_text(str(90 * MIB))
    site.build('image')
    failure = next_failure(failure)
    reason = failure[2]['reason']
    check('No space left on device' in reason, reason)
    check(reason in builder.log.read_text(), f'not in the log: {reason}')
    untouched('full in the middle')
    passed(f'full in the middle of a build: {reason}')

    disk.leave(0)
    check(builder.stop() == 0, 'it did not end with status 0')
    builder = start()
    untouched('started on a full disk')
    disk.leave(200)
    size.write_text(str(20 * MIB))
    site.build('image')
    wait_for('ready: a build after that', lambda: len(site.ready_builds('image')) == 2)
    quiet([site], images_in)
    check((site.images_dir / 'builder_id.txt').read_text() == builder_id, 'another builder id')
    passed('a restart on a full disk kept its id; with room again it built and uploaded')


SCENARIOS = (builder_killed, builder_command, builder_memory, builder_disk_full)
# Minutes of computing.
BY_NAME = (builder_memory_ten,)
