"""The systemd units on a systemd: the real one, first process of a container of runc, with a copy of /etc and this
machine's /usr. What the units forbid is forbidden by the kernel, so what launcher, builder and builds need is seen."""
import json
import os
import pathlib
import re
import shutil
import time

import yaml

from checks import DEPLOY, TESTS, Skip, check, need_root, programs, run
from harness import CACHE, free_port, wait_for
from harness.services import Process
from pods import get

UNITS = DEPLOY / 'systemd'
DAEMONS = ['nodepool-launcher', 'nodepool-builder']
CAPABILITIES = '''CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_ADMIN NET_RAW
SYS_CHROOT SYS_PTRACE SYS_ADMIN SYS_NICE MKNOD AUDIT_WRITE SETFCAP LINUX_IMMUTABLE IPC_LOCK'''.split()

# What a build may want of the machine: OpenSSH, Python with processes of its own, Ansible. Its image is a megabyte.
BUILD = '''#!/bin/sh
set -e
ssh -G image-builder.example.org | grep -i userknownhostsfile
python3 -c 'import multiprocessing; multiprocessing.Lock(); print("python: processes")'
{ansible}
head -c 1000000 /dev/urandom > "$DIB_IMAGE_FILENAME.qcow2"
'''
PLAYBOOK = '''- hosts: localhost
  tasks:
  - ansible.builtin.command: /bin/echo played
    register: said
  - ansible.builtin.debug: {var: said.stdout}
'''


class Host:
    """A machine with systemd, which has the units installed; its network is this script's."""

    def __init__(self, directory):
        need_root()
        for program in 'runc', 'systemd-sysusers':
            if not shutil.which(program):
                raise Skip(f'{program} is missing')
        self.directory = pathlib.Path(directory)
        self.root = self.directory / 'root'
        self.programs = programs()
        self.name = f'nodepool-host-{os.getpid()}'
        self.zookeeper = self.machine = None
        self.files()
        self.configuration()
        self.bundle()

    def files(self):
        for entry in 'usr', 'var/log', 'var/lib', 'run', 'tmp', 'proc', 'sys', 'dev', 'opt', 'root':
            (self.root / entry).mkdir(parents=True)
        for link in 'bin', 'sbin', 'lib', 'lib64':
            (self.root / link).symlink_to(f'usr/{link}')
        etc = self.root / 'etc'
        etc.mkdir()
        for entry in 'passwd', 'group', 'shadow', 'nsswitch.conf', 'ssl', 'ssh/ssh_config', 'alternatives', 'python3.11':
            run('cp', '-a', '--parents', f'/etc/{entry}', self.root, cwd='/')
        (etc / 'hosts').write_text('127.0.0.1 localhost zookeeper.example.org\n')
        (etc / 'machine-id').write_text('')
        (etc / 'os-release').write_text('ID=debian\n')
        units = etc / 'systemd/system'
        units.mkdir(parents=True)
        for daemon in DAEMONS:
            shutil.copy(UNITS / f'{daemon}.service', units)
        # Nothing of the machine's own services.
        (units / 'nodepool-host.target').write_text('[Unit]\nAllowIsolate=yes\n')
        for kind in 'sysusers', 'tmpfiles':
            (etc / f'{kind}.d').mkdir()
            shutil.copy(UNITS / f'nodepool.{kind}.conf', etc / f'{kind}.d/nodepool.conf')
        (etc / 'default').mkdir()
        shutil.copy(UNITS / 'nodepool.default', etc / 'default/nodepool')
        run('systemd-sysusers', f'--root={self.root}')
        run('systemd-tmpfiles', f'--root={self.root}', '--create', 'nodepool.conf')
        [group] = re.findall(r'^nodepool:x:(\d+):', (etc / 'group').read_text(), re.MULTILINE)
        self.group = int(group)

    def configuration(self):
        """The example, its ZooKeeper with it, and something to build and to launch without a cloud."""
        directory = self.root / 'etc/nodepool'
        zookeeper = self.directory / 'zookeeper'
        self.zookeeper = Process([TESTS / 'services/zookeeper/run', zookeeper, str(free_port()), '2281'],
                                 self.directory / 'zookeeper.log')
        self.zookeeper.start()
        wait_for('made: certificates of ZooKeeper', (zookeeper / 'tls/client-operator.key').exists, 60)
        (directory / 'zookeeper').mkdir()
        for there, here in ('ca.pem', 'ca.crt'), ('client.pem', 'tls.crt'), ('client.key', 'tls.key'):
            self.give(directory / 'zookeeper' / here, (zookeeper / 'tls' / there).read_text())
        os.chown(directory / 'zookeeper', 0, self.group)
        ansible = CACHE / 'ansible/bin/ansible-playbook'
        self.ansible = ansible if ansible.exists() else None
        playing = f'{ansible} -i localhost, -c local /etc/nodepool/playbook.yaml' if self.ansible else ''
        self.give(directory / 'build-image', BUILD.format(ansible=playing), 0o750)
        self.give(directory / 'playbook.yaml', PLAYBOOK)
        config = yaml.safe_load((UNITS / 'nodepool.yaml').read_text())
        config['labels'].append({'name': 'trial-label', 'min-ready': 1})
        config['diskimages'] = [{'name': 'trial-image', 'dib-cmd': '/etc/nodepool/build-image'}]
        label = {'name': 'trial-label', 'diskimage': 'trial-image', 'min-ram': 8192}
        config['providers'].append({
            'name': 'trial-cloud', 'driver': 'fake', 'cloud': 'fake', 'diskimages': [{'name': 'trial-image'}],
            'pools': [{'name': 'main', 'max-servers': 3, 'labels': [label]}]})
        self.give(directory / 'nodepool.yaml', yaml.safe_dump(config))

    def give(self, path, text, mode=0o640):
        path.write_text(text)
        os.chown(path, 0, self.group)
        path.chmod(mode)

    def bundle(self):
        local = self.directory / 'usr-local-bin'
        local.mkdir()
        binds = [('/usr', '/usr'), (local, '/usr/local/bin')]
        for name, path in self.programs.items():
            (local / name).symlink_to(f'/opt/{name}/{path.name}')
            binds.append((path.parent, f'/opt/{name}'))
        if self.ansible:
            binds.append((self.ansible.parents[1], str(self.ansible.parents[1])))
        caps = [f'CAP_{c}' for c in CAPABILITIES]
        scratch = [('/dev', 'mode=755', 'tmpfs'), ('/dev/shm', 'mode=1777', 'shm'), ('/run', 'mode=755', 'tmpfs'),
                   ('/tmp', 'mode=1777', 'tmpfs')]
        (self.directory / 'config.json').write_text(json.dumps({
            'ociVersion': '1.0.2', 'hostname': 'nodepool-host', 'root': {'path': 'root'},
            'process': {
                'args': ['/lib/systemd/systemd', '--system', '--unit=nodepool-host.target'], 'cwd': '/',
                'env': ['PATH=/usr/local/bin:/usr/bin:/bin', 'container=runc'], 'user': {'uid': 0, 'gid': 0},
                'capabilities': {kind: caps for kind in ('bounding', 'effective', 'permitted', 'inheritable')}},
            'mounts': [{'destination': '/proc', 'type': 'proc', 'source': 'proc'},
                       *({'destination': to, 'type': 'tmpfs', 'source': source, 'options': [mode]} for to, mode, source in scratch),
                       {'destination': '/dev/pts', 'type': 'devpts', 'source': 'devpts',
                        'options': ['newinstance', 'ptmxmode=0666', 'mode=0620']},
                       {'destination': '/sys', 'type': 'bind', 'source': '/sys', 'options': ['rbind', 'ro']},
                       {'destination': '/sys/fs/cgroup', 'type': 'cgroup', 'source': 'cgroup', 'options': ['rw', 'nosuid', 'nodev']},
                       *({'destination': str(to), 'type': 'bind', 'source': str(source), 'options': ['rbind', 'ro']}
                         for source, to in binds)],
            'linux': {'namespaces': [{'type': kind} for kind in ('pid', 'ipc', 'uts', 'mount', 'cgroup')],
                      # What a systemd sets at boot is the machine's, too.
                      'readonlyPaths': ['/proc/sys', '/proc/sysrq-trigger'], 'cgroupsPath': f'/{self.name}'}}))

    def exec(self, *command, ok=True):
        return run('runc', '--root', self.directory / 'state', 'exec', self.name, *command, ok=ok)

    def shown(self, unit, property_):
        return self.exec('systemctl', 'show', '--value', '-p', property_, unit).stdout.strip()

    def boots(self):
        """systemd runs in a container, as on a host."""
        self.machine = Process(['runc', '--root', self.directory / 'state', 'run', '--bundle', self.directory, self.name],
                               self.directory / 'machine.log')
        self.machine.start()
        try:
            wait_for('up: systemd', lambda: self.exec('systemctl', 'is-system-running', ok=False).stdout.strip() == 'running', 30)
        except TimeoutError as error:
            raise Skip(f'systemd does not run in a container here: {error}: {self.machine.tail(5)}') from None

    def starts(self):
        """A systemd starts both units: the launcher is ready, through ZooKeeper's TLS."""
        self.exec('systemctl', 'start', *DAEMONS)
        try:
            wait_for('ready: the launcher', lambda: get('http://127.0.0.1:8005/ready')[0] == 200, 60, 0.2)
        except TimeoutError as error:
            raise TimeoutError(f'{error}: {self.journal("nodepool-launcher")}') from None

    def journal(self, unit, lines=15):
        return self.exec('journalctl', '--no-pager', '-u', unit, '-n', str(lines), ok=False).stdout

    def status(self, daemon):
        """A daemon's process id, and what the kernel says of that process."""
        pid = self.shown(daemon, 'MainPID')
        lines = self.exec('cat', f'/proc/{pid}/status').stdout.splitlines()
        return pid, dict(line.split(':\t', 1) for line in lines if ':\t' in line)

    def confined(self):
        """The kernel holds both to what the units say: no capabilities, no new privileges, a filter, a user."""
        for daemon in DAEMONS:
            pid, status = self.status(daemon)
            check(int(status['CapBnd'], 16) == 0 and int(status['CapEff'], 16) == 0, f'{daemon}: {status["CapBnd"]}')
            check(status['NoNewPrivs'] == '1' and status['Seccomp'] == '2', f'{daemon}: {status}')
            check('0' not in status['Uid'].split(), f'{daemon} is root')
            # As the daemon sees it: everything but its own directory is read-only.
            mounts = self.exec('cat', f'/proc/{pid}/mountinfo').stdout.splitlines()
            options = {line.split()[4]: line.split()[5].split(',') for line in mounts}
            check('ro' in options['/'], f'{daemon}: {options["/"]}')
            check('rw' in options['/var/lib/nodepool'], f'{daemon} cannot write below /var/lib/nodepool')

    def builds(self):
        """Under them a build may use OpenSSH, Python and Ansible; its image is uploaded and a node made of it."""
        nodepool = '/usr/local/bin/nodepool'

        def built():
            listed = self.exec(nodepool, 'dib-image-list').stdout
            if 'failed' in listed:
                log = ''.join(p.read_text() for p in (self.root / 'var/lib/nodepool/builds/logs').glob('*.log'))
                check(False, f'the build has failed:\n{log[-2000:]}')
            return 'ready' in listed
        wait_for('ready: trial-image', built, 60, 0.5)
        wait_for('ready: a node of it', lambda: ' ready ' in self.exec(nodepool, 'list').stdout, 60, 0.5)
        [log] = (self.root / 'var/lib/nodepool/builds/logs').glob('*.log')
        check('python: processes' in log.read_text(), log.read_text())
        check(not self.ansible or 'played' in log.read_text(), log.read_text())
        return 'with Ansible' if self.ansible else 'without Ansible: NODEPOOL_TEST_CACHE has none'

    def restarts(self):
        """Killed, a daemon is started again; with a wrong option it is not; stopped in order it stays down."""
        self.exec('systemctl', 'kill', '-s', 'KILL', 'nodepool-builder')
        wait_for('started again: the builder', lambda: self.shown('nodepool-builder', 'NRestarts') == '1'
                 and self.shown('nodepool-builder', 'ActiveState') == 'active', 30, 0.5)
        self.exec('systemctl', 'kill', '-s', 'USR1', 'nodepool-launcher')
        wait_for('ended: the launcher, after an orderly stop',
                 lambda: self.shown('nodepool-launcher', 'ActiveState') == 'inactive', 30, 0.2)
        check(self.shown('nodepool-launcher', 'Result') == 'success', self.journal('nodepool-launcher'))
        defaults = self.root / 'etc/default/nodepool'
        text = defaults.read_text()
        defaults.write_text(text.replace('NODEPOOL_LAUNCHER_OPTIONS=', 'NODEPOOL_LAUNCHER_OPTIONS=--no-such-option'))
        self.exec('systemctl', 'start', 'nodepool-launcher', ok=False)
        wait_for('failed: the launcher', lambda: self.shown('nodepool-launcher', 'ActiveState') == 'failed', 30, 0.2)
        check(self.shown('nodepool-launcher', 'ExecMainStatus') == '2', self.journal('nodepool-launcher'))
        defaults.write_text(text)
        self.exec('systemctl', 'start', 'nodepool-launcher')
        wait_for('ready again: the launcher', lambda: get('http://127.0.0.1:8005/ready')[0] == 200, 60, 0.2)

    def stops(self):
        """`systemctl stop` ends both in order, long before their time is up."""
        took = []
        for daemon in DAEMONS:
            began = time.monotonic()
            self.exec('systemctl', 'stop', daemon)
            seconds = time.monotonic() - began
            result = self.shown(daemon, 'Result'), self.shown(daemon, 'ExecMainStatus')
            check(result == ('success', '0'), f'{daemon}: {result}\n{self.journal(daemon)}')
            check(seconds < 20, f'{daemon} took {seconds:.0f} s')
            took.append(f'{daemon} {seconds:.1f} s')
        return ', '.join(took)

    def local_builds(self):
        """With the drop-in for builds on the host, the builder may do what sudo needs."""
        directory = self.root / 'etc/systemd/system/nodepool-builder.service.d'
        directory.mkdir()
        shutil.copy(UNITS / 'local-builds.conf', directory)
        self.exec('systemctl', 'daemon-reload')
        self.exec('systemctl', 'start', 'nodepool-builder')
        _, status = self.status('nodepool-builder')
        check(status['NoNewPrivs'] == '0' and status['Seccomp'] == '0', f'{status["NoNewPrivs"]}, {status["Seccomp"]}')
        check(int(status['CapBnd'], 16) >> 21 & 1, f'no CAP_SYS_ADMIN for its children: {status["CapBnd"]}')
        check('0' not in status['Uid'].split(), 'it is root itself')
        self.exec('systemctl', 'stop', 'nodepool-builder')

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        run('runc', '--root', self.directory / 'state', 'delete', '--force', self.name, ok=False)
        if self.machine:
            self.machine.stop()
        self.zookeeper.stop()


def checks(counts, directory):
    host = counts.made('A host with the units, and with the example configuration', Host, directory)
    if host:
        with host:
            counts.each(host.boots, host.starts, host.confined, host.builds, host.restarts, host.stops, host.local_builds)
