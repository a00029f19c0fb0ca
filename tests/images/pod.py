"""A pod as the operator's specifications describe it, run by runc: its volumes, its hosts, one container after another.

What kubelet and containerd would do, in short: emptyDirs that the pod's group may write to, files of ConfigMaps and
Secrets owned by root, an entry for a service's name in /etc/hosts, the container's command in the place of the image's
entry point, no capability, limits by cgroups; the rest is in harness/runc.py. Two things are stricter than with the
operator: the root file system is read-only, and no directory of the image is written to.

The network is that of whoever runs this: a namespace of the test's own, so that 8006 is free.
"""
import os
import pathlib

from harness import runc

MB = 1 << 20


class Pod:
    """`uid`: 1001 on plain Kubernetes; a large one, that no file knows, on OpenShift. The group is 0 on both."""

    def __init__(self, directory, image, uid, hosts=(), fs_group=1000690000):
        self.directory = pathlib.Path(directory)
        self.image, self.uid, self.fs_group = image, uid, fs_group
        self.state = self.directory / 'runc'
        self.mounts = []
        self.env = {}
        self.directory.mkdir(parents=True)
        hosts_file = self.file('hosts', '127.0.0.1 localhost\n' + ''.join(f'127.0.0.1 {name}\n' for name in hosts))
        self.mount('/etc/hosts', hosts_file)
        self.mount('/etc/resolv.conf', self.file('resolv.conf', ''))
        self.mount('/etc/hostname', self.file('hostname', f'{image.name}-0\n'))
        self.dev_log = self.empty_dir('termination')

    def empty_dir(self, name):
        """A volume that each container of the pod may write to."""
        path = self.directory / 'volumes' / name
        path.mkdir(parents=True)
        os.chown(path, 0, self.fs_group)
        path.chmod(0o2777)
        return path

    def file(self, name, content, mode=0o644):
        """A file of a ConfigMap or Secret."""
        path = self.directory / 'files' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)
        return path

    def mount(self, path, source, writable=False):
        self.mounts.append(runc.bind(source, path, writable))

    def container(self, name, command, cpu, memory, env=None, mounts=()):
        """CPUs as in `500m`: 0.5; memory in MiB; mounts beside the pod's: (path, source)."""
        config = self.image.config
        environment = self.image.environment() | self.env | (env or {})
        mounts = [*self.mounts, *(runc.bind(source, path) for path, source in mounts)]
        return Container(self.state, self.directory / name, runc.specification(
            self.image.root, command, self.uid, 0, [self.fs_group], environment, mounts, f'{self.image.name}-0',
            cwd=config.get('WorkingDir') or '/', memory=memory * MB, cpu=cpu))


class Container(runc.Container):
    """One that tells what it uses."""

    def usage(self, controller, file):
        """A number of the container's cgroup."""
        return int(pathlib.Path('/sys/fs/cgroup', controller, self.cgroup, file).read_text())

    def cpu_seconds(self):
        return self.usage('cpuacct', 'cpuacct.usage') / 1e9

    def peak_memory(self):
        return self.usage('memory', 'memory.max_usage_in_bytes') / MB
