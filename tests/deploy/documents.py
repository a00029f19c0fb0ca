"""The commands of docs/install.md, run as they are written: each block in a shell, in a copy of the repository."""
import os
import pathlib
import re
import shutil
import subprocess

from checks import DEPLOY, Skip, check, kubectl, need_root, programs
from harness.documents import INSTALL, blocks, commands, is_run

# The sections that are run here.
RUN = {'A trial on a simulated cloud', 'A site', 'A host with systemd'}


def sections():
    """Title -> its blocks of commands."""
    found = {}
    title = None
    for part in re.split(r'(?m)^(#{2,3} .*)$', INSTALL.read_text()):
        if part.startswith('#'):
            title = part.lstrip('# ')
        elif title:
            if commands := blocks(part):
                found[title] = commands
    return found


class Copy:
    """A copy of what the commands need of the repository, and the files that a reader of the document has."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.repository = self.directory / 'repository'
        shutil.copytree(DEPLOY, self.repository / 'deploy')
        release = self.repository / 'target/release'
        release.mkdir(parents=True)
        for name, path in programs().items():
            (release / name).symlink_to(path)
        for name in 'ca.crt', 'tls.crt', 'tls.key':
            (self.repository / name).write_text('not looked at here\n')
        (self.repository / 'clouds.yaml').write_text('clouds: {}\n')
        self.path = f'{release}:{pathlib.Path(kubectl()).parent}:/usr/sbin:/usr/bin:/sbin:/bin'

    def run(self, blocks, wrapper=(), **environment):
        """Runs what is to be run of a section; says how much that was."""
        did = left = 0
        for number, block in enumerate(blocks, 1):
            wanted = [c for c in block if is_run(c)]
            did, left = did + len(wanted), left + len(block) - len(wanted)
            if not wanted:
                continue
            # Each command is shown before it is run, so that a failure is found.
            script = self.directory / 'block'
            script.write_text('set -euo pipefail\nset -v\n' + '\n'.join(wanted) + '\n')
            done = subprocess.run([*wrapper, 'bash', script], cwd=self.repository, capture_output=True, text=True, timeout=120,
                                  stdin=subprocess.DEVNULL,
                                  env={'PATH': self.path, 'HOME': str(self.directory), 'LANG': 'C.UTF-8', **environment})
            check(done.returncode == 0, f'block {number}: status {done.returncode}:\n{done.stdout[-1500:]}\n{done.stderr[-2500:]}')
        return f'{did} commands run, {left} not'


def reasons():
    """Each command is run, or says why not."""
    found = sections()
    # tests/monitoring sees to it that each of the others says why not.
    ran = {title: sum(is_run(c) for block in commands for c in block) for title, commands in found.items()}
    missing = {title for title, count in ran.items() if count} - RUN
    check(sum(ran.values()) >= 20 and not missing, f'only {ran} are run, and nobody runs {missing}')
    return f'{sum(ran.values())} are, {len(commands(INSTALL)) - sum(ran.values())} not'


def on_cluster(copy, cluster, title):
    return copy.run(sections()[title], KUBECONFIG=cluster.environment['KUBECONFIG'])


def kubernetes(counts, cluster, directory):
    """The sections for Kubernetes, on the API server that `cluster` is connected to."""
    copy = Copy(directory)

    def trial():
        """The commands of the trial on Kubernetes."""
        return on_cluster(copy, cluster, 'A trial on a simulated cloud')

    def site():
        """The commands of a site on Kubernetes."""
        cluster.service_monitor_type()
        found = on_cluster(copy, cluster, 'A site')
        secret = cluster.kube.call('GET', '/api/v1/namespaces/nodepool/secrets/nodepool-builder-ssh-key')
        check(secret['data'].keys() == {'priv', 'pub'}, secret['data'].keys())
        return found
    counts.run(trial)
    counts.run(site)


# What the commands for a host write is this command's own: /etc is a copy, the others are empty.
HOST = r'''
set -e
cp -a /etc "$0/etc"
mount --bind "$0/etc" /etc
for at in /usr/local/bin /usr/local/share /var/lib; do mkdir -p "$0$at"; mount --bind "$0$at" "$at"; done
exec "$@"
'''


def host(directory):
    """The commands for a host with systemd."""
    need_root()
    if not shutil.which('systemd-sysusers'):
        raise Skip('systemd is missing')
    copy = Copy(directory)
    found = copy.run(sections()['A host with systemd'], wrapper=('unshare', '--mount', 'sh', '-c', HOST, str(directory)))
    passwd = (directory / 'etc/passwd').read_text()
    [user] = [line.split(':') for line in passwd.splitlines() if line.startswith('nodepool:')]
    images = (directory / 'var/lib/nodepool/images').stat()
    check(images.st_uid == int(user[2]), f'images-dir belongs to {images.st_uid}, the user is {user}')
    config = (directory / 'etc/nodepool/nodepool.yaml').stat()
    check(config.st_gid == int(user[3]) and oct(config.st_mode & 0o777) == '0o640', config)
    for name in programs():
        check(os.access(directory / 'usr/local/bin' / name, os.X_OK), f'{name} is not installed')
    for name in ('etc/bash_completion.d/nodepool', 'etc/fish/completions/nodepool.fish',
                 'usr/local/share/zsh/site-functions/_nodepool', 'usr/local/share/man/man1/nodepool-list.1'):
        check((directory / name).stat().st_size > 1000, f'{name} has not much in it')
    return found


def checks(counts, directory):
    directory.mkdir()
    counts.run(reasons)
    (directory / 'host').mkdir()
    counts.run(host, directory / 'host')
