"""The commands of docs/install.md, run as they are written: each block in a shell, in a copy of the repository."""
import os
import pathlib
import re
import shutil
import subprocess

from checks import DEPLOY, ROOT, Skip, check, kubectl, need_root, programs

DOCUMENT = ROOT / 'docs/install.md'
# Why a command is not run stands behind it.
NOT_RUN = re.compile(r'\s+# not run\b[^:,]*[:,] \S')


def commands(block):
    """A block's commands; one that ends with | or \\ goes on in the next line."""
    found = []
    for line in block.splitlines():
        if found and found[-1].endswith(('|', '\\')):
            found[-1] += f'\n{line}'
        elif line.strip():
            found.append(line)
    return found


def sections():
    """Title -> its blocks of commands."""
    found = {}
    title = None
    for part in re.split(r'(?m)^(#{2,3} .*)$', DOCUMENT.read_text()):
        if part.startswith('#'):
            title = part.lstrip('# ')
        elif title:
            blocks = re.findall(r'(?ms)^ *```sh\n(.*?)^ *```$', part)
            if blocks:
                found[title] = [commands(block) for block in blocks]
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
            wanted = [c for c in block if not NOT_RUN.search(c)]
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
    """Each command is run, or the document says why not."""
    found = sections()
    marked = [c for blocks in found.values() for block in blocks for c in block if '# not run' in c]
    for command in marked:
        check(NOT_RUN.search(command), f'no reason: {command}')
    ran = {title: sum(not NOT_RUN.search(c) for block in blocks for c in block) for title, blocks in found.items()}
    check(sum(ran.values()) >= 20, f'only {ran} are run')
    return f'{sum(ran.values())} are, {len(marked)} not'


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
for at in /usr/local/bin /var/lib; do mkdir -p "$0$at"; mount --bind "$0$at" "$at"; done
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
    return found


def links():
    """Each link between the documents leads to a file and a title that are there."""
    count = 0
    for path in DOCUMENT, DEPLOY / 'README.md':
        for target in re.findall(r'\]\(([^)]+)\)', path.read_text()):
            if '://' in target:
                continue
            file, _, anchor = target.partition('#')
            there = (path.parent / file).resolve() if file else path
            check(there.exists(), f'{path.name}: {target}')
            if anchor:
                titles = {re.sub(r'[^\w -]', '', t.lower()).strip().replace(' ', '-')
                          for t in re.findall(r'(?m)^#+ (.*)$', there.read_text())}
                check(anchor in titles, f'{path.name}: {target}')
            count += 1
    return f'{count} links'


def checks(counts, directory):
    directory.mkdir()
    counts.run(reasons)
    counts.run(links)
    (directory / 'host').mkdir()
    counts.run(host, directory / 'host')
