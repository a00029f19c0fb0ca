"""Containers by runc, as a kubelet has containerd start them: no new privileges, the runtime's default seccomp profile, the
root file system of an image or of this machine, mounts, limits by cgroups.

What a container is made of comes from the tests that use it. All of them share the network of whoever runs this: a
namespace of the test's own where ports are fixed.
"""
import itertools
import json
import os
import pathlib
import subprocess

from . import ROOT
from .services import Process

BUILD = ROOT / 'deploy/images/build'
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

    def __init__(self, name):
        self.name = name
        self.root = pathlib.Path(subprocess.check_output([BUILD, 'mount', name], text=True).strip())
        self.config = json.loads(subprocess.check_output([BUILD, 'inspect', name], text=True))['OCIv1']['config']

    def environment(self):
        return dict(entry.split('=', 1) for entry in self.config['Env'])

    def close(self):
        subprocess.run([BUILD, 'umount', self.name], check=True, stdout=subprocess.DEVNULL)


def bind(source, to, writable=False):
    """A directory or file of this machine, mounted into a container."""
    return {'destination': str(to), 'type': 'bind', 'source': str(source),
            'options': ['rbind', 'rprivate', 'nosuid', 'nodev', 'rw' if writable else 'ro']}


def specification(root, command, user, group, groups, environment, mounts, hostname, cwd='/', read_only=True, capabilities=(),
                  memory=None, cpu=None):
    """config.json of a container. `mounts`: of `bind`; `memory`: bytes; `cpu`: CPUs, as in `500m`: 0.5."""
    held = [f'CAP_{name}' for name in capabilities]
    linux = {
        'namespaces': [{'type': kind} for kind in ('pid', 'ipc', 'uts', 'mount')],
        'resources': {'devices': [{'allow': False, 'access': 'rwm'}]},
        'maskedPaths': ['/proc/acpi', '/proc/kcore', '/proc/keys', '/proc/timer_list', '/sys/firmware'],
        'readonlyPaths': ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
    }
    if memory:
        linux['resources']['memory'] = {'limit': memory}
    if cpu:
        linux['resources']['cpu'] = {'quota': int(cpu * 100_000), 'period': 100_000}
    # That of a container with capabilities has more in it.
    if SECCOMP.exists() and not capabilities:
        linux['seccomp'] = seccomp()
    return {
        'ociVersion': '1.0.2',
        'process': {
            'user': {'uid': user, 'gid': group, 'additionalGids': list(groups)},
            'args': [str(word) for word in command],
            'env': [f'{name}={value}' for name, value in environment.items()],
            'cwd': cwd,
            'capabilities': {kind: held for kind in ('bounding', 'effective', 'permitted', 'inheritable')} | {'ambient': []},
            'noNewPrivileges': True,
        },
        'root': {'path': str(root), 'readonly': read_only},
        'hostname': hostname,
        'mounts': [
            {'destination': '/proc', 'type': 'proc', 'source': 'proc', 'options': ['nosuid', 'noexec', 'nodev']},
            {'destination': '/dev', 'type': 'tmpfs', 'source': 'tmpfs',
             'options': ['nosuid', 'strictatime', 'mode=755', 'size=65536k']},
            {'destination': '/dev/pts', 'type': 'devpts', 'source': 'devpts',
             'options': ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5']},
            {'destination': '/dev/shm', 'type': 'tmpfs', 'source': 'shm',
             'options': ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k']},
            {'destination': '/sys', 'type': 'bind', 'source': '/sys', 'options': ['rbind', 'nosuid', 'noexec', 'nodev', 'ro']},
            *mounts,
        ],
        'linux': linux,
    }


class Container(Process):
    """A container that runs while the block runs, its output in a file. `state`: runc's directory for those that know of each
    other; `bundle`: a new directory."""

    def __init__(self, state, bundle, spec, grace=30):
        bundle = pathlib.Path(bundle)
        bundle.mkdir(parents=True, exist_ok=True)
        self.name = f'nodepool-test-{bundle.name}-{os.getpid()}-{next(_numbers)}'
        self.cgroup = self.name
        spec['linux']['cgroupsPath'] = f'/{self.cgroup}'
        (bundle / 'config.json').write_text(json.dumps(spec, indent=1))
        self.runc = ['runc', '--root', str(state)]
        super().__init__([*self.runc, 'run', '--bundle', bundle, self.name], bundle / 'log', grace=grace)

    def attempt(self, *command, env=None, timeout=60):
        """As kubectl exec: the container's user, environment and limits; with status and output, whatever came of it."""
        arguments = [word for name, value in (env or {}).items() for word in ('--env', f'{name}={value}')]
        return subprocess.run([*self.runc, 'exec', *arguments, self.name, *map(str, command)], timeout=timeout,
                              capture_output=True, stdin=subprocess.DEVNULL, text=True)

    def exec(self, *command, env=None, timeout=60):
        """The same for a command that must succeed; returns what it printed."""
        done = self.attempt(*command, env=env, timeout=timeout)
        if done.returncode:
            raise AssertionError(f'{self.name}: {" ".join(map(str, command))}: status {done.returncode}:\n'
                                 f'{done.stdout}{done.stderr}')
        return done.stdout

    def signal(self, signum):
        """To the container's first process, as kubelet does."""
        subprocess.run([*self.runc, 'kill', self.name, str(int(signum))], check=True, stderr=subprocess.DEVNULL)

    def ends(self, timeout):
        """Waits for the end; its exit status."""
        return self.child.wait(timeout)

    def output(self):
        return self.log.read_text(errors='replace')

    def kill(self, *signum):
        """The container's processes, and runc."""
        self.remove()
        super().kill(*signum)

    def remove(self):
        """What there is of it any more, its processes included."""
        subprocess.run([*self.runc, 'delete', '--force', self.name], check=False, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def __exit__(self, *exc):
        self.stop()
        self.remove()
