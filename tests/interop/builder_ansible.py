"""Images made by real Ansible on an image-builder host, over real SSH, uploaded to the real Glance, booted for Zuul."""
import json
import os
import pathlib
import shutil
import subprocess
import sys

from builder_clouds import clouds_file, provider
from cloud import OFTEN, Cloud, give_back, nothing_left
from harness import CACHE, VENV, binary, records, wait_for
from harness.image_builder import ADDRESS, NAMESPACES, ImageBuilder, key
from images import Site, check_quiet_locks, images_of, quiet
from world import FULFILLED, Skip, check, passed

ANSIBLE = CACHE / 'ansible/bin/ansible-playbook'
BUILT = ('by-wrapper', 'by-keys')
# Where the operator mounts its script, and a builder that has one there. Its group, its signals and its id stay the same.
MOUNTED = '/usr/local/bin/dib-ansible'
WITH_SCRIPT = ['unshare', '--mount', 'sh', '-ec',
               'mount -t tmpfs none /usr/local/bin; install -m 755 "$0" ' + MOUNTED + '; exec "$@"']

# The operator's documented example in its steps: Zuul's public keys there, the build, the image back.
PLAYBOOK = """
- name: My cloud image
  hosts: image-builder
  vars:
    built: /home/nodepool/my-image
  tasks:
    - name: Zuul's public keys
      copy:
        src: "{{{{ item }}}}"
        dest: /home/nodepool/
      loop: ['{keys}/zuul.pub', '{keys}/zuul-spare.pub']
    - name: Build
      shell: "cat zuul.pub zuul-spare.pub > {{{{ built }}}} && truncate -s 4M {{{{ built }}}}"
      args:
        chdir: /home/nodepool
    - name: Bring it
      ansible.posix.synchronize:
        mode: pull
        src: "{{{{ built }}}}"
        dest: "{{{{ image_output }}}}.raw"
      when: raw_type | default(false)
"""


# In the place of the operator's: it takes the same arguments, and makes another image.
SCRIPT = """#!{python}
import argparse
parser = argparse.ArgumentParser()
for flag in '-x', '--checksum', '--no-tmpfs':
    parser.add_argument(flag, action='store_true')
parser.add_argument('--qemu-img-options')
parser.add_argument('-t')
parser.add_argument('-o')
parser.add_argument('playbook')
args = parser.parse_args()
for form in args.t.split(','):
    with open(args.o + '.' + form, 'w') as image:
        image.write('made by the mounted script')
"""

HANGING = """
- hosts: image-builder
  tasks:
    - name: Hang
      shell: sleep 987654
      become: true
"""


def hanging():
    """Ids of what the hanging playbook runs, on whichever host of this machine."""
    found = []
    for process in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            if (process / 'cmdline').read_bytes().startswith(b'sleep\0' + b'987654'):
                found.append(process.name)
        except OSError:
            continue
    return found


def needed():
    if not ANSIBLE.exists():
        raise Skip(f'{ANSIBLE} is missing: tests/setup ansible')
    if subprocess.run([*NAMESPACES, 'true'], capture_output=True).returncode:
        raise Skip('no namespaces can be made here: it takes root')


def builder_ansible(world):
    if world.python:
        raise Skip('the trust in the host is a command of ours')
    needed()
    cloud = Cloud(world)
    directory = world.directory / 'dib-ansible'
    directory.mkdir()
    host = world.stack.enter_context(ImageBuilder(world.directory / 'host', key(directory / 'priv')))
    zuul_keys = [key(directory / 'zuul'), key(directory / 'zuul-spare')]
    known = directory / 'known_hosts'
    (directory / 'image.yaml').write_text(PLAYBOOK.format(keys=directory))
    (directory / 'hang.yaml').write_text(HANGING)
    (directory / 'inventory.yaml').write_text(json.dumps({'ungrouped': {'hosts': {'image-builder': {
        'ansible_host': ADDRESS, 'ansible_port': host.port, 'ansible_user': 'nodepool',
        'ansible_ssh_private_key_file': str(directory / 'priv'),
        'ansible_ssh_common_args': f'-o UserKnownHostsFile={known}'}}}}))
    script = directory / 'script'
    script.write_text(SCRIPT.format(python=os.path.realpath(sys.executable)))
    # As in the operator's pod, the home directory has the clone of the configuration repository.
    home = world.directory / 'home'
    extensions = home / 'config/nodepool/nodepool-extensions.yaml'
    extensions.parent.mkdir(parents=True)
    env = {**clouds_file(world, cloud), 'NODEPOOL_ANSIBLE_DIRECTORY': str(directory),
           'NODEPOOL_ANSIBLE_PLAYBOOK': str(ANSIBLE), 'HOME': str(home)}
    within = [*WITH_SCRIPT, script]

    boots = cloud.provider('cloud-a')
    del boots['cloud-images']
    for label in boots['pools'][0]['labels']:
        label['diskimage'] = 'by-wrapper'
        del label['cloud-image']
    boots['diskimages'] = provider(cloud, *BUILT)['diskimages']
    images = [{'name': 'by-wrapper', 'dib-cmd': f'{MOUNTED} image.yaml', 'formats': ['raw']},
              {'name': 'base', 'abstract': True, 'formats': ['raw'], 'dib-cmd': 'false'},
              {'name': 'by-keys', 'parent': 'base'}]
    site = Site(world, 'builder', images, [boots], labels=['np-tiny'])
    builder = site.start(env=env, arguments=['--cleanup-interval', 1, '--retry-interval', 5], within=within)

    def failed(name):
        return [record for (image, _), record in records.builds(site.client).items()
                if image == name and record['state'] == 'failed']
    wait_for('failed: the build on a host that nobody trusts', lambda: failed('by-wrapper'), 120)
    wait_for('failed: the build by a command that makes nothing', lambda: failed('by-keys'), 120)
    log = max(site.logs_dir.glob('by-wrapper-*.log'), key=os.path.getmtime).read_text()
    for text in (host.fingerprint, 'nodepool-builder trust-host'):
        check(text in log, f'{text} is not in the log:\n{log}')
    trust = subprocess.run([binary('nodepool-builder'), 'trust-host', f'nodepool@{ADDRESS}', '--port', str(host.port),
                            '--fingerprint', host.fingerprint, '--known-hosts', known], capture_output=True, text=True)
    check(trust.returncode == 0, f'trust-host: {trust.stdout}{trust.stderr}')
    passed(f'the unknown key {host.fingerprint} stopped the build; trust-host recorded it')
    extensions.write_text(json.dumps({
        'image-builders': [{'name': 'image-builder', 'host': ADDRESS, 'port': host.port, 'username': 'nodepool',
                            'min-free': 0.1, 'host-keys': [host.key]}],
        'diskimages': [{'name': 'by-keys', 'ansible': {'playbook': 'image.yaml', 'image-builder': 'image-builder'}}]}))
    for validates in (binary('nodepool'), VENV / 'bin/nodepool'):
        said = subprocess.run([validates, '-c', site.config, 'config-validate'], capture_output=True, text=True,
                              env={'HOME': str(home), 'PATH': os.environ['PATH']})
        check(said.returncode == 0, f'{validates}: {said.stdout}{said.stderr}')
    # The builder tries again by itself; a build that is asked for as well would be a second one.
    wait_for('ready: both images', lambda: all(map(site.ready_builds, BUILT)), 180)
    images_in = images_of(cloud)
    quiet_builds(site, images_in)
    for image in BUILT:
        [build] = site.ready_builds(image)
        made = (site.images_dir / '{}-{}.raw'.format(*build)).read_bytes()
        check(made.startswith(''.join(zuul_keys).encode()) and len(made) == 4 << 20, f'{build} is not what was built')
        log = (site.logs_dir / '{}-{}.log'.format(*build)).read_text()
        check('PLAY RECAP' in log, f'{build} has no playbook in its log')
        check("nodepool-builder's own dib-ansible" in log.splitlines()[0], f'{build}: its log begins with {log[:200]}')
    passed(f'two images by one playbook, though a script was mounted over {MOUNTED}: by that name, and by keys of the second '
           'file, which appeared alone: fetched, checksummed, in Glance')

    for path in (directory / 'priv', directory / 'priv.pub'):
        path.unlink()
    host.authorize(key(directory / 'priv'))
    site.build('by-keys')
    wait_for("ready: a build with the new key of the builder's", lambda: len(site.ready_builds('by-keys')) == 2, 120)
    quiet_builds(site, images_in)
    check(builder.running(), 'the builder has ended')
    passed("the builder's SSH key was replaced, and the old one no longer taken: the next build used the new one")

    config = shutil.copy(site.config, world.directory / 'launcher.yaml')
    launcher = world.launcher(config, env=env, arguments=OFTEN)
    request, nodeset = world.zuul.request(['np-tiny'])
    done = world.zuul.wait(request, 300)
    check(done.state == FULFILLED, f'the request ended {done.state}')
    world.zuul.accept(done, nodeset)
    world.zuul.use(nodeset)
    [node] = nodeset.getNodes()
    [upload] = [key for key in records.uploads(site.client) if key[0] == 'by-wrapper']
    image_id = records.nodes(site.client)[node.id]['image_id']
    check(image_id == records.upload_path(upload), f'image_id is {image_id}, the upload is {upload}')
    passed(f'node {node.id} boots from {image_id}')
    give_back(world, [nodeset])
    wait_for('gone: the node', lambda: not records.nodes(site.client), 120)
    check(launcher.stop() == 0, 'the launcher did not end with status 0')

    # A playbook that hangs, as root: a builder that is killed, then one that is stopped, leave nothing of it there.
    directories = {'images-dir': str(site.images_dir), 'build-log-dir': str(site.logs_dir)}
    extensions.unlink()
    world.write_config('builder', [], [provider(cloud, name='cloud-a')], diskimages=[
        {'name': 'by-file', 'dib-cmd': f'{MOUNTED} image.yaml', 'formats': ['raw'],
         'env-vars': {'NODEPOOL_BUILTIN_DIB_ANSIBLE': 'no'}}], **directories)
    wait_for('ready: the image by the mounted script', lambda: site.ready_builds('by-file'), 120)
    [build] = site.ready_builds('by-file')
    made = (site.images_dir / '{}-{}.raw'.format(*build)).read_text()
    log = (site.logs_dir / '{}-{}.log'.format(*build)).read_text()
    check(made == 'made by the mounted script' and f'running the file {MOUNTED}' in log, f'{made[:80]}: {log}')
    passed('the mounted script runs where a diskimage has NODEPOOL_BUILTIN_DIB_ANSIBLE: no')

    world.write_config('builder', [], [provider(cloud, name='cloud-a')], diskimages=[
        {'name': 'hanging', 'dib-cmd': f'{MOUNTED} hang.yaml', 'formats': ['raw']}], **directories)
    wait_for('hanging: a playbook', hanging, 120)
    first = hanging()
    builder.kill()
    builder = site.start(env=env, arguments=['--cleanup-interval', 1, '--retry-interval', 5], within=within)
    wait_for('gone: what the killed builder ran on the host', lambda: not set(first) & set(hanging()), 60)
    wait_for('hanging: the next playbook', hanging, 120)
    check(builder.stop() == 0, 'the builder did not end with status 0')
    check(not hanging(), 'what the stopped builder ran is still there')
    passed('what a playbook ran on the host ended with a builder that was killed, and with one that was stopped')

    world.write_config('builder', [], [provider(cloud, name='cloud-a')], **directories)
    builder = site.start(env=env, arguments=['--cleanup-interval', 1])
    wait_for('gone: all records of builds', lambda: not records.builds(site.client), 60)
    nothing_left(world, cloud)
    check(builder.stop() == 0, 'the builder did not end with status 0')
    check_quiet_locks(site.client)


def quiet_builds(site, images_in):
    """What failed stays to be seen until it is built anew: here it was."""
    def is_over():
        return all(record['state'] == 'ready' for record in records.builds(site.client).values())
    wait_for('over: the failed builds', is_over, 30)
    # Ansible's images have no manifest.
    for path in site.images_dir.glob('*.raw'):
        (path.with_suffix('.d')).mkdir(exist_ok=True)
    quiet([site], images_in)


SCENARIOS = (builder_ansible,)
