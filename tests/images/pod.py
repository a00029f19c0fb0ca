"""A pod as the operator's specifications describe it, run by runc: its volumes, its hosts, one container after another.

What kubelet and containerd would do, in short: emptyDirs that the pod's group may write to, files of ConfigMaps and
Secrets owned by root, an entry for a service's name in /etc/hosts, the container's command in the place of the image's
entry point, no capability, no new privileges, the runtime's default seccomp profile, limits by cgroups. Two things are
stricter than with the operator: the root file system is read-only, and no directory of the image is written to.

The network is that of whoever runs this: a namespace of the test's own, so that 8006 is free.
"""
import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess

from harness import services

MB = 1 << 20
SECCOMP = pathlib.Path('/usr/share/containers/seccomp.json')
_numbers = itertools.count()


def seccomp(profile=SECCOMP):
    """The runtime's default profile, for a container without capabilities on this machine, as runc takes it."""
    def applies(rule):
        wanted = rule.get('includes') or {}
        return not wanted.get('caps') and (not wanted.get('arches') or 'amd64' in wanted['arches'])

    def translated(rule):
        made = {'names': rule['names'], 'action': rule['action']}
        if rule.get('args'):
            made['args'] = rule['args']
        if rule['action'] == 'SCMP_ACT_ERRNO':
            made['errnoRet'] = rule.get('errnoRet', 1)
        return made

    source = json.loads(profile.read_text())
    return {
        'defaultAction': source['defaultAction'],
        'defaultErrnoRet': source.get('defaultErrnoRet', 1),
        'architectures': ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
        'syscalls': [translated(rule) for rule in source['syscalls'] if applies(rule)],
    }


class Image:
    """One that deploy/images/build has built: its files, and what its configuration says."""

    def __init__(self, build, name):
        self.name = name
        self.root = pathlib.Path(subprocess.check_output([build, 'mount', name], text=True).strip())
        self.config = json.loads(subprocess.check_output([build, 'inspect', name], text=True))['OCIv1']['config']


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
        self.mounts.append({'destination': path, 'type': 'bind', 'source': str(source),
                            'options': ['bind', 'rprivate', 'rw' if writable else 'ro']})

    def spec(self, command, cpu, memory, env, mounts):
        config = self.image.config
        environment = dict(entry.split('=', 1) for entry in config['Env']) | self.env | env
        none = {kind: [] for kind in ('bounding', 'effective', 'permitted', 'inheritable', 'ambient')}
        return {
            'ociVersion': '1.0.2',
            'process': {
                'user': {'uid': self.uid, 'gid': 0, 'additionalGids': [self.fs_group]},
                'args': command,
                'env': [f'{name}={value}' for name, value in environment.items()],
                'cwd': config.get('WorkingDir') or '/',
                'capabilities': none,
                'noNewPrivileges': True,
            },
            'root': {'path': str(self.image.root), 'readonly': True},
            'hostname': f'{self.image.name}-0',
            'mounts': [
                {'destination': '/proc', 'type': 'proc', 'source': 'proc', 'options': ['nosuid', 'noexec', 'nodev']},
                {'destination': '/dev', 'type': 'tmpfs', 'source': 'tmpfs',
                 'options': ['nosuid', 'strictatime', 'mode=755', 'size=65536k']},
                {'destination': '/dev/pts', 'type': 'devpts', 'source': 'devpts',
                 'options': ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5']},
                {'destination': '/dev/shm', 'type': 'tmpfs', 'source': 'shm',
                 'options': ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k']},
                {'destination': '/sys', 'type': 'bind', 'source': '/sys', 'options': ['rbind', 'nosuid', 'noexec', 'nodev', 'ro']},
                *self.mounts, *mounts,
            ],
            'linux': {
                'namespaces': [{'type': kind} for kind in ('pid', 'ipc', 'uts', 'mount')],
                'cgroupsPath': f'/nodepool-test-{os.getpid()}-{next(_numbers)}',
                'resources': {
                    'devices': [{'allow': False, 'access': 'rwm'}],
                    'memory': {'limit': memory * MB},
                    'cpu': {'quota': int(cpu * 100_000), 'period': 100_000},
                },
                'seccomp': seccomp(),
                'maskedPaths': ['/proc/acpi', '/proc/kcore', '/proc/keys', '/proc/timer_list', '/sys/firmware'],
                'readonlyPaths': ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
            },
        }

    def container(self, name, command, cpu, memory, env=None, mounts=()):
        """CPUs as in `500m`: 0.5; memory in MiB; mounts beside the pod's: (path, source)."""
        bundle = self.directory / name
        bundle.mkdir()
        extra = [{'destination': path, 'type': 'bind', 'source': str(source), 'options': ['bind', 'ro']}
                 for path, source in mounts]
        spec = self.spec(command, cpu, memory, env or {}, extra)
        (bundle / 'config.json').write_text(json.dumps(spec, indent=1))
        return Container(self, f'{name}-{os.getpid()}-{next(_numbers)}', bundle, spec)


class Container(services.Process):
    """A container that runs while the block runs."""

    def __init__(self, pod, name, bundle, spec):
        self.pod, self.name, self.spec = pod, name, spec
        self.runc = ['runc', '--root', str(pod.state)]
        super().__init__([*self.runc, 'run', '--bundle', bundle, name], bundle / 'log', grace=30)

    def exec(self, *command, env=None, check=True, timeout=60):
        """As kubectl exec: the container's user, environment and limits; returns what it printed, stderr included."""
        arguments = [word for name, value in (env or {}).items() for word in ('--env', f'{name}={value}')]
        done = subprocess.run([*self.runc, 'exec', *arguments, self.name, *map(str, command)], timeout=timeout,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
        if check and done.returncode:
            raise AssertionError(f'{" ".join(map(str, command))}: status {done.returncode}:\n{done.stdout}')
        return done.stdout

    def signal(self, signum):
        """To the container's first process, as kubelet does."""
        subprocess.run([*self.runc, 'kill', self.name, str(int(signum))], check=True, stderr=subprocess.DEVNULL)

    def usage(self, controller, file):
        """A number of the container's cgroup."""
        path = pathlib.Path('/sys/fs/cgroup', controller, self.spec['linux']['cgroupsPath'][1:], file)
        return int(path.read_text())

    def cpu_seconds(self):
        return self.usage('cpuacct', 'cpuacct.usage') / 1e9

    def peak_memory(self):
        return self.usage('memory', 'memory.max_usage_in_bytes') / MB

    def ends(self, timeout):
        """Waits for the end; its exit status."""
        return self.child.wait(timeout)

    def output(self):
        return self.log.read_text(errors='replace')

    def stop(self):
        if self.running():
            with contextlib.suppress(subprocess.CalledProcessError):
                self.signal(signal.SIGKILL)
            try:
                self.child.wait(self.grace)
            except subprocess.TimeoutExpired:
                self.kill()
        subprocess.run([*self.runc, 'delete', '--force', self.name], check=False, stderr=subprocess.DEVNULL)
        return self.child.returncode if self.child else None
