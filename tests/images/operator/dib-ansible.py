#!/usr/bin/env python3
"""The wrapper that the operator mounts: an image by a playbook on the image-builder host."""
import argparse
import os
import subprocess
import sys

DIRECTORY = '/var/lib/nodepool/config/nodepool/dib-ansible'


def main():
    parser = argparse.ArgumentParser()
    for flag in ('-x', '--checksum', '--no-tmpfs'):
        parser.add_argument(flag, action='store_true')
    parser.add_argument('--qemu-img-options')
    parser.add_argument('-t', dest='formats', default='qcow2')
    parser.add_argument('-o', dest='output', required=True)
    parser.add_argument('playbook')
    arguments = parser.parse_args()
    print('the mounted wrapper', flush=True)
    playbook = arguments.playbook
    if not os.path.exists(playbook):
        playbook = os.path.join(DIRECTORY, playbook)
    command = ['/usr/bin/ansible-playbook', '-v', '-i', os.path.join(DIRECTORY, 'inventory.yaml'), playbook,
               '-e', f'image_output={arguments.output}']
    for name in arguments.formats.split(','):
        command += ['-e', f'{name}_type=True']
    return subprocess.run(command).returncode


if __name__ == '__main__':
    sys.exit(main())
