"""What the scenarios of the builder share: a builder's own directories, and what its records, files and clouds say."""
import hashlib
import pathlib
import subprocess

from harness import binary, records, wait_for
from world import check

DIB = pathlib.Path(__file__).with_name('dib')
# Ready builds of an image that are kept.
KEPT = 2


class Site:
    """One builder's images-dir, build logs and configuration."""

    def __init__(self, world, name, images, providers, images_dir=None, labels=(), **more):
        """`images`: diskimages as in nodepool.yaml; what they do not say of dib-cmd and env-vars is said here."""
        self.world, self.name = world, name
        self.images_dir = pathlib.Path(images_dir or world.directory / name / 'images')
        self.logs_dir = world.directory / name / 'logs'
        for directory in (self.images_dir, self.logs_dir):
            directory.mkdir(parents=True, exist_ok=True)
        self.providers = [p['name'] for p in providers]
        self.client = world.zuul.zk.kazoo_client
        self.config = world.write_config(
            name, labels, providers,
            **{'images-dir': str(self.images_dir), 'build-log-dir': str(self.logs_dir),
               'diskimages': [image if 'parent' in image else {'dib-cmd': str(DIB), **image} for image in images], **more})

    def start(self, **options):
        return self.world.builder(self.config, **options)

    def build(self, image):
        """Asks for a build, as people do."""
        subprocess.run([binary('nodepool'), '-c', self.config, 'image-build', image], check=True,
                       stdout=subprocess.DEVNULL)

    def is_asked_for(self, image):
        return self.client.exists(f'/nodepool/images/{image}/request-build') is not None

    def ready_builds(self, image):
        """The ready builds' keys, oldest first."""
        ready = [(record['state_time'], key) for key, record in records.builds(self.client).items()
                 if key[0] == image and record['state'] == 'ready']
        return [key for _, key in sorted(ready)]

    def files(self):
        return {path.name for path in self.images_dir.iterdir()}

    def processes(self):
        """Ids of processes that build something here."""
        mark, found = f'DIB_IMAGE_FILENAME={self.images_dir}/'.encode(), []
        for process in pathlib.Path('/proc').glob('[0-9]*'):
            try:
                variables = (process / 'environ').read_bytes().split(b'\0')
            except OSError:
                continue
            if any(variable.startswith(mark) for variable in variables):
                found.append(int(process.name))
        return found

    def is_here(self, key):
        return any(name.startswith('{}-{}.'.format(*key)) for name in self.files())

    def expected_files(self, keys):
        """The names of what builds have, which are all in these formats."""
        names = {'builder_id.txt'}
        for (image, build), formats in keys.items():
            names.add(f'{image}-{build}.d')
            names.update(f'{image}-{build}.{form}{suffix}' for form in formats for suffix in ('', '.md5', '.sha256'))
        return names

    def wrong_checksums(self):
        """Names of checksum files that do not fit what stands beside them."""
        wrong = []
        for path in sorted(self.images_dir.glob('*.md5')) + sorted(self.images_dir.glob('*.sha256')):
            image = path.with_suffix('')
            try:
                digest = hashlib.new(path.suffix[1:], image.read_bytes()).hexdigest()
                if path.read_text().split()[0] != digest:
                    wrong.append(path.name)
            except (OSError, IndexError):
                wrong.append(path.name)
        return wrong


def disagreements(sites, images_in, used=()):
    """What is not as it is when all is quiet: two builds of each image, each in every provider, with their files.

    `sites` share a configuration. `images_in(provider)` gives the marks of the images there by their ids. `used`: keys of
    uploads that nodes were made from, which stay with their builds.
    """
    client, providers = sites[0].client, sites[0].providers
    builds, uploads = records.builds(client), records.uploads(client)
    wrong = [f'build {build} of {image} is {record["state"]}' for (image, build), record in builds.items()
             if record['state'] != 'ready']
    wrong += [f'upload {"/".join(key)} is {record["state"]}' for key, record in uploads.items()
              if record['state'] != 'ready']
    wrong += [f'the record of {"/".join(key)} is empty' for key in records.empty(client)]
    kept = set()
    for image in {image for image, _ in builds}:
        kept.update(sites[0].ready_builds(image)[-KEPT:])
    expected = kept | {key[:2] for key in used}
    wrong += [f'build {build} of {image} is one too many' for image, build in builds.keys() - expected]
    wrong += [f'build {build} of {image} has no record' for image, build in expected - builds.keys()]
    for key in sorted(builds):
        for provider in providers:
            found = [upload for upload in uploads if upload[:3] == (*key, provider)]
            wanted = {upload for upload in used if upload[:3] == (*key, provider)}
            if key in kept and len(found) != 1 or key not in kept and set(found) != wanted:
                wrong.append(f'build {"-".join(key)} has the uploads {found} to {provider}')
        if sum(site.is_here(key) for site in sites) != 1:
            wrong.append(f'the files of build {"-".join(key)} are at {[s.name for s in sites if s.is_here(key)]}')
    for provider in providers:
        recorded = {record['external_id']: (key[1], key[3]) for key, record in uploads.items() if key[2] == provider}
        there = images_in(provider)
        wrong += [f'image {i} is not in {provider}' for i in recorded.keys() - there.keys()]
        wrong += [f'image {i} in {provider} has no record' for i in there.keys() - recorded.keys()]
        wrong += [f'image {i} in {provider} is marked {there[i]}, the record is {recorded[i]}'
                  for i in recorded.keys() & there.keys() if recorded[i] != there[i]]
    for site in sites:
        own = {key: builds[key]['formats'].split(',') for key in builds if site.is_here(key)}
        files = site.expected_files(own)
        if site.files() != files:
            wrong.append(f'files of {site.name}: missing {sorted(files - site.files())}, '
                         f'without a record {sorted(site.files() - files)}')
        wrong += [f'checksum {name} of {site.name} is wrong' for name in site.wrong_checksums()]
        wrong += [f'process {process} of a build in {site.name}' for process in site.processes()]
    return wrong


def quiet(sites, images_in, used=(), timeout=60):
    """Waits until everything agrees."""
    last = []

    def agrees():
        last[:] = disagreements(sites, images_in, used)
        return not last
    try:
        wait_for('in agreement: records, files and clouds', agrees, timeout, 0.1)
    except TimeoutError as error:
        raise AssertionError(f'{error}: {"; ".join(last)}') from error


def images_of(cloud):
    """For `disagreements`: the marks of the images of a cloud, real or fake."""
    def images_in(provider):
        return {i: (image.get('nodepool_build_id'), image.get('nodepool_upload_id'))
                for i, image in cloud.images(provider).items()}
    return images_in


def image_provider(name, *images, **more):
    """A provider on the fake driver that has images and no servers."""
    return {'name': name, 'driver': 'fake', 'cloud': 'fake', 'region-name': 'fake-region', 'rate': 0.001,
            'diskimages': [{'name': image} for image in images], 'pools': [], **more}


def record_state(client):
    """One line of what is recorded, for figures."""
    def counted(found):
        states = [record['state'] for record in found.values()]
        return ' '.join(f'{states.count(state)} {state}' for state in sorted(set(states))) or 'none'
    return f'builds {counted(records.builds(client))}; uploads {counted(records.uploads(client))}'


def contenders(client):
    """Paths of locks under /nodepool/images that somebody holds or waits for."""
    found, left = [], ['/nodepool/images']
    while left:
        path = left.pop()
        below = client.get_children(path) if client.exists(path) else []
        if path.endswith('/lock'):
            found += [f'{path}/{name}' for name in below]
        else:
            left += [f'{path}/{name}' for name in below]
    return found


def check_quiet_locks(client):
    check(not contenders(client), f'locks are held: {contenders(client)}')
