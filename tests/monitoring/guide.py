"""The documents: what they say of our commands is true, their links lead somewhere, and the commands of all but
docs/install.md are run while the daemons run."""
import pathlib
import re
import shlex
import subprocess
import tempfile

from harness import ROOT, binary, documents

# Those whose commands another test runs: docs/install.md tests/deploy, the alerts' own one `rules`.
ELSEWHERE = [documents.INSTALL, ROOT / 'deploy/monitoring/README.md']
# What a command writes goes to a directory of the test.
WRITTEN_TO = '/var/backups/'


def commands():
    """Those that are to be run, each once."""
    found = [command for document in documents.documents() if document not in ELSEWHERE
             for command in documents.commands(document)]
    return sorted({command for command in found if documents.is_run(command)})


def run(command, config, builder_config, **placeholders):
    """(status, output) of one command as it stands there, on the site's own names; what it has written is output too."""
    for name, value in placeholders.items():
        command = re.sub(rf'\b{name}\b', value, command)
    with tempfile.TemporaryDirectory(prefix='nodepool-guide-') as directory:
        words = shlex.split(command.replace(WRITTEN_TO, f'{directory}/'))
        if pathlib.Path(words[0]).name == 'nodepool':
            # Build logs are where the builder is.
            words[:1] = [str(binary('nodepool')), '-c', str(builder_config if words[1] == 'build-log' else config)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
        written = ''.join(path.read_text() for path in pathlib.Path(directory).iterdir())
    return done.returncode, done.stdout + done.stderr + written


def each_command_works(site):
    assert len(site.answers) > 10, site.answers
    for command, (status, output) in site.answers.items():
        assert status == 0 and output.strip(), f'{command}: status {status}: {output}'
    for command, what in (('curl -s http://LAUNCHER/pool-list', '"trouble"'),
                          ('nodepool dib-image-list', 'jammy'), ('nodepool request-list', 'Declin'),
                          ('nodepool export-image-data /var/backups/nodepool-images.json', 'jammy'),
                          ('curl -s http://LAUNCHER/ready', 'OK')):
        assert what in site.answers[command][1], f'{command} does not say {what}: {site.answers[command][1]}'


def none(found):
    found = list(found)
    assert not found, '\n'.join(['', *found])


def each_command_of_a_document_is_run_or_says_why_not():
    none(documents.without_reason())


def each_command_that_is_mentioned_is_there():
    assert sum(1 for _ in documents.mentioned()) > 30
    none(documents.unknown())
    none(documents.unknown_targets())


def each_link_leads_somewhere():
    none(documents.broken_links())


CASES = [each_command_of_a_document_is_run_or_says_why_not, each_command_that_is_mentioned_is_there, each_link_leads_somewhere]
CASES_ON_SITE = [each_command_works]
