"""Containers as a kubelet starts them, by runc: on the images, or on this machine's own /usr with our programs.

Without `images` the root is not that of deploy/images: it has nothing but this machine's /usr, a few files of /etc, and
our programs in /usr/local/bin. What is the manifests' own is real: user and groups, read-only root, no capabilities,
no new privileges, the runtime's default seccomp profile, limits of memory, mounts (secrets and ConfigMaps with the
symbolic links of a kubelet), environment, command. All containers share this script's network, so that every port is
the manifests' too.
"""
import os
import pathlib
import shutil

from checks import Skip, check, programs
from harness import runc

# Of this machine's /etc: what programs in /usr look for there.
ETC = ['alternatives', 'ssl', 'ssh/ssh_config', 'java-17-openjdk', 'java-21-openjdk', 'python3.11']
UNITS = {'Ki': 1 << 10, 'Mi': 1 << 20, 'Gi': 1 << 30}


def bytes_of(quantity):
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


class Projected:
    """A mounted ConfigMap or secret: the files are links by way of `..data`, which an update exchanges at once."""

    def __init__(self, directory, mode, group):
        self.directory, self.mode, self.group, self.version = pathlib.Path(directory), mode, group, 0
        self.directory.mkdir(parents=True)

    def update(self, files):
        self.version += 1
        made = self.directory / f'..{self.version}'
        made.mkdir()
        for key, content in files.items():
            path = made / key
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            os.chown(path, 0, self.group)
            path.chmod(self.mode)
        new = self.directory / '..data_tmp'
        new.symlink_to(made.name)
        new.rename(self.directory / '..data')
        for key in files:
            link = self.directory / key
            if not link.is_symlink():
                link.symlink_to(f'..data/{key}')
        for link in self.directory.iterdir():
            if not link.name.startswith('..') and link.name not in files:
                link.unlink()
        old = self.directory / f'..{self.version - 1}'
        if old.exists():
            shutil.rmtree(old)


class Runtime:
    """runc with a state of its own. `images`: containers run on what deploy/images/build has built."""

    def __init__(self, directory, hosts, images=False):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True)
        self.hosts = self.directory / 'hosts'
        self.hosts.write_text(f'127.0.0.1 localhost {" ".join(hosts)}\n')
        self.images = {}
        if images:
            self.images = {name: runc.Image(name) for name in ('nodepool-launcher', 'nodepool-builder')}
        self.programs = {} if images else programs()
        if not shutil.which('runc'):
            raise Skip('runc is missing: tests/setup deploy')
        if not images and not shutil.which('dumb-init'):
            raise Skip('dumb-init is missing: tests/setup deploy')
        self.local = self.directory / 'usr-local-bin'
        self.local.mkdir()
        for name, path in self.programs.items():
            (self.local / name).symlink_to(f'/opt/{name}/{path.name}')
        (self.local / 'dumb-init').symlink_to('/usr/bin/dumb-init')
        self.works()

    def works(self):
        """Whether containers can be run here at all."""
        probe = Container(self, 'probe', ['/bin/true'], user=1001, groups=[], environment={}, mounts=[], memory=64 << 20)
        with probe:
            if probe.ends(60):
                raise Skip(f'runc cannot run containers here: {probe.output().strip()[-300:]}')

    def close(self):
        for image in self.images.values():
            image.close()

    def machine_root(self, root):
        """A root of this machine's /usr and our programs: what is to be mounted into it."""
        for directory in ('usr', 'etc/ssh', 'dev', 'proc', 'tmp', 'var/lib/nodepool', 'run'):
            (root / directory).mkdir(parents=True)
        for link in 'bin', 'sbin', 'lib', 'lib64':
            (root / link).symlink_to(f'usr/{link}')
        (root / 'etc/passwd').write_text('root:x:0:0::/root:/bin/sh\nzookeeper:x:1000:1000::/:/bin/sh\n'
                                         'nodepool:x:1001:1001::/var/lib/nodepool:/bin/sh\n')
        (root / 'etc/group').write_text('root:x:0:\nzookeeper:x:1000:\nnodepool:x:1001:\n')
        binds = [('/usr', '/usr', True), (self.local, '/usr/local/bin', True)]
        binds += [(path.parent, f'/opt/{program}', True) for program, path in self.programs.items()]
        return binds + [(f'/etc/{entry}', f'/etc/{entry}', True) for entry in ETC if os.path.exists(f'/etc/{entry}')]


class Container(runc.Container):
    """One container of a runtime. `image`: its name, as deploy/images/build has it; `mounts`: (source, path, read-only)."""

    def __init__(self, runtime, name, args, user, groups, environment, mounts, memory, grace=30, hostname=None,
                 capabilities=(), read_only=True, image=None):
        bundle = runtime.directory / name
        image = runtime.images.get(image)
        if image:
            root, binds, environment = image.root, [], {**image.environment(), **environment}
        else:
            root = bundle / 'root'
            binds = runtime.machine_root(root)
            environment = {'PATH': '/usr/local/bin:/usr/bin:/bin', **environment}
        binds += [(runtime.hosts, '/etc/hosts', True), *mounts]
        super().__init__(runtime.directory / 'state', bundle, runc.specification(
            root, args, user, user, groups, environment,
            [runc.bind(source, to, writable=not read_only) for source, to, read_only in binds],
            hostname or name, read_only=read_only, capabilities=capabilities, memory=memory), grace)

    def whole(self):
        """Runs it to its end."""
        with self:
            status = self.ends(60)
            check(status == 0, f'{self.name} ended with {status}:\n{self.tail()}')


class Volumes:
    """The volumes of pods below a directory, made as a kubelet does, from the objects of an overlay and secrets."""

    def __init__(self, directory, objects, secrets):
        self.directory, self.secrets, self.projected = pathlib.Path(directory), secrets, {}
        self.config_maps = {o['metadata']['name']: o['data'] for o in objects if o['kind'] == 'ConfigMap'}

    def of(self, pod, template, claims=()):
        """Volume name -> its directory."""
        spec = template['spec']
        group = spec['securityContext']['fsGroup']
        made = {}
        for volume in spec['volumes']:
            directory = made[volume['name']] = self.directory / pod / volume['name']
            if 'emptyDir' in volume:
                self.shared(directory, group, 0o2777)
                continue
            source = volume.get('configMap') or volume['secret']
            # kubectl and kustomize show modes as decimal numbers.
            mode = source.get('defaultMode', 0o644)
            files = (self.config_maps if 'configMap' in volume else self.secrets).get(source.get('name') or source['secretName'])
            check(files is not None or source.get('optional'), f'{pod} would wait for {source}')
            projected = self.projected[pod, volume['name']] = Projected(directory, mode, group)
            projected.update(files or {})
        for claim in claims:
            made[claim['metadata']['name']] = self.directory / pod / claim['metadata']['name']
            self.shared(made[claim['metadata']['name']], group, 0o2775)
        return made

    def shared(self, directory, group, mode):
        directory.mkdir(parents=True)
        os.chown(directory, 0, group)
        directory.chmod(mode)


def container_of(runtime, volumes, workload, which, command=None, more=()):
    """The container `which` of a workload's first pod, ready to be started."""
    template = workload['spec']['template']
    spec = template['spec']
    [container] = [c for c in [*spec.get('initContainers', []), *spec['containers']] if c['name'] == which]
    security = spec['securityContext']
    environment = {e['name']: e['value'] for e in container.get('env', [])}
    for source in container.get('envFrom', []):
        environment |= volumes.config_maps.get(source['configMapRef']['name'], {})
    directories = volumes.made[workload['metadata']['name']]
    mounts = [(directories[m['name']], m['mountPath'], m.get('readOnly', False)) for m in container.get('volumeMounts', [])]
    mounts += more
    return Container(runtime, which, command or [*container.get('command', []), *container.get('args', [])],
                     user=security['runAsUser'], groups=[security['fsGroup']], environment=environment,
                     # Parents before what lies in them.
                     mounts=sorted(mounts, key=lambda m: m[1]), memory=bytes_of(container['resources']['limits']['memory']),
                     grace=spec.get('terminationGracePeriodSeconds', 30), hostname=f'{workload["metadata"]["name"]}-0',
                     read_only=container['securityContext']['readOnlyRootFilesystem'], image=image_name(container['image']))


def image_name(reference):
    """The last part of an image's name, without its version."""
    return reference.rpartition('/')[2].partition(':')[0]
