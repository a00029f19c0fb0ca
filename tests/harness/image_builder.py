"""A host that is reached by ssh, as image-builder hosts and static nodes are: sshd in namespaces of its own. Needs root."""
import pathlib
import socket
import subprocess

from . import TESTS, free_port, wait_for
from .services import Process

HOST = TESTS / 'services/image-builder/host'
ADDRESS = '127.0.0.3'
NAMESPACES = ['unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc']


def key(path):
    """Makes a pair of keys; returns the public one."""
    subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'test', '-f', path], check=True)
    return pathlib.Path(f'{path}.pub').read_text()


class ImageBuilder(Process):
    """An image-builder host: sshd with the user nodepool, on an address of its own."""

    def __init__(self, directory, authorized):
        directory.mkdir()
        self.port = free_port()
        self.key = ' '.join(key(directory / 'host_key').split()[:2])
        (directory / 'authorized_keys').write_text(authorized)
        (directory / 'sshd_config').write_text('\n'.join([
            f'Port {self.port}', f'ListenAddress {ADDRESS}', f'HostKey {directory}/host_key', 'PidFile none', 'UsePAM no',
            'StrictModes no', 'Subsystem sftp /usr/lib/openssh/sftp-server', '']))
        super().__init__([*NAMESPACES, HOST, directory, '2g', 'ALL'], directory / 'log')

    def start(self):
        super().start()

        def listens():
            if not self.running():
                raise RuntimeError(f'the image-builder host ended:\n{self.tail()}')
            with socket.socket() as s:
                return s.connect_ex((ADDRESS, self.port)) == 0
        wait_for('up: the image-builder host', listens, 30)
        return self

    def authorize(self, public_key):
        """From now on it takes this key only; its home is in a mount namespace of its own."""
        pathlib.Path(f'/proc/{self.pid}/root/home/nodepool/.ssh/authorized_keys').write_text(public_key)

    @property
    def fingerprint(self):
        found = subprocess.run(['ssh-keygen', '-l', '-f', self.log.parent / 'host_key.pub'], check=True,
                               capture_output=True, text=True)
        return found.stdout.split()[1]
