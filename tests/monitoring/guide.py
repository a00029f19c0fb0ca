"""The incident guide: its commands are run while the daemons run, its links lead somewhere."""
import re
import shlex
import subprocess

from harness import ROOT, binary

GUIDE = ROOT / 'docs/incidents.md'
# What stands after a command that cannot be run here, and why.
MARK = '# not tested here:'


def commands():
    """The lines of its blocks that are to be run."""
    blocks = re.findall(r'^```sh\n(.*?)^```$', GUIDE.read_text(), re.M | re.S)
    return sorted({line for block in blocks for line in block.splitlines() if line.strip() and MARK not in line})


def run(command, config, builder_config, **placeholders):
    """(status, output) of one command as it stands there, on the site's own names."""
    for name, value in placeholders.items():
        command = re.sub(rf'\b{name}\b', value, command)
    words = shlex.split(command)
    if words[0] == 'nodepool':
        # Build logs are where the builder is.
        words[:1] = [str(binary('nodepool')), '-c', str(builder_config if words[1] == 'build-log' else config)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout + done.stderr


def each_command_works(site):
    assert len(site.answers) > 10, site.answers
    for command, (status, output) in site.answers.items():
        assert status == 0 and output.strip(), f'{command}: status {status}: {output}'
    for command, what in (('curl -s http://LAUNCHER/pool-list', '"trouble"'),
                          ('nodepool dib-image-list', 'jammy'), ('nodepool request-list', 'Declin'),
                          ('curl -s http://LAUNCHER/ready', 'OK')):
        assert what in site.answers[command][1], f'{command} does not say {what}: {site.answers[command][1]}'


def each_subcommand_is_there():
    for word in sorted(set(re.findall(r'`?nodepool ([a-z][a-z-]+)', GUIDE.read_text()))):
        done = subprocess.run([binary('nodepool'), word, '--help'], capture_output=True)
        assert done.returncode == 0, f'nodepool {word}: {done.stderr.decode()}'


def each_link_leads_somewhere():
    from rules import anchors
    for document in (GUIDE, ROOT / 'deploy/monitoring/README.md'):
        for target in re.findall(r'\]\(([^)\s]+)\)', document.read_text()):
            if target.startswith('http'):
                continue
            path, _, anchor = target.partition('#')
            there = (document.parent / path).resolve() if path else document
            assert there.exists(), f'{document.name}: {target}'
            assert not anchor or anchor in anchors(there), f'{document.name}: {target}: there is no such section'


CASES = [each_subcommand_is_there, each_link_leads_somewhere]
CASES_ON_SITE = [each_command_works]
